"""Check a user's declaration and make a Family of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shm_metrics.errors import InvalidMetricError
from shm_metrics.model.buckets import DEFAULT_BUCKETS, check_buckets
from shm_metrics.model.families import COUNTER, GAUGE, HISTOGRAM, INFO, STATESET, Family
from shm_metrics.model.gauge_modes import DEFAULT_MODE, gauge_mode
from shm_metrics.model.labels import check_metric_name, is_unicode

__all__ = ["define", "full_name"]

MAX_DOCUMENTATION = 8_192

# What each type may be given beside its name; an option that does nothing would be a trap.
_COMMON = ("name", "documentation", "labelnames", "namespace", "subsystem", "unit", "registry")
_OPTIONS: dict[str, tuple[str, ...]] = {HISTOGRAM: ("buckets",), GAUGE: ("multiprocess_mode",), STATESET: ("states",)}


def full_name(type_: str, name: str, namespace: str = "", subsystem: str = "", unit: str = "") -> str:
    """Return `namespace_subsystem_name_unit`, without the `_total` of a counter and the `_info` of an info.

    Raise InvalidMetricError.
    """
    if not isinstance(name, str) or not name:
        raise InvalidMetricError(f"metric name {name!r}: give text")
    for what, part in (("namespace", namespace), ("subsystem", subsystem), ("unit", unit)):
        if not isinstance(part, str):
            raise InvalidMetricError(f"metric {name}: {what} {part!r}: give text")
    full = "_".join(part for part in (namespace, subsystem, name) if part)
    for ending, owner in (("_total", COUNTER), ("_info", INFO)):
        if type_ == owner and full.endswith(ending):
            full = full[: -len(ending)]
    if unit:
        if type_ in (INFO, STATESET):
            raise InvalidMetricError(f"{full}: unit {unit!r}: an {type_} has no unit")
        if not full.endswith("_" + unit):
            full += "_" + unit
    return check_metric_name(full)


def define(
    type_: str,
    name: str,
    documentation: str = "",
    *,
    namespace: str = "",
    subsystem: str = "",
    unit: str = "",
    **options: Any,
) -> Family:
    """Return the definition. options: `buckets` of a histogram, `multiprocess_mode` of a gauge, `states` of an enum.

    Raise InvalidMetricError naming what is wrong, and TypeError for an option that the type does not have.
    """
    for option in options:
        if option not in _OPTIONS.get(type_, ()):
            takes = ", ".join((*_COMMON, *_OPTIONS.get(type_, ())))
            raise TypeError(f"{type_} {name}: there is no argument {option!r}; there are {takes}")
    full = full_name(type_, name, namespace, subsystem, unit)
    if not isinstance(documentation, str) or not is_unicode(documentation):
        raise InvalidMetricError(f"{full}: documentation {documentation!r}: give text that can be UTF-8")
    if len(documentation) > MAX_DOCUMENTATION:
        raise InvalidMetricError(
            f"{full}: documentation of {len(documentation)} characters; at most {MAX_DOCUMENTATION}"
        )
    bounds: tuple[float, ...] = ()
    mode = ""
    states: tuple[str, ...] = ()
    if type_ == HISTOGRAM:
        buckets = options.get("buckets")
        bounds = check_buckets(DEFAULT_BUCKETS if buckets is None else buckets, full)
    elif type_ == GAUGE:
        mode = gauge_mode(options.get("multiprocess_mode", DEFAULT_MODE)).name
    elif type_ == STATESET:
        states = _check_states(options.get("states", ()), full)
    return Family(full, type_, documentation, unit, bounds, mode, states)


def _check_states(states: Any, full: str) -> tuple[str, ...]:
    checked = () if isinstance(states, str) or not isinstance(states, Iterable) else tuple(states)
    if not checked or not all(isinstance(state, str) and is_unicode(state) for state in checked):
        raise InvalidMetricError(f"{full}: states {states!r}: give a list of at least one text")
    if len(set(checked)) != len(checked):
        raise InvalidMetricError(f"{full}: states {checked!r}: one of them comes twice")
    return checked
