"""Where publishers send their events. Failures there do not reach the application."""

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
    """Wrap `function`: its exceptions are swallowed, and the first one is logged."""
    logged = False

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal logged
        try:
            return function(*args, **kwargs)
        except Exception:
            if not logged:
                logged = True
                log.exception("shm_metrics: an event is not published (further errors of this kind are suppressed)")
            return False

    return wrapped


def emitter(to: Any = None) -> Callable[[str, dict[str, Any]], Any]:
    """Return a callable of (event_name, payload) that passes events to `to`.

    to: a callable, an object with handle_event(), or None for the default backend at the time of the event.

    Raise InvalidMetricError; the returned callable raises nothing.
    """
    if to is None:
        return guarded(lambda event_name, payload: get_backend().handle_event(event_name, payload))
    take = getattr(to, "handle_event", to)
    if not callable(take):
        raise InvalidMetricError(f"events to {to!r}: give a backend, an EventRouter or a callable")
    return guarded(take)


def connect_all(pairs: Iterable[tuple[Any, Callable[..., Any]]], **only: Any) -> Callable[[], None]:
    """Connect each (signal, receiver) pair and keep the receivers alive; return a function that disconnects them.

    The signals of blinker, Django and Celery share this interface. only: `sender=`, to receive its signals only.
    """
    connected = tuple(pairs)
    for signal, receive in connected:
        signal.connect(receive, weak=False, **only)

    def disconnect() -> None:
        for signal, receive in connected:
            signal.disconnect(receive, **only)

    return disconnect
