"""Events from Django's signals.

    from shm_metrics.integrations import django_signals
    django_signals.connect_requests()                         # request.started, .completed, .failed
    django_signals.connect(order_shipped, "order.shipped")    # any signal

Each function returns one that disconnects again; call them once, for example in an AppConfig's ready().
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from time import perf_counter
from typing import Any

from shm_metrics.events.emitter import connect_all, emitter, guarded

__all__ = ["connect", "connect_requests"]


def connect(
    signal: Any, event_name: str, *, to: Any = None, sender: Any = None, payload: Callable[..., Any] = dict
) -> Callable[[], None]:
    """Turn each `signal.send(sender, **fields)` into an event of this name; return a function that disconnects again.

    to: a router, a backend or a callable, as for instrument(). sender: only its signals.
    payload: called with the fields, returns the event's payload.
    """
    emit = emitter(to)

    @guarded
    def receive(sender: Any, signal: Any, **fields: Any) -> None:
        emit(event_name, payload(**fields))

    return connect_all([(signal, receive)], sender=sender)


_request: ContextVar[dict[str, Any] | None] = ContextVar("shm_metrics_request", default=None)


def connect_requests(*, entity: str = "request", to: Any = None) -> Callable[[], None]:
    """Turn requests into events, under WSGI and ASGI; return a function that disconnects again.

    entity: the first part of the events' names. to: a router, a backend or a callable, as for instrument().

    The payload's `duration` is in seconds, until the response is closed; `status` is `success`, or `error` for a
    request whose view raised. Django's signals do not include the response, so a view that answers 404 succeeds, and so
    does one whose client went away.
    """
    from django.core.signals import got_request_exception, request_finished, request_started

    emit = emitter(to)
    heard: dict[Any, Callable[[], None]] = {}
    """ASGI handlers that have a receiver of their own, and what disconnects it."""

    @guarded
    def begin() -> None:
        emit(f"{entity}.started", {})
        _request.set({"began": perf_counter(), "failed": False})

    @guarded
    def started(sender: Any, scope: Any = None, **_: Any) -> None:
        if scope is None or not hasattr(request_started, "asend"):
            begin()
        elif sender not in heard:  # a subclass: from its next request on it has the other receiver
            begin()
            hear(sender)

    def started_in_the_task_of_the_request(sender: Any, **_: Any) -> Any:
        # asend() runs receivers in tasks and threads of their own, and what they set in their context ends with them.
        # Those that are async it calls in its own, which the rest of the request inherits; so this does it when called.
        begin()
        return _nothing()

    def hear(sender: Any) -> None:
        heard[sender] = connect_all([(request_started, started_in_the_task_of_the_request)], sender=sender)

    @guarded
    def failed(sender: Any, **_: Any) -> None:
        state = _request.get()
        if state is not None:
            state["failed"] = True

    @guarded
    def finished(sender: Any, **_: Any) -> None:
        state = _request.get()
        _request.set(None)
        how, status = ("failed", "error") if state is not None and state["failed"] else ("completed", "success")
        duration = None if state is None else perf_counter() - state["began"]
        emit(f"{entity}.{how}", {"duration": duration, "status": status})

    pairs = ((request_started, started), (got_request_exception, failed), (request_finished, finished))
    deafen = connect_all(pairs)
    if hasattr(request_started, "asend"):  # from Django 5.0 on; before, send() is called in the context of the request
        from asgiref.sync import markcoroutinefunction
        from django.core.handlers.asgi import ASGIHandler

        markcoroutinefunction(started_in_the_task_of_the_request)
        hear(ASGIHandler)

    def disconnect() -> None:
        for end in (deafen, *heard.values()):
            end()

    return disconnect


async def _nothing() -> None:
    pass
