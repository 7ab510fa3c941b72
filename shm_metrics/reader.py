"""Segment -> Snapshot.

Lives here: one scan of the matrix by a plan. May not: write anything, anywhere; a scraper can do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Lock

import numpy as np
import numpy.typing as npt

from shm_metrics import layout as L
from shm_metrics.aggregate import combine
from shm_metrics.arrays import FloatArray
from shm_metrics.families import COUNTER, GAUGE, HISTOGRAM, INFO, SUMMARY, Family, FamilySnapshot, SeriesLabels
from shm_metrics.gauge_modes import MODES
from shm_metrics.mirror import Mirror
from shm_metrics.plan import FamilyPlan, GaugeGroup, HistogramGroup, Plan
from shm_metrics.rows import WorkerTable
from shm_metrics.scan import add_rows, guarded_gauges, guarded_histograms, histogram_sums
from shm_metrics.segment import Segment
from shm_metrics.snapshot import Snapshot

__all__ = ["Reader"]

BoolArray = npt.NDArray[np.bool_]


class Reader:
    """Reads one segment. mine: the rows of this very process, which the kernel does not call locked by another."""

    def __init__(self, segment: Segment, mine: Callable[[], Iterable[int]] = tuple) -> None:
        self.segment = segment
        self.workers = WorkerTable(segment)
        self.mirror = Mirror(segment)
        self._mine = mine
        self._plan: Plan | None = None
        self._lock = Lock()

    def renew(self) -> None:
        """Forget a lock that another thread held when this process was forked."""
        self._lock = Lock()

    def live_rows(self, used: list[int] | None = None) -> list[int]:
        """Rows of living workers, in ascending order."""
        return sorted({*self.workers.live(used), *self._mine()})

    def snapshot(self, now: float) -> Snapshot:
        """Scan once. now: Unix seconds, for `taken_at`. Raises SegmentFormatError when the file was truncated."""
        with self._lock:
            self.segment.check_size()
            plan = self._current_plan()
            used = self.workers.used()
            live = self.live_rows(used)
            scan = _Scan(self.segment, plan, used, live, self.workers)
            return Snapshot(
                tuple(scan.family(family_plan) for family_plan in plan.plans),
                now,
                self.segment.header.incarnation.hex(),
                tuple(live),
                tuple(used),
                sum(len(older.series) for older in self.mirror.older),
                self.mirror.damaged,
            )

    def refreshed(self) -> Mirror:
        """The catalog as of now."""
        with self._lock:
            self.mirror.refresh()
            return self.mirror

    def _current_plan(self) -> Plan:
        self.mirror.refresh()
        if self._plan is None or self._plan.version != self.mirror.version:
            self._plan = Plan(self.mirror)
        return self._plan

    # -- single series --------------------------------------------------------------------------------------------

    def column_totals(self, family: Family, slot: int) -> FloatArray:
        """What all rows together hold in one series: the form in which a baseline is kept.

        counter: (1,). histogram: (buckets + 1,), the sum last. shared gauge: (1,), the deltas. Other gauges: (0,).
        """
        used, slots = self.workers.used(), np.array([slot], np.intp)
        if family.type == COUNTER:
            return np.array([sum(self._slot(row, slot) for row in used)])
        if family.type in (HISTOGRAM, SUMMARY):
            buckets = max(1, len(family.bounds))
            total = np.zeros(buckets + 1)
            for _, block in guarded_histograms(slots, buckets).rows(self.segment, used):
                total[:-1] += block[0, 1:-3]
                total[-1] += histogram_sums(block)[0]
            return total
        if family.mode == "shared":
            return np.array([sum(self._slot(row, slot + 2) for row in used)])
        return np.empty(0)

    def gauge_value(self, family: Family, slot: int, born: float, baseline: FloatArray) -> float:
        """One value of a gauge: by its mode, or the sum over workers for the modes that keep them apart."""
        mode = MODES[family.mode]
        used = self.live_rows() if mode.live else self.workers.used()
        rows = used if mode.live or mode.combine in ("sum", "each", "shared") else [L.LEDGER_ROW, *used]
        guarded = guarded_gauges(np.array([slot], np.intp), mode.slots)
        blocks = np.array([block[0] for _, block in guarded.rows(self.segment, rows)]).reshape(len(rows), mode.slots + 1)
        stamps = np.where(blocks[:, :1] > born, blocks[:, :1], 0.0)
        if mode.combine == "shared":
            deltas = float(blocks[:, 2].sum() - baseline.sum())
            return float(combine("newest", stamps, blocks[:, 1:2])[0][0]) + deltas
        rule = "sum" if mode.combine == "each" else mode.combine
        return float(combine(rule, stamps, blocks[:, 1:2])[0][0])

    def engine_total(self, slot: int) -> float:
        """The sum over all rows of one of the engine's own slots."""
        return sum(self._slot(row, slot) for row in self.workers.used())

    def _slot(self, row: int, slot: int) -> float:
        there = self.segment.pages[row, slot // L.SLOTS_PER_PAGE]
        return float(self.segment.matrix[row, slot]) if there else 0.0


class _Scan:
    """One pass over the rows; afterwards each family takes its part."""

    def __init__(self, segment: Segment, plan: Plan, used: list[int], live: list[int], workers: WorkerTable) -> None:
        self.segment = segment
        self.used = used
        self.live = live
        self.workers = workers
        last = int(plan.counters.max(initial=-1)) + 1
        self.counters = add_rows(segment, used, last)[plan.counters]
        self.histograms = {id(group): self._read_histograms(group) for group in plan.histograms.values()}
        self.gauges = {id(group): self._read_gauges(group) for group in plan.gauges.values()}

    def _read_histograms(self, group: HistogramGroup) -> tuple[FloatArray, FloatArray]:
        assert group.guarded is not None
        n = len(group.guarded.indexes)
        counts, sums = np.zeros((n, group.buckets)), np.zeros(n)
        for _, block in group.guarded.rows(self.segment, self.used):
            counts += block[:, 1:-3]
            sums += histogram_sums(block)
        return counts, sums

    def _read_gauges(self, group: GaugeGroup) -> tuple[list[int], FloatArray]:
        """The rows that count for this mode, and their blocks: shape (rows, n, slots + 1)."""
        assert group.guarded is not None
        rows = self.live if group.mode.live else list(self.used)
        if not group.mode.live and group.mode.combine in ("min", "max", "newest"):
            rows = [L.LEDGER_ROW, *rows]
        blocks = np.empty((len(rows), *group.guarded.indexes.shape))
        for position, (_, block) in enumerate(group.guarded.rows(self.segment, rows)):
            blocks[position] = block
        return rows, blocks

    def family(self, plan: FamilyPlan) -> FamilySnapshot:
        if isinstance(plan.group, HistogramGroup):
            return self._histogram(plan, plan.group)
        if isinstance(plan.group, GaugeGroup):
            return self._gauge(plan, plan.group)
        values = self.counters[plan.at : plan.stop] - plan.baseline
        if plan.hideable is None:
            return FamilySnapshot(plan.family, plan.labels, values, None, plan.created)
        return _masked(plan, ~plan.hideable | (values != 0.0), values)

    def _histogram(self, plan: FamilyPlan, group: HistogramGroup) -> FamilySnapshot:
        counts, sums = self.histograms[id(group)]
        values = counts[plan.at : plan.stop] - plan.baseline[:, :-1]
        totals = sums[plan.at : plan.stop] - plan.baseline[:, -1]
        if plan.family.type == SUMMARY:
            values = values[:, 0]
        if plan.hideable is None:
            return FamilySnapshot(plan.family, plan.labels, values, totals, plan.created)
        counted = values if values.ndim == 1 else values.sum(axis=1)
        return _masked(plan, ~plan.hideable | (counted != 0.0), values, totals)

    def _gauge(self, plan: FamilyPlan, group: GaugeGroup) -> FamilySnapshot:
        rows, all_blocks = self.gauges[id(group)]
        blocks, mode = all_blocks[:, plan.at : plan.stop], group.mode
        stamps = np.where(blocks[:, :, 0] > plan.born, blocks[:, :, 0], 0.0)
        if plan.family.type == INFO:
            return self._info(plan, stamps)
        if mode.combine == "each":
            return self._each(plan, rows, stamps, blocks[:, :, 1])
        if mode.combine == "shared":
            values, some = combine("newest", stamps, blocks[:, :, 1])
            deltas = blocks[:, :, 2].sum(axis=0) - plan.baseline
            values, some = values + deltas, some | (deltas != 0.0)
        else:
            values, some = combine(mode.combine, stamps, blocks[:, :, 1])
        # A live gauge that no living worker has is gone; a sum of none is 0, which is what its readers wait for.
        vanishes = mode.live and mode.combine != "sum" and plan.family.type == GAUGE
        hidden = np.full(len(some), True) if vanishes else plan.hideable
        if hidden is None:
            return FamilySnapshot(plan.family, plan.labels, values, None, plan.created)
        return _masked(plan, ~hidden | some, values)

    def _each(self, plan: FamilyPlan, rows: list[int], stamps: FloatArray, values: FloatArray) -> FamilySnapshot:
        labels, kept, created = [], [], []
        for position, entry in enumerate(plan.entries):
            for index, row in enumerate(rows):
                if stamps[index, position] > 0.0:
                    pid = str(self.workers.read(row).pid)
                    labels.append(tuple(sorted((*entry.labels, ("pid", pid)))))
                    kept.append(values[index, position])
                    created.append(entry.created)
        return FamilySnapshot(plan.family, SeriesLabels(labels), np.array(kept), None, np.array(created))

    def _info(self, plan: FamilyPlan, stamps: FloatArray) -> FamilySnapshot:
        newest = stamps.max(axis=0, initial=0.0)
        best: dict[object, int] = {}
        for position, entry in enumerate(plan.entries):
            if newest[position] > 0.0 and (entry.labels not in best or newest[position] > newest[best[entry.labels]]):
                best[entry.labels] = position
        mask = np.zeros(len(plan.entries), bool)
        mask[list(best.values())] = True
        return _masked(plan, mask, np.ones(len(plan.entries)))


def _masked(plan: FamilyPlan, mask: BoolArray, values: FloatArray, sums: FloatArray | None = None) -> FamilySnapshot:
    if mask.all():
        return FamilySnapshot(plan.family, plan.labels, values, sums, plan.created)
    kept = None if sums is None else sums[mask]
    return FamilySnapshot(plan.family, plan.labels_of(mask), values[mask], kept, plan.created[mask])
