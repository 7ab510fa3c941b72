"""One family in one backend of this process: its definition, its catalog place, the series this process has met."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from shm_metrics.errors import SegmentError
from shm_metrics.model.families import COUNTER, GAUGE, HISTOGRAM, INFO, SUMMARY, Exemplar, Family, LabelPairs
from shm_metrics.runtime.cached_property import cached_property
from shm_metrics.segment import catalog_records
from shm_metrics.segment.slots import slot_codes
from shm_metrics.writer.allocator import SeriesPlace
from shm_metrics.writer.writer import Writer

if TYPE_CHECKING:
    from shm_metrics.metrics.engine import Engine
    from shm_metrics.model.arrays import FloatArray
    from shm_metrics.reader.catalog_view import SeriesEntry

__all__ = ["FamilyHandle", "sample_names"]


def sample_names(family: Family) -> set[str]:
    """The names under which the family's samples appear, and its own."""
    endings = {
        COUNTER: ("", "_total", "_created"),
        HISTOGRAM: ("", "_bucket", "_sum", "_count", "_created"),
        SUMMARY: ("", "_sum", "_count", "_created"),
        INFO: ("", "_info"),
    }
    return {family.name + ending for ending in endings.get(family.type, ("",))}


class FamilyHandle:
    """labelnames: as declared, or None while only the get-or-create calls know the family. make: makes a series."""

    def __init__(
        self,
        backend: Engine,
        family: Family,
        labelnames: tuple[str, ...] | None,
        make: Callable[[FamilyHandle, LabelPairs], Any],
    ) -> None:
        self.backend = backend
        self.family = family
        self.labelnames = labelnames
        self._make = make
        self.series: dict[LabelPairs, Any] = {}

    @property
    def writer(self) -> Writer:
        return self.backend._writer

    @cached_property
    def bounds(self) -> memoryview[float]:
        """What divides the observations of every series: the upper bounds of the buckets, the last one +Inf."""
        return memoryview(array("d", self.family.bounds or (math.inf,)))

    def child(self, pairs: LabelPairs) -> Any:
        """The series with these labels, the same object each time."""
        found = self.series.get(pairs)
        if found is None:
            made = self._make(self, pairs)
            # An overflowed one is not kept: its labels are what there are too many of.
            found = made if made.overflowed else self.series.setdefault(pairs, made)
        return found

    def release(self, gone: Iterable[LabelPairs]) -> None:
        """Forget these series: they count in another backend from now on."""
        for pairs in gone:
            self.series.pop(pairs, None)
        self.backend.forget_series()

    # -- values ---------------------------------------------------------------------------------------------------

    def columns(self, pairs: LabelPairs) -> FloatArray:
        """What all workers counted in each slot of a series; the sums of a histogram are one, the last."""
        entry = self.backend._scraper.entry(self.family, pairs)
        if entry is None:
            from numpy import zeros

            return zeros(max(1, len(self.family.bounds)) + 1)
        return self.writer.reader.column_totals(self.family, entry.slot)

    def total(self, pairs: LabelPairs) -> float:
        """The value of a counter, gauge or enum over all workers."""
        family = self.family
        if family.type == COUNTER:
            return float(self.columns(pairs)[0])
        entry = self.backend._scraper.entry(family, pairs)
        if entry is None:
            return 0.0
        known = family if family.type == GAUGE else Family(family.name, GAUGE, mode="mostrecent")
        return self.writer.reader.gauge_value(known, entry.slot)

    def exemplar(self, pairs: LabelPairs, positions: range) -> Exemplar | None:
        """The newest exemplar at these positions among the slots of a series."""
        entry = self.backend._scraper.entry(self.family, pairs)
        if entry is None:
            return None
        return self.writer.reader.exemplar([entry.slot + position for position in positions], entry.slot)

    # -- removal --------------------------------------------------------------------------------------------------

    def remove(self, pairs: LabelPairs) -> None:
        """Hide one series, here and in every other process. Nothing happens when there is none."""
        self._remove([pairs])

    def remove_matching(self, wanted: Mapping[str, str]) -> None:
        """Hide every series that has all of these labels."""
        told = set(wanted.items())
        self._remove([pairs for pairs in self.labels() if told <= set(pairs)])

    def remove_unlike(self, labelnames: Iterable[str]) -> None:
        """Hide every series that has other labels than these, by name."""
        told = set(labelnames)
        self._remove([pairs for pairs in self.labels() if {label for label, _ in pairs} != told])

    def clear(self) -> None:
        """Hide all series, the overflow among them."""
        self._remove(self.labels())
        writer = self.writer
        overflow = writer.allocator.find_overflow(self.family)
        if overflow is not None:
            # Its slots stay the overflow's: it counts from 0, and shows again when there is something to show.
            writer.allocator.reset(overflow, time.time(), time.monotonic())

    def labels(self) -> list[LabelPairs]:
        """The label sets of all living series in the segment, whichever process made them."""
        return [entry.labels for entry in self._entries()]

    def _entries(self, wanted: Iterable[LabelPairs] | None = None) -> list[SeriesEntry]:
        """The series of this definition that are alive, or in use since they were removed; of these labels only.

        By the catalog itself, and not by its index: a killed worker may not have got as far as that.
        """
        catalog_view, key = self.writer.reader.refreshed(), catalog_records.family_key(self.family)
        allocator, slots = self.writer.allocator, len(slot_codes(self.family))
        found: list[SeriesEntry] = []
        for entry in (*catalog_view.families.values(), *catalog_view.older):
            if entry.family.name != self.family.name or catalog_records.family_key(entry.family) != key:
                continue
            if wanted is None:
                found += entry.series.values()
            elif self.family.type == INFO:
                labels = set(wanted)
                found += [series for series in entry.series.values() if series.labels in labels]
            else:
                known = (entry.series.get(catalog_records.series_key(entry.id, pairs)) for pairs in wanted)
                found += [series for series in known if series is not None]
        return [series for series in found if allocator.shows(series.slot, slots, series.hash)]

    def reset(self, pairs: LabelPairs) -> None:
        """Have one series count from 0, here and in every other process. Nothing happens when there is none."""
        writer = self.writer
        place = writer.place_of(self.family, pairs)
        if place is not None:
            writer.allocator.reset(place, time.time(), time.monotonic())

    def _remove(self, wanted: Iterable[LabelPairs]) -> None:
        gone, now, writer = set(wanted), time.monotonic(), self.writer
        if writer.closed:
            raise SegmentError(f"{writer.segment.place.path}: closed by this process; make another MetricsBackend")
        slots = len(slot_codes(self.family))
        for entry in self._entries(gone):
            writer.allocator.remove(SeriesPlace(entry.hash, entry.slot, slots), now)
        for pairs in gone:
            self.series.pop(pairs, None)
        self.backend.forget_series()
