"""Events from Django's signals.

    from shm_metrics.integrations import django_signals
    django_signals.connect_requests()                         # request.started, .completed, .failed
    django_signals.connect(order_shipped, "order.shipped")    # any signal

Each function gives one that disconnects again; call them once, for example in an AppConfig's ready().
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from time import perf_counter
from typing import Any

from shm_metrics.events.publishing import emitter, guarded

__all__ = ["connect", "connect_requests"]


def connect(
    signal: Any, event_name: str, *, to: Any = None, sender: Any = None, payload: Callable[..., Any] = dict
) -> Callable[[], None]:
    """Have each `signal.send(sender, **fields)` be an event of this name.

    payload: called with the fields, gives the event's payload. sender: only its signals. to: as instrument() has it.
    """
    emit = emitter(to)

    @guarded
    def receive(sender: Any, signal: Any, **fields: Any) -> None:
        emit(event_name, payload(**fields))

    signal.connect(receive, sender=sender, weak=False)
    return lambda: signal.disconnect(receive, sender=sender)


_request: ContextVar[dict[str, Any] | None] = ContextVar("shm_metrics_request", default=None)


def connect_requests(*, entity: str = "request", to: Any = None) -> Callable[[], None]:
    """Have requests be events, with the duration until the response is closed.

    status: `success`, or `error` for a request that failed: its view raised. Django's signals do not tell the response,
    so a view that answers 404 succeeded. Under ASGI the signals of a request may come in different contexts; then a
    request is completed without a duration, and one that failed is counted as completed.
    """
    from django.core.signals import got_request_exception, request_finished, request_started

    emit = emitter(to)

    @guarded
    def started(sender: Any, **_: Any) -> None:
        emit(f"{entity}.started", {})
        _request.set({"began": perf_counter(), "failed": False})

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
    for signal, receive in pairs:
        signal.connect(receive, weak=False)

    def disconnect() -> None:
        for signal, receive in pairs:
            signal.disconnect(receive)

    return disconnect
