"""Metrics and series through pickle: what arrives counts where the one that was sent does.

joblib, Dask and their like pickle a function of the main script with the globals that it uses, metrics among them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shm_metrics.metrics.default_backend import current_backend, default_at, follows_default
from shm_metrics.metrics.engine import Engine
from shm_metrics.metrics.family_handle import FamilyHandle
from shm_metrics.metrics.series import is_declared, public_class
from shm_metrics.model.families import Family, LabelPairs

__all__ = ["sent"]

# Field of a family -> what the constructors call it.
_OPTIONS = {"bounds": "buckets", "mode": "multiprocess_mode", "states": "states"}


def sent(series: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What `__reduce__` gives, of a declared metric or a series: a function, and its arguments."""
    handle: FamilyHandle = series._handle
    family = handle.family
    if not is_declared(series):
        where = _where(handle, handle.backend is current_backend())
        return _series, (family, handle.labelnames, series._pairs, where)
    options = {option: getattr(family, field) for field, option in _OPTIONS.items() if getattr(family, field)}
    told = (family.name, family.documentation, series._labelnames, "", "", family.unit)
    return _metric, (public_class(type(series)), told, options, _where(handle, follows_default(series)))


def _where(handle: FamilyHandle, default: bool) -> Any:
    """The backend of its own that it counts in; or of the default one its path, None where nobody else can join it."""
    backend = handle.backend
    if not default:
        return backend
    return None if backend.detached else backend.place.path


def _metric(cls: Any, told: tuple[Any, ...], options: dict[str, Any], where: Any) -> Any:
    if isinstance(where, Engine):
        return cls(*told, where, **options)
    default_at(where)
    return cls(*told, **options)


def _series(family: Family, labelnames: tuple[str, ...] | None, pairs: LabelPairs, where: Any) -> Any:
    backend = where if isinstance(where, Engine) else default_at(where)
    return backend.families.handle(family, labelnames, bool(pairs)).child(pairs)
