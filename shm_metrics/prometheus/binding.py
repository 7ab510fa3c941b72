"""A prometheus_client metric and its series in the segment.

A metric holds its family in `_shm_family`, decided once. One that can be counted (without labels, or a child) holds its
series in `_shm_series`, where the methods that stand in its class find it.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import MethodType
from typing import Any

from shm_metrics.backend import MetricsBackend
from shm_metrics.errors import InvalidMetricError, MetricConflictError, MetricsError
from shm_metrics.metrics.family_handle import FamilyHandle
from shm_metrics.model.declarations import MAX_DOCUMENTATION
from shm_metrics.model.families import COUNTER, GAUGE, HISTOGRAM, INFO, STATESET, SUMMARY, Family, LabelPairs
from shm_metrics.model.gauge_modes import SHARED
from shm_metrics.model.labels import is_unicode
from shm_metrics.native.implementation import cells
from shm_metrics.runtime.log_once import LogOnce
from shm_metrics.runtime.procfs import TICKS_PER_SECOND, own_start_ticks

__all__ = [
    "FAMILY",
    "KINDS",
    "SERIES",
    "Carried",
    "begun_by_another",
    "bind",
    "carry",
    "counted",
    "counted_since",
    "declares",
    "family_of",
    "function_of",
    "gauge_mode",
    "keep_function",
    "log_left_out",
    "pairs_of",
    "remember",
    "series_of",
]

log = logging.getLogger("shm_metrics")

SERIES = "_shm_series"
FAMILY = "_shm_family"
_FUNCTION = "_child_samples"  # in an instance, where set_function() of prometheus_client puts it
_TAKEN_OUT = "_shm_taken_out"

KINDS = (COUNTER, GAUGE, HISTOGRAM, SUMMARY, INFO, STATESET)
"""The types that a segment keeps. Foreign metric classes may have others."""

MULTIPROCESS_VARIABLES = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")

# Between a metric's birth and the fork of the process that has it now; the kernel counts starts in hundredths.
_START_MARGIN_SECONDS = 0.02

Carried = Any
"""What a metric counted: a number, or a histogram's numbers per bucket and its sum."""


def family_of(metric: Any) -> Family:
    """The family that a prometheus_client metric declares.

    Its default gauge mode, `all`, means something in multiprocess mode only: without PROMETHEUS_MULTIPROC_DIR the gauge
    is one value, as it is in one process.
    """
    kind: str = metric._type
    mode = gauge_mode(metric._multiprocess_mode) if kind == GAUGE else ""
    return Family(
        metric._name,
        kind,
        _documentation_of(metric),
        metric._unit,
        tuple(metric._upper_bounds) if kind == HISTOGRAM else (),
        mode,
        tuple(metric._states) if kind == STATESET else (),
    )


def gauge_mode(declared: str) -> str:
    """Return the mode of a gauge from the declared one, which may be "" for a value that was made by hand."""
    mode = declared or "all"
    return SHARED if mode == "all" and not any(name in os.environ for name in MULTIPROCESS_VARIABLES) else mode


def _documentation_of(metric: Any) -> str:
    """Return the documentation, cut to what a segment keeps.

    prometheus_client accepts any object until a page is rendered: a lazy translation, the text of a file.
    """
    text = str(metric._documentation)[:MAX_DOCUMENTATION]
    return text if is_unicode(text) else text.encode("utf-8", "backslashreplace").decode()


def pairs_of(metric: Any) -> LabelPairs:
    """Return the labels of a child, sorted by name; () for a metric without labels."""
    return tuple(sorted(zip(metric._labelnames, metric._labelvalues, strict=True))) if metric._labelvalues else ()


def series_of(backend: MetricsBackend, family: Family, pairs: LabelPairs) -> Any:
    """Return the series in `backend`. Raise MetricConflictError if the name has another definition in this process."""
    return backend.families.handle(family, None, bool(pairs)).child(pairs)


def declares(metric: Any, handle: FamilyHandle) -> bool:
    """Whether a metric has the definition and the labels of a family."""
    family = vars(metric).get(FAMILY)
    if family is None or replace(family, documentation=handle.family.documentation) != handle.family:
        return False
    return handle.labelnames is None or set(handle.labelnames) == set(metric._labelnames)


def bind(metric: Any, backend: MetricsBackend, handle_for: Callable[..., FamilyHandle]) -> Any:
    """Make a metric count in its series and return the series; return None, and log it, if it cannot have one.

    The name may be taken in this process, or the labels may exceed the limits of a segment.

    handle_for: returns the handle of the family; takes `backend` and the arguments of Registry.handle.
    """
    try:
        pairs = pairs_of(metric)
        series = handle_for(backend, metric._shm_family, tuple(metric._labelnames), bool(pairs)).child(pairs)
    except (MetricConflictError, InvalidMetricError) as error:
        log_left_out(metric, error)
        return None
    setattr(metric, SERIES, series)
    return series


_log_once = LogOnce(log)


def log_left_out(metric: Any, error: MetricsError) -> None:
    """Say, once for each name, that the metric counts for its own process only."""
    _log_once.error(
        metric._name,
        "shm_metrics: %s; this %s counts for its own process only, and pages of all workers do not show it",
        error,
        metric._type,
    )


# -- what was counted before ------------------------------------------------------------------------------------------


def counted(metric: Any) -> Carried:
    """Return what prometheus_client's own values of a metric hold."""
    kind = metric._type
    if kind in (COUNTER, GAUGE):
        return metric._value.get()
    if kind == SUMMARY:
        return [metric._count.get()], metric._sum.get()
    if kind == HISTOGRAM:
        return [bucket.get() for bucket in metric._buckets], metric._sum.get()
    return dict(metric._value) if kind == "info" else metric._value


def remember(metric: Any, instance_id: str, carried: Carried) -> None:
    """Note what a metric takes out of a segment, which keeps the same totals."""
    setattr(metric, _TAKEN_OUT, (instance_id, carried))


def counted_since(metric: Any, instance_id: str) -> Carried:
    """Return what a metric counted that the segment does not have: all, less what was taken out of that segment."""
    now = counted(metric)
    segment, then = vars(metric).pop(_TAKEN_OUT, ("", None))
    if segment != instance_id:
        return now
    kind = metric._type
    if kind == GAUGE:
        return 0.0 if now == then else now
    if kind == COUNTER:
        return now - then if now >= then else now  # less: it was reset
    (buckets, total), (buckets_then, total_then) = now, then
    return [n - m for n, m in zip(buckets, buckets_then, strict=True)], total - total_then


def function_of(metric: Any) -> Callable[[], float] | None:
    """Return the function that set_function() of prometheus_client gave the gauge, or None."""
    bound = vars(metric).get(_FUNCTION) if metric._type == GAUGE else None
    if not isinstance(bound, MethodType):
        return None
    samples, gauge = bound.__func__, weakref.ref(metric)  # the series has the function, and must not keep the gauge
    return lambda: float(samples(gauge())[0].value)


def keep_function(metric: Any, series: Any, set_function: Callable[..., None]) -> None:
    """Make a gauge that leaves its segment keep its function."""
    function = series.handle.backend.functions.get(series)
    if function is not None and function_of(metric) is None:
        set_function(metric, function)


def carry(metric: Any, series: Any, before: Carried) -> None:
    """Add what was counted before to a metric's series."""
    kind = metric._type
    if kind == COUNTER:
        if before:
            series.inc(before)
    elif kind == GAUGE:
        if before:
            series.set(before)
    elif kind in (HISTOGRAM, SUMMARY):
        if any(before[0]):
            _carry_observations(series, *before)
    elif before:  # a state that is not the first one, or something that was said
        if kind == STATESET:
            series.set(float(before))
        else:
            series.info(before)


def _carry_observations(series: Any, buckets: list[float], total: float) -> None:
    """Through private memory, from which a cell moves bucket by bucket, each of them whole."""
    cell = cells.HistogramCell()
    cell.set_bounds(series.handle.bounds)
    private = cells.private_row(len(buckets) + 3)
    cell.bind(private, 0)
    for position, n in enumerate(buckets, 1):
        private.add(position, n)
    private.add(len(buckets) + 1 + (int(sum(buckets)) & 1), total)
    cell.move(*series.place())


def begun_by_another(metrics: list[Any]) -> bool:
    """Whether metrics are older than this process: its parent made them and reports their counts.

    prometheus_client records the creation time of all but gauges, infos and enums.
    """
    born = [metric._created for metric in metrics if hasattr(metric, "_created")]
    ticks = own_start_ticks()
    if not born or not ticks:
        return False
    started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / TICKS_PER_SECOND
    return bool(min(born) < started + _START_MARGIN_SECONDS)
