"""The default backend as the layers below it see it, and the declared metrics that follow it.

The one place that asks a module above: shm_metrics.default makes the backend when it is needed first.
"""

from __future__ import annotations

import itertools
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

__all__ = [
    "current_backend",
    "declared",
    "default_at",
    "follow_default",
    "follows_default",
    "get_backend",
]

declared: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
"""Metrics declared without a backend of their own, in order: they count in the default one, whichever that is."""

_numbers = itertools.count()


def get_backend() -> MetricsBackend:
    """Return the default backend; see shm_metrics.default.get_backend()."""
    from shm_metrics import default

    return default.get_backend()


def current_backend() -> MetricsBackend | None:
    """Return the default backend if there is one already."""
    from shm_metrics import default

    return default.current_backend()


def default_at(path: str | None) -> MetricsBackend:
    """Return the default backend, made at `path` if there is none; see shm_metrics.default.default_at()."""
    from shm_metrics import default

    return default.default_at(path)


def follow_default(metric: Any) -> None:
    """Attach a declared metric to every default backend to come, for as long as the metric is in use."""
    declared[next(_numbers)] = metric


def follows_default(metric: Any) -> bool:
    """Return whether a declared metric counts in the default backend, whichever that is."""
    return any(each is metric for each in list(declared.values()))
