"""Events from blinker's signals, and from Flask's, which are blinker's.

    from shm_metrics.integrations import blinker_signals
    blinker_signals.connect_flask(app)                        # request.started, .completed, .failed
    blinker_signals.connect(orders.signal("order.shipped"))   # any named signal is an event

Each function returns one that disconnects again. Importing this module needs neither package.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

from shm_metrics.errors import InvalidMetricError
from shm_metrics.events.emitter import connect_all, emitter, guarded

__all__ = ["connect", "connect_flask"]


def connect(
    signal: Any,
    event_name: str | None = None,
    *,
    to: Any = None,
    sender: Any = None,
    payload: Callable[..., Any] = dict,
    asynchronous: bool = False,
) -> Callable[[], None]:
    """Turn each `signal.send(sender, **fields)` into an event; return a function that disconnects again.

    event_name: default: the signal's own name. to: a router, a backend or a callable, as for instrument().
    sender: only its signals. payload: called with the fields, returns the event's payload.
    asynchronous: for a signal that is sent by send_async(), which accepts async receivers only; send() accepts others.

    Raises InvalidMetricError for a signal without a name if `event_name` is not given.
    """
    name = getattr(signal, "name", None) if event_name is None else event_name
    if not isinstance(name, str):
        raise InvalidMetricError(f"events of {signal!r}: it has no name; say what they are named")
    emit = emitter(to)

    @guarded
    def receive(sender: Any, **fields: Any) -> None:
        emit(name, payload(**fields))

    async def receive_async(sender: Any, **fields: Any) -> None:
        receive(sender, **fields)

    receiver = receive_async if asynchronous else receive
    only = {} if sender is None else {"sender": sender}
    return connect_all([(signal, receiver)], **only)


def connect_flask(app: Any, *, entity: str = "request", to: Any = None) -> Callable[[], None]:
    """Turn the requests of a Flask application into events; return a function that disconnects again.

    entity: the first part of the events' names. to: a router, a backend or a callable, as for instrument().

    The payload's `duration` is in seconds, up to the end of the request's context; `status` is the response's,
    `handler_class` the endpoint, `namespace` its blueprint. A request whose view raised, so that Flask answers 500 or
    the exception propagates, has failed; any other is completed, whatever its status.
    """
    import flask

    emit = emitter(to)
    states: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
    """By request, and not in `g`: a request within another, or within an application's context, has the same `g`."""

    def this_request() -> Any:
        proxy: Any = flask.request
        return proxy._get_current_object()

    def state_of_request() -> dict[str, Any] | None:
        return states.get(this_request()) if flask.has_request_context() else None

    def fields() -> dict[str, Any]:
        return {"handler_class": flask.request.endpoint, "namespace": flask.request.blueprint}

    @guarded
    def started(sender: Any, **_: Any) -> None:
        emit(f"{entity}.started", fields())
        states[this_request()] = {"began": perf_counter()}

    @guarded
    def finished(sender: Any, response: Any, **_: Any) -> None:
        state = state_of_request()
        if state is not None:
            state["status"] = str(response.status_code)

    @guarded
    def failed(sender: Any, **_: Any) -> None:
        state = state_of_request()
        if state is not None:
            state["failed"] = True

    @guarded
    def torn_down(sender: Any, exc: BaseException | None = None, **_: Any) -> None:
        state = state_of_request()
        if state is None:
            return
        del states[this_request()]
        how = "failed" if state.get("failed") or exc is not None else "completed"
        status = state.get("status", "500" if how == "failed" else None)
        emit(f"{entity}.{how}", {"duration": perf_counter() - state["began"], "status": status, **fields()})

    pairs = (
        (flask.request_started, started),
        (flask.request_finished, finished),
        (flask.got_request_exception, failed),
        (flask.request_tearing_down, torn_down),
    )
    return connect_all(pairs, sender=app)
