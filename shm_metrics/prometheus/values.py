"""The replacement of prometheus_client's ValueClass: one number of a series.

A histogram is one series and many of these. A foreign metric class that updates them one by one updates bucket and sum
in two steps; observe() updates both in one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from shm_metrics.model.families import COUNTER, GAUGE, HISTOGRAM, SUMMARY, Family, LabelPairs
from shm_metrics.model.gauge_modes import MODES, SHARED
from shm_metrics.prometheus.binding import KINDS, gauge_mode, series_of
from shm_metrics.prometheus.workers import IdentifiedWorker, Worker

__all__ = ["SegmentValue", "of_all_workers", "value_class"]

_total: ContextVar[bool] = ContextVar("shm_metrics_total", default=False)


@contextmanager
def of_all_workers() -> Iterator[None]:
    """Make get() return totals over all workers, for a class that makes its samples from its values."""
    token = _total.set(True)
    try:
        yield
    finally:
        _total.reset(token)


def value_class(worker: Worker | IdentifiedWorker) -> type[SegmentValue]:
    """Return a class with the constructor of ValueClass whose values count for `worker`."""
    return type("SegmentValue", (SegmentValue,), {"__slots__": (), "worker": worker})


class SegmentValue:
    """One number of a series; takes the arguments of prometheus_client's values.

    It takes no place in the segment before its first update: its metric may still be refused.
    """

    __slots__ = ("_labels", "_le", "_sample", "family")
    _multiprocess = True
    worker: Worker | IdentifiedWorker

    def __init__(
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Any,
        labelvalues: Any,
        help_text: str,
        multiprocess_mode: str = "",
        **_: Any,
    ) -> None:
        labels = dict(zip(labelnames, labelvalues, strict=False))
        self._le = float(labels.pop("le")) if typ == HISTOGRAM and "le" in labels else None
        self._labels: LabelPairs = tuple(sorted(labels.items()))
        self._sample = name.removeprefix(metric_name)
        self.family = self._family(typ, metric_name, name, help_text, multiprocess_mode)
        """A metric that it is made for knows more of it (buckets, unit), and sets that here."""

    @staticmethod
    def _family(typ: str, metric_name: str, name: str, help_text: str, mode: str) -> Family:
        """As prometheus_client's multiprocess mode does it, values of a type that it does not know are added up."""
        if typ not in KINDS:
            return Family(name, GAUGE, help_text, mode="sum")
        return Family(metric_name, typ, help_text, mode=gauge_mode(mode) if typ == GAUGE else "")

    @property
    def series(self) -> Any:
        """The series this is a number of."""
        return series_of(self.worker.backend, self.family, self._labels)

    def _cell(self, series: Any) -> tuple[Any, int]:
        """(row, slot of this number)."""
        row, slot = series.place()
        family = series.handle.family
        if family.type == COUNTER:
            return row, slot
        if family.type == GAUGE:
            return row, slot + 1
        if self._sample == "_sum":
            return row, _sums(series)[0]
        return row, slot + 1 + (0 if self._le is None else family.bounds.index(self._le))

    def inc(self, amount: float) -> None:
        """Add `amount` to this number."""
        series = self.series
        if series.handle.family.type in (COUNTER, GAUGE):
            series.inc(amount)
        else:
            self._add(series, amount)

    def _add(self, series: Any, amount: float) -> None:
        row, slot = self._cell(series)
        counts = series.handle.family.type in (HISTOGRAM, SUMMARY) and self._sample != "_sum"
        if counts and int(amount) & 1:
            # The count decides which of the two sums counts: the one that comes to count must hold the sum.
            now, then = _sums(series)
            row.add(then, row.read(now) - row.read(then))
        row.add(slot, float(amount))

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Make this worker's number `value`; of a gauge, by its mode."""
        series = self.series
        if series.handle.family.type == GAUGE:
            series.set(value)
        else:
            row, slot = self._cell(series)
            self._add(series, value - row.read(slot))

    def get(self) -> float:
        """What this worker's row holds, which goes on from what dead workers counted in it; a shared gauge's value."""
        series = self.series
        family = series.handle.family
        if family.mode == SHARED or (_total.get() and _adds_up(family)):
            return float(self._of_all(series, family))
        row, slot = self._cell(series)
        return float(row.read(slot))

    def _of_all(self, series: Any, family: Family) -> float:
        if family.type in (COUNTER, GAUGE):
            return float(series.value)
        if self._sample == "_sum":
            return float(series.sum)
        columns = series.handle.columns(series.pairs)
        return float(columns[0 if self._le is None else family.bounds.index(self._le)])

    def set_exemplar(self, exemplar: Any) -> None:
        """Keep prometheus_client's Exemplar with this number."""
        self.series.keep_exemplar(exemplar.labels, exemplar.value, exemplar.timestamp, bucket=self._bucket())

    def get_exemplar(self) -> Any:
        """The newest one of all workers, or None."""
        return self.series.exemplar(bucket=self._bucket())

    def _bucket(self) -> int | None:
        return None if self._le is None else self.series.handle.family.bounds.index(self._le)


def _adds_up(family: Family) -> bool:
    """Whether there is one number for all workers; not of a gauge with a series for each."""
    return family.type != GAUGE or MODES[family.mode].combine != "each"


def _sums(series: Any) -> tuple[int, int]:
    """The slot of the sum that counts, and that of the other one."""
    row, slot = series.place()
    first = slot + 1 + max(1, len(series.handle.family.bounds))
    odd = int(sum(row.read(bucket) for bucket in range(slot + 1, first))) & 1
    return first + odd, first + 1 - odd
