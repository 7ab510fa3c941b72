"""A prometheus_client metric and its series in the segment.

Lives here: what family a metric is, its series, and carrying over what was counted before. May not: replace anything.

A metric that can be counted (one without labels, or a child) holds its family in `_shm_family`, decided once, and its
series in `_shm_series`, where the methods that stand in its class find it.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from shm_metrics.backend import MetricsBackend
from shm_metrics.cells import build
from shm_metrics.errors import MetricConflictError
from shm_metrics.families import COUNTER, GAUGE, HISTOGRAM, STATESET, SUMMARY, Family, LabelPairs
from shm_metrics.gauge_modes import SHARED
from shm_metrics.process.procfs import TICKS_PER_SECOND, own_start_ticks

__all__ = [
    "FAMILY",
    "SERIES",
    "Carried",
    "begun_by_another",
    "bind",
    "carry",
    "counted",
    "family_of",
    "pairs_of",
    "series_of",
]

log = logging.getLogger("shm_metrics")

SERIES = "_shm_series"
FAMILY = "_shm_family"

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
    mode = ""
    if kind == GAUGE:
        mode = metric._multiprocess_mode
        if mode == "all" and not any(name in os.environ for name in MULTIPROCESS_VARIABLES):
            mode = SHARED
    return Family(
        metric._name,
        kind,
        metric._documentation,
        metric._unit,
        tuple(metric._upper_bounds) if kind == HISTOGRAM else (),
        mode,
        tuple(metric._states) if kind == STATESET else (),
    )


def pairs_of(metric: Any) -> LabelPairs:
    """The labels of a child, sorted by name; none for a metric without labels."""
    return tuple(sorted(zip(metric._labelnames, metric._labelvalues, strict=True))) if metric._labelvalues else ()


def series_of(backend: MetricsBackend, family: Family, pairs: LabelPairs, labelnames: Any = None) -> Any:
    """The series in `backend`. Raises MetricConflictError when this process has the name for something else."""
    return backend.families.handle(family, labelnames, bool(pairs)).child(pairs)


def bind(metric: Any, backend: MetricsBackend) -> Any:
    """Have a metric count in its series; the series, or None when the name is taken in this process."""
    try:
        series = series_of(backend, metric._shm_family, pairs_of(metric), tuple(metric._labelnames))
    except MetricConflictError as error:
        _tell_conflict(metric, error)
        return None
    setattr(metric, SERIES, series)
    return series


_told: set[str] = set()


def _tell_conflict(metric: Any, error: MetricConflictError) -> None:
    if metric._name not in _told:
        _told.add(metric._name)
        log.error(
            "shm_metrics: %s; this second %s counts for its own process only, and pages of all workers do not show it",
            error,
            metric._type,
        )


# -- what was counted before ------------------------------------------------------------------------------------------


def counted(metric: Any) -> Carried:
    """What prometheus_client's own values of a metric hold."""
    kind = metric._type
    if kind in (COUNTER, GAUGE):
        return metric._value.get()
    if kind == SUMMARY:
        return [metric._count.get()], metric._sum.get()
    if kind == HISTOGRAM:
        return [bucket.get() for bucket in metric._buckets], metric._sum.get()
    return dict(metric._value) if kind == "info" else metric._value


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
    """Through private memory, from which a cell moves in one go that no reader sees half of."""
    cell = build.HistogramCell()
    cell.divide(series._handle.bounds)
    private = build.private_row(len(buckets) + 3)
    cell.bind(private, 0)
    for position, n in enumerate(buckets, 1):
        private.add(position, n)
    private.add(len(buckets) + 1 + (int(sum(buckets)) & 1), total)
    cell.move(*series.place())


def begun_by_another(metrics: list[Any]) -> bool:
    """Whether metrics are older than this process: it was forked from one that had them, and their counts are its.

    prometheus_client notes the time of birth of all but gauges, infos and enums.
    """
    born = [metric._created for metric in metrics if hasattr(metric, "_created")]
    ticks = own_start_ticks()
    if not born or not ticks:
        return False
    started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / TICKS_PER_SECOND
    return bool(min(born) < started + _START_MARGIN_SECONDS)
