"""What a user declares, checked and made into a Family.

Lives here: prometheus_client's naming rules and the checks of each type. May not: touch a backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shm_metrics.buckets import DEFAULT_BUCKETS, check_buckets
from shm_metrics.errors import InvalidMetricError
from shm_metrics.families import COUNTER, GAUGE, HISTOGRAM, INFO, STATESET, Family
from shm_metrics.gauge_modes import DEFAULT_MODE, gauge_mode
from shm_metrics.labels import check_metric_name

__all__ = ["define", "full_name"]

MAX_DOCUMENTATION = 8_192


def full_name(type_: str, name: str, namespace: str = "", subsystem: str = "", unit: str = "") -> str:
    """`namespace_subsystem_name_unit`, without the `_total` of a counter and the `_info` of an info.

    Raises InvalidMetricError.
    """
    if not isinstance(name, str) or not name:
        raise InvalidMetricError(f"metric name {name!r}: give text")
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
    buckets: Iterable[float] | None = None,
    multiprocess_mode: str = DEFAULT_MODE,
    states: Sequence[str] = (),
) -> Family:
    """The definition. Raises InvalidMetricError naming what is wrong."""
    full = full_name(type_, name, namespace, subsystem, unit)
    if not isinstance(documentation, str):
        raise InvalidMetricError(f"{full}: documentation {documentation!r}: give text")
    if len(documentation) > MAX_DOCUMENTATION:
        raise InvalidMetricError(f"{full}: documentation of {len(documentation)} characters; at most {MAX_DOCUMENTATION}")
    bounds: tuple[float, ...] = ()
    mode = ""
    told: tuple[str, ...] = ()
    if type_ == HISTOGRAM:
        bounds = check_buckets(DEFAULT_BUCKETS if buckets is None else buckets, full)
    elif type_ == GAUGE:
        mode = gauge_mode(multiprocess_mode).name
    elif type_ == STATESET:
        told = tuple(states)
        if isinstance(states, str) or not told or not all(isinstance(state, str) for state in told):
            raise InvalidMetricError(f"{full}: states {states!r}: give a list of at least one text")
        if len(set(told)) != len(told):
            raise InvalidMetricError(f"{full}: states {told!r}: one of them comes twice")
    return Family(full, type_, documentation, unit, bounds, mode, told)
