"""The types between reading and exposition: families, their series, and the values of one scan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from shm_metrics.model.arrays import FloatArray

__all__ = [
    "COUNTER",
    "EMPTY_INFO",
    "GAUGE",
    "HISTOGRAM",
    "INFO",
    "STATESET",
    "SUMMARY",
    "AnyFamily",
    "Exemplar",
    "Exemplars",
    "Family",
    "FamilySnapshot",
    "LabelPairs",
    "Sample",
    "SampleFamily",
    "SeriesLabels",
]

COUNTER = "counter"
GAUGE = "gauge"
HISTOGRAM = "histogram"
SUMMARY = "summary"
INFO = "info"
STATESET = "stateset"

LabelPairs: TypeAlias = tuple[tuple[str, str], ...]
"""The labels of one series: (name, value) pairs sorted by name."""

EMPTY_INFO: LabelPairs = (("", ""),)
"""The payload of an info without labels: its key must differ from that of a series without payload."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family as it was declared.

    name: without the `_total` of a counter and the `_info` of an info (as prometheus_client keeps it).
    type: one of counter, gauge, histogram, summary, info, stateset (the OpenMetrics names).
    bounds: a histogram's upper bounds, ascending, the last one +Inf.
    mode: a gauge's multiprocess mode.
    states: a stateset's states, in declared order.
    """

    name: str
    type: str
    documentation: str = ""
    unit: str = ""
    bounds: tuple[float, ...] = ()
    mode: str = ""
    states: tuple[str, ...] = ()


class SeriesLabels(tuple[LabelPairs, ...]):
    """The label sets of a family's series, in the order of its values.

    A reader hands out the same object while the set of shown series has not changed, so a renderer may keep
    the text it made for it in `cache` (a dict of the renderer's own, dropped with the object).
    """

    cache: dict[Any, Any]

    def __new__(cls, labels: Iterable[LabelPairs] = ()) -> SeriesLabels:
        self = super().__new__(cls, labels)
        self.cache = {}
        return self


class Exemplar(NamedTuple):
    """One event among those counted, such as the trace it was seen in. The same fields as prometheus_client's Exemplar.

    value: what was counted or observed; timestamp: Unix seconds.
    """

    labels: Mapping[str, str]
    value: float
    timestamp: float | None = None


Exemplars: TypeAlias = Mapping[tuple[int, int], Exemplar]
"""(index of the series, index of the bucket or 0) -> its exemplar; of counters and histograms, and few have one."""


@dataclass(frozen=True, slots=True)
class FamilySnapshot:
    """One family's values at one scan: n series.

    values: shape (n,) for counter, gauge, info (always 1.0) and summary (the counts);
        shape (n,) of state indexes for stateset;
        shape (n, k) for histogram: observations per bucket, *not* cumulative, k = len(family.bounds).
    sums: shape (n,), the sum of the observed values, for histogram and summary; None otherwise.
    created: shape (n,), Unix seconds at which each series was first asked for (or None).
    exemplars: None where there is none.

    In a snapshot that was asked for stamps, for what is set and not counted (gauge, info, stateset), else None:
    stamps: shape (n,), Unix seconds of the newest set that a value comes from; 0: never set.
    keys: an info's labels without its own pairs.
    """

    family: Family
    labels: SeriesLabels
    values: FloatArray
    sums: FloatArray | None = None
    created: FloatArray | None = None
    exemplars: Exemplars | None = None
    stamps: FloatArray | None = None
    keys: tuple[LabelPairs, ...] | None = None


class Sample(NamedTuple):
    """One exposed line. The same fields, in the same order, as prometheus_client's Sample."""

    name: str
    labels: Mapping[str, str]
    value: float
    timestamp: Any = None
    exemplar: Any = None
    native_histogram: Any = None


@dataclass(frozen=True, slots=True)
class SampleFamily:
    """A family given sample by sample: what custom collectors yield, process metrics and self-metrics.

    It has the attributes of prometheus_client's Metric (name, documentation, unit, type, samples), which
    therefore may stand wherever a SampleFamily may. Sample names are complete (`x_total`, `x_bucket`, ...).
    """

    name: str
    documentation: str
    type: str
    samples: Sequence[Sample]
    unit: str = ""

    def _restricted_metric(self, names: Iterable[str]) -> SampleFamily | None:
        """Return the samples of these names, or None; prometheus_client calls this for its `name[]` filter."""
        kept = [sample for sample in self.samples if sample.name in names]
        return replace(self, samples=kept) if kept else None


AnyFamily: TypeAlias = "FamilySnapshot | SampleFamily"
"""Anything the exposition renders; prometheus_client's Metric is accepted in place of a SampleFamily."""
