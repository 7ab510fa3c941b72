"""Where publishers send their events, so that whatever fails there does not reach the application."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from typing import Any

from shm_metrics.errors import InvalidMetricError
from shm_metrics.metrics.default_backend import get_backend

__all__ = ["connect_all", "emitter", "guarded"]

log = logging.getLogger("shm_metrics")


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose exceptions are logged, the first of them, and go no further."""
    told = False

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal told
        try:
            return function(*args, **kwargs)
        except Exception:
            if not told:
                told = True
                log.exception("shm_metrics: an event is not published (others like it will not be told)")
            return False

    return wrapped


def emitter(to: Any = None) -> Callable[[str, dict[str, Any]], Any]:
    """What takes an event: `to` itself, its handle_event(), or the default backend's at the time of the event.

    Raises InvalidMetricError; what it gives raises nothing.
    """
    if to is None:
        return guarded(lambda event_name, payload: get_backend().handle_event(event_name, payload))
    take = getattr(to, "handle_event", to)
    if not callable(take):
        raise InvalidMetricError(f"events to {to!r}: give a backend, an EventRouter or a callable")
    return guarded(take)


def connect_all(pairs: Iterable[tuple[Any, Callable[..., Any]]], **only: Any) -> Callable[[], None]:
    """Connect each signal of (signal, receiver), and keep the receiver alive; gives what disconnects them again.

    Signals of blinker, Django and Celery have these two methods in common. only: `sender=`, whose signals alone.
    """
    connected = tuple(pairs)
    for signal, receive in connected:
        signal.connect(receive, weak=False, **only)

    def disconnect() -> None:
        for signal, receive in connected:
            signal.disconnect(receive, **only)

    return disconnect
