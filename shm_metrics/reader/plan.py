"""The read plan: the shown families of a catalog view, grouped for reading by whole columns."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter

import numpy as np

from shm_metrics.model.arrays import BoolArray, FloatArray, IntArray, UnsignedArray
from shm_metrics.model.families import (
    COUNTER,
    EMPTY_INFO,
    GAUGE,
    HISTOGRAM,
    SUMMARY,
    Exemplar,
    Exemplars,
    Family,
    LabelPairs,
    SeriesLabels,
)
from shm_metrics.model.family_run import FamilyRun, RunFamilies
from shm_metrics.model.gauge_modes import MODES, GaugeMode
from shm_metrics.model.labels import OVERFLOW_LABELS, OWN_OVERFLOW_LABELS
from shm_metrics.model.line_shape import line_shape
from shm_metrics.reader.catalog_view import CatalogView, FamilyEntry, SeriesEntry
from shm_metrics.reader.seqlock import SeqlockGroup, gauge_group, histogram_group
from shm_metrics.runtime.cached_property import cached_property
from shm_metrics.segment import catalog_records
from shm_metrics.segment.exemplar_records import Entry
from shm_metrics.segment.slot_table import SlotTable

__all__ = ["FamilyPlan", "Group", "ReadPlan"]


@dataclass(eq=False)
class FamilyPlan:
    """One family's series."""

    family: Family
    entries: list[SeriesEntry]
    labels: SeriesLabels
    _shown: tuple[bytes, SeriesLabels] = (b"", SeriesLabels())

    def labels_of(self, mask: BoolArray) -> SeriesLabels:
        """Return the labels of the series that are shown now; the same object as long as they are the same ones."""
        if mask.all():
            return self.labels
        key = mask.tobytes()
        if key != self._shown[0]:
            self._shown = key, SeriesLabels(pair for pair, show in zip(self.labels, mask, strict=True) if show)
        return self._shown[1]


@dataclass(eq=False)
class Group:
    """Families that are read in one go and shown as one run: they have as many slots and as many lines a series.

    slots, created, born: shape (n,), over all series of all families.
    generation: shape (n,); a row counts only where it has followed this removal.
    hideable: shape (n,); removed series and overflows, which show only when there is something to show.
    """

    family: Family
    plans: list[FamilyPlan] = field(default_factory=list)
    _run: tuple[bytes, RunFamilies] | None = None

    def arrange(self, table: SlotTable) -> None:
        """Make the arrays, after all families were added; leave out series whose slots were reused."""
        entries = [entry for plan in self.plans for entry in plan.entries]
        states = table.states([entry.slot for entry in entries], [entry.hash for entry in entries])
        overflow = np.array([entry.overflow for entry in entries], np.bool_)
        self.slots: IntArray = np.array([entry.slot for entry in entries], np.intp)
        self.created: FloatArray = states.created
        self.born: FloatArray = states.born
        self.hideable: BoolArray = overflow | states.removed
        self.generation: UnsignedArray = states.generation
        self.seqlock_group: SeqlockGroup | None = None
        if self.family.type in (HISTOGRAM, SUMMARY):
            self.seqlock_group = histogram_group(self.slots, max(1, len(self.family.bounds)))
        elif self.family.type != COUNTER:
            self.seqlock_group = gauge_group(self.slots, self.mode.slots)

    @property
    def mode(self) -> GaugeMode:
        return MODES[self.family.mode if self.family.type == GAUGE else "mostrecent"]

    def run(
        self,
        mask: BoolArray,
        values: FloatArray,
        sums: FloatArray | None = None,
        exemplars: Exemplars | None = None,
    ) -> FamilyRun:
        """Return the series in `mask`, as one run; its families are the same object while the mask is the same."""
        key = mask.tobytes()
        if self._run is None or self._run[0] != key:
            start, families = 0, []
            for plan in self.plans:
                stop = start + len(plan.entries)
                families.append((plan.family, plan.labels_of(mask[start:stop])))
                start = stop
            self._run = key, RunFamilies(families)
        families_shown = self._run[1]
        if mask.all():
            return FamilyRun(families_shown, values, sums, self.created, exemplars)
        sums = None if sums is None else sums[mask]
        return FamilyRun(families_shown, values[mask], sums, self.created[mask], _shown_exemplars(exemplars, mask))


class ReadPlan:
    """All that one scan reads. groups: in the order in which their first family was declared."""

    def __init__(self, catalog_view: CatalogView) -> None:
        self.version = catalog_view.version
        self.seen = catalog_view.table.newest_generation()  # read before the states: later removals are looked up
        groups: dict[Hashable, Group] = {}
        for entry in sorted(catalog_view.families.values(), key=lambda found: found.offset):
            family = entry.family
            series = _alive(catalog_view.table, list(entry.series.values()))
            if entry.overflow is not None:
                series.append(_overflow(entry))
            group = groups.setdefault((family.type, family.mode, line_shape(family)), Group(family))
            group.plans.append(FamilyPlan(family, series, SeriesLabels(_shown_labels(found) for found in series)))
        self.groups = list(groups.values())
        for group in self.groups:
            group.arrange(catalog_view.table)
        self._exemplars: tuple[Mapping[int, Entry], dict[Group, Exemplars]] = ({}, {})

    @cached_property
    def _places(self) -> tuple[list[int], list[tuple[Group, int]]]:
        """The first slots of all counters and histograms, ascending, and which series each is."""
        found = [
            (slot, group, position)
            for group in self.groups
            if group.family.type in (COUNTER, HISTOGRAM)
            for position, slot in enumerate(group.slots.tolist())
        ]
        found.sort(key=itemgetter(0))
        return [slot for slot, _, _ in found], [(group, position) for _, group, position in found]

    def exemplars(self, newest: Mapping[int, Entry]) -> dict[Group, Exemplars]:
        """Return the `newest` exemplars (slot -> entry) by group, then by position of the series and bucket.

        Leave out exemplars from before the series was removed, or of another series in the same slots.
        """
        if self._exemplars[0] is not newest:
            self._exemplars = newest, self._assign(newest)
        return self._exemplars[1]

    def _assign(self, newest: Mapping[int, Entry]) -> dict[Group, Exemplars]:
        slots, series = self._places
        found: dict[Group, dict[tuple[int, int], Exemplar]] = {}
        for slot, entry in newest.items():
            at = bisect_right(slots, slot) - 1
            if at < 0:
                continue
            group, position = series[at]
            bucket = slot - slots[at] - (group.family.type == HISTOGRAM)  # its sequence goes before its buckets
            if 0 <= bucket < max(1, len(group.family.bounds)) and entry.stamp > group.born[position]:
                found.setdefault(group, {})[position, bucket] = entry.exemplar
        return dict(found)


def _alive(table: SlotTable, series: list[SeriesEntry]) -> list[SeriesEntry]:
    free = table.states([entry.slot for entry in series], [entry.hash for entry in series]).free
    return [entry for entry, dead in zip(series, free.tolist(), strict=True) if not dead] if free.any() else series


def _overflow(family: FamilyEntry) -> SeriesEntry:
    """Return the overflow series, under a label of its own where the application has a series with the usual one."""
    assert family.overflow is not None
    if catalog_records.series_key(family.id, OVERFLOW_LABELS) in family.series:
        return replace(family.overflow, labels=OWN_OVERFLOW_LABELS)
    return family.overflow


def _shown_exemplars(exemplars: Exemplars | None, mask: BoolArray) -> Exemplars | None:
    """Return the exemplars of the series in `mask`, by position among these."""
    if exemplars is None:
        return None
    after = mask.cumsum() - 1
    return {(int(after[index]), bucket): found for (index, bucket), found in exemplars.items() if mask[index]}


def _shown_labels(series: SeriesEntry) -> LabelPairs:
    if not series.payload or series.payload == EMPTY_INFO:
        return series.labels
    return tuple(sorted(series.labels + series.payload))
