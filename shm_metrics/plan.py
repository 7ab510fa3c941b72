"""What to read for whom: the shown families of a mirror, arranged for reading by whole columns.

Lives here: turning catalog entries into index arrays, once per change of the catalog. May not: read the matrix.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shm_metrics import records
from shm_metrics.arrays import FloatArray
from shm_metrics.families import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    NOTHING_SAID,
    SUMMARY,
    Family,
    LabelPairs,
    SeriesLabels,
)
from shm_metrics.gauge_modes import MODES, GaugeMode
from shm_metrics.mirror import FamilyEntry, Mirror, SeriesEntry
from shm_metrics.scan import Guarded, guarded_gauges, guarded_histograms

__all__ = ["FamilyPlan", "GaugeGroup", "HistogramGroup", "Plan"]


@dataclass(eq=False)
class FamilyPlan:
    """One family's series: `at` is where they begin among all series of their group.

    hideable: shape (n,); removed series and the overflow, which show only when there is something to show.
    baseline: shape (n,) for counters and deltas, (n, buckets + 1) for histograms: what the slots held before.
    born: shape (n,); stamps up to it belong to an earlier life of the slots.
    """

    family: Family
    entries: list[SeriesEntry]
    at: int
    labels: SeriesLabels
    created: FloatArray
    born: FloatArray
    baseline: FloatArray
    hideable: npt.NDArray[np.bool_] | None
    shown: dict[bytes, SeriesLabels] = field(default_factory=dict)
    group: HistogramGroup | GaugeGroup | None = None

    @property
    def stop(self) -> int:
        return self.at + len(self.entries)

    def labels_of(self, mask: npt.NDArray[np.bool_]) -> SeriesLabels:
        """The labels of the series that are shown now; the same object as long as they are the same ones."""
        if mask.all():
            return self.labels
        key = mask.tobytes()
        if key not in self.shown:
            self.shown = {key: SeriesLabels(pair for pair, show in zip(self.labels, mask, strict=True) if show)}
        return self.shown[key]


@dataclass(eq=False)
class HistogramGroup:
    """All histograms (and summaries) with the same number of buckets."""

    buckets: int
    plans: list[FamilyPlan] = field(default_factory=list)
    guarded: Guarded | None = None


@dataclass(eq=False)
class GaugeGroup:
    """All gauges of one mode."""

    mode: GaugeMode
    plans: list[FamilyPlan] = field(default_factory=list)
    guarded: Guarded | None = None


class Plan:
    """counters: slots of all counters, shape (n,). histograms, gauges: groups to read row by row."""

    def __init__(self, mirror: Mirror) -> None:
        self.version = mirror.version
        self.plans: list[FamilyPlan] = []
        self.histograms: dict[int, HistogramGroup] = {}
        self.gauges: dict[str, GaugeGroup] = {}
        counter_slots: list[int] = []
        for entry in sorted(mirror.families.values(), key=lambda found: found.offset):
            self._add(entry, counter_slots)
        self.counters = np.array(counter_slots, np.intp)
        for histograms in self.histograms.values():
            histograms.guarded = guarded_histograms(_slots(histograms.plans), histograms.buckets)
        for gauges in self.gauges.values():
            gauges.guarded = guarded_gauges(_slots(gauges.plans), gauges.mode.slots)

    def _add(self, entry: FamilyEntry, counter_slots: list[int]) -> None:
        family = entry.family
        series = [found for found in entry.series.values() if found.status != records.FREE]
        if entry.overflow is not None:
            series.append(entry.overflow)
        if family.type == COUNTER:
            plan = _family_plan(family, series, len(counter_slots), 1)
            counter_slots.extend(found.slot for found in series)
        elif family.type in (HISTOGRAM, SUMMARY):
            buckets = max(1, len(family.bounds))
            group = self.histograms.setdefault(buckets, HistogramGroup(buckets))
            plan = _family_plan(family, series, _count(group.plans), buckets + 1)
            group.plans.append(plan)
            plan.group = group
        else:
            mode = MODES[family.mode if family.type == GAUGE else "mostrecent"]
            gauges = self.gauges.setdefault(mode.name, GaugeGroup(mode))
            plan = _family_plan(family, series, _count(gauges.plans), 1)
            gauges.plans.append(plan)
            plan.group = gauges
        self.plans.append(plan)


def _family_plan(family: Family, series: list[SeriesEntry], at: int, width: int) -> FamilyPlan:
    hideable = np.array([found.overflow or found.status == records.REMOVED for found in series], bool)
    baseline = np.zeros((len(series), width))
    for position, found in enumerate(series):
        if found.baseline.size == width:
            baseline[position] = found.baseline
    return FamilyPlan(
        family,
        series,
        at,
        SeriesLabels(_shown_labels(found) for found in series),
        np.array([found.created for found in series], np.float64),
        np.array([found.born for found in series], np.float64),
        baseline[:, 0] if width == 1 else baseline,
        hideable if hideable.any() else None,
    )


def _shown_labels(series: SeriesEntry) -> LabelPairs:
    if not series.payload or series.payload == NOTHING_SAID:
        return series.labels
    return tuple(sorted(series.labels + series.payload))


def _count(plans: Iterable[FamilyPlan]) -> int:
    return sum(len(plan.entries) for plan in plans)


def _slots(plans: Iterable[FamilyPlan]) -> npt.NDArray[np.intp]:
    return np.array([found.slot for plan in plans for found in plan.entries], np.intp)
