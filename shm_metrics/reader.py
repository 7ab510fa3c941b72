"""Segment -> Snapshot.

Lives here: one scan of the matrix by a plan. May not: write anything, anywhere; a scraper can do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from threading import RLock

import numpy as np

from shm_metrics import layout as L
from shm_metrics.aggregate import combine
from shm_metrics.arrays import BoolArray, FloatArray
from shm_metrics.exemplar_scan import ExemplarScan
from shm_metrics.exposition.run import FamilyRun
from shm_metrics.families import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    INFO,
    SUMMARY,
    Exemplar,
    Exemplars,
    Family,
    FamilySnapshot,
    LabelPairs,
    SeriesLabels,
)
from shm_metrics.gauge_modes import MODES
from shm_metrics.mirror import Mirror
from shm_metrics.plan import Group, Plan
from shm_metrics.rows import WorkerTable
from shm_metrics.scan import add_histograms, add_rows, guarded_gauges, guarded_histograms
from shm_metrics.segment import Segment
from shm_metrics.snapshot import Snapshot

__all__ = ["Reader"]


class Reader:
    """Reads one segment. mine: the rows of this very process, which the kernel does not call locked by another."""

    def __init__(self, segment: Segment, mine: Callable[[], Iterable[int]] = tuple) -> None:
        self.segment = segment
        self.workers = WorkerTable(segment)
        self.mirror = Mirror(segment)
        self.exemplars = ExemplarScan(segment)
        self._mine = mine
        self._plan: Plan | None = None
        self._lock = RLock()
        self._inside = False  # the thread that holds the lock is reading

    def renew(self) -> None:
        """Forget a lock that another thread held when this process was forked."""
        self._lock = RLock()
        self._inside = False

    def live_rows(self, used: list[int] | None = None) -> list[int]:
        """Rows of living workers, in ascending order."""
        return sorted({*self.workers.live(used), *self._mine()})

    def snapshot(self, now: float, monotonic: float | None = None) -> Snapshot:
        """Scan once. now: Unix seconds, for `taken_at`. Raises SegmentFormatError when the file was truncated.

        monotonic: CLOCK_MONOTONIC at `now`, for a snapshot with stamps.
        """
        with self._lock, _any_floats():
            if self._inside:
                # A signal handler or __del__ on top of a scan of this thread: its state is in the middle of a change.
                return Reader(self.segment, self._mine).snapshot(now, monotonic)
            self._inside = True
            try:
                return self._scan(now, monotonic)
            finally:
                self._inside = False

    def _scan(self, now: float, monotonic: float | None) -> Snapshot:
        self.segment.check_size()
        plan = self._current_plan()
        used = self.workers.used()
        live = self.live_rows(used)
        # Before the counts: an exemplar is kept after its update, so whatever is shown here has been counted there.
        newest = self.exemplars.newest(used)
        kept = plan.exemplars(newest) if newest else {}
        scan = _Scan(self.segment, used, live, self.workers, kept)
        scan.clocks = None if monotonic is None else (now, monotonic)
        return Snapshot(
            tuple(scan.items(plan)),
            now,
            self.segment.header.incarnation.hex(),
            tuple(live),
            tuple(used),
            sum(len(older.series) for older in self.mirror.older),
            self.mirror.damaged + self.exemplars.damaged,
        )

    def refreshed(self) -> Mirror:
        """The catalog as of now."""
        with self._lock:
            if self._inside:
                mirror = Mirror(self.segment)
                mirror.refresh()
                return mirror
            self._inside = True
            try:
                self.mirror.refresh()
                return self.mirror
            finally:
                self._inside = False

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
            total = np.zeros((buckets + 1, 1))
            with _any_floats():
                add_histograms(guarded_histograms(slots, buckets).read(self.segment, used), total[:-1], total[-1])
            return total[:, 0]
        if family.mode == "shared":
            return np.array([sum(self._slot(row, slot + 2) for row in used)])
        return np.empty(0)

    def gauge_value(self, family: Family, slot: int, born: float, baseline: FloatArray) -> float:
        """One value of a gauge: by its mode, or the sum over workers for the modes that keep them apart."""
        mode = MODES[family.mode]
        used = self.live_rows() if mode.live else self.workers.used()
        rows = used if mode.live or mode.combine in ("sum", "each", "shared") else [*used, L.LEDGER_ROW]
        guarded = guarded_gauges(np.array([slot], np.intp), mode.slots)
        blocks = guarded.read(self.segment, rows)
        with _any_floats():
            stamps = np.where(blocks[:, 0] > born, blocks[:, 0], 0.0)
            if mode.combine == "shared":
                return float(combine("newest", stamps, blocks[:, 1])[0][0] + blocks[:, 2].sum() - baseline.sum())
            rule = "sum" if mode.combine == "each" else mode.combine
            return float(combine(rule, stamps, blocks[:, 1])[0][0])

    def exemplar(self, slots: Iterable[int], born: float) -> Exemplar | None:
        """The newest exemplar of these slots, of counters or buckets, that is younger than `born`."""
        with self._lock:
            if self._inside:
                return Reader(self.segment, self._mine).exemplar(slots, born)
            self._inside = True
            try:
                newest = self.exemplars.newest(self.workers.used())
            finally:
                self._inside = False
        found = [newest[slot] for slot in slots if slot in newest and newest[slot].stamp > born]
        return max(found, key=lambda entry: entry.stamp).exemplar if found else None

    def engine_totals(self, rows: Iterable[int], *slots: int) -> list[float]:
        """The sum over `rows` of each of these, the engine's own slots, which stand in the first page of a row."""
        segment, lay = self.segment, self.segment.layout
        firsts = [row * lay.slots for row in rows if segment.page_bytes[row * lay.pages_per_row]]
        return [sum([segment.doubles[first + slot] for first in firsts]) for slot in slots]

    def _slot(self, row: int, slot: int) -> float:
        segment, lay = self.segment, self.segment.layout
        # By way of the memoryviews: for one number numpy takes four times as long.
        there = segment.page_bytes[row * lay.pages_per_row + slot // L.SLOTS_PER_PAGE]
        return segment.doubles[row * lay.slots + slot] if there else 0.0


def _any_floats() -> np.errstate:
    """Infinities of opposite signs add up to NaN, which is right and no reason to warn the application."""
    return np.errstate(invalid="ignore", over="ignore")


class _Scan:
    """One pass over the rows, group by group.

    exemplars: group -> those of its series.
    clocks: wall clock and CLOCK_MONOTONIC at one moment, when stamps are asked for.
    """

    clocks: tuple[float, float] | None = None

    def __init__(
        self,
        segment: Segment,
        used: list[int],
        live: list[int],
        workers: WorkerTable,
        exemplars: Mapping[Group, Exemplars],
    ) -> None:
        self.segment = segment
        self.used = used
        self.live = live
        self.workers = workers
        self.exemplars = exemplars

    def items(self, plan: Plan) -> Iterator[FamilyRun | FamilySnapshot]:
        for group in plan.groups:
            if group.family.type == COUNTER:
                yield self._counters(group)
            elif group.family.type in (HISTOGRAM, SUMMARY):
                yield self._histograms(group)
            else:
                yield from self._gauges(group)

    def _counters(self, group: Group) -> FamilyRun:
        last = int(group.slots.max(initial=-1)) + 1
        values = add_rows(self.segment, self.used, last)[group.slots] - group.baseline
        return group.run(~group.hideable | (values != 0.0), values, None, self.exemplars.get(group))

    def _histograms(self, group: Group) -> FamilyRun:
        assert group.guarded is not None
        n = len(group.slots)
        counts, sums = np.zeros((group.baseline.shape[1] - 1, n)), np.zeros(n)
        for block in group.guarded.blocks(self.segment, self.used):
            add_histograms(block, counts, sums)
        values, sums = counts.T - group.baseline[:, :-1], sums - group.baseline[:, -1]
        mask = ~group.hideable | (values.sum(axis=1) != 0.0)
        if group.family.type == SUMMARY:
            return group.run(mask, values[:, 0], sums)
        return group.run(mask, values, sums, self.exemplars.get(group))

    def _gauges(self, group: Group) -> Iterator[FamilyRun | FamilySnapshot]:
        assert group.guarded is not None
        mode, family = group.mode, group.family
        rows = self.live if mode.live else self.used
        if not mode.live and mode.combine in ("min", "max", "newest"):
            # The ledger row goes last: a value that moves there meanwhile is found where it was, or where it went.
            rows = [*rows, L.LEDGER_ROW]
        blocks = group.guarded.read(self.segment, rows)
        stamps = np.where(blocks[:, 0] > group.born, blocks[:, 0], 0.0)
        if mode.combine == "each":
            yield from self._each(group, rows, stamps, blocks[:, 1])
            return
        if family.type == INFO:
            mask = _newest_said(group, stamps)
            yield from self._stamped(group, mask, group.run(mask, np.ones(len(group.slots))), stamps)
            return
        if mode.combine == "shared":
            values, some = combine("newest", stamps, blocks[:, 1])
            deltas = blocks[:, 2].sum(axis=0) - group.baseline
            values, some = values + deltas, some | (deltas != 0.0)
        else:
            values, some = combine(mode.combine, stamps, blocks[:, 1])
        # A live gauge that no living worker has is gone; a sum of none is 0, which is what its readers wait for.
        vanishes = mode.live and mode.combine != "sum" and family.type == GAUGE
        mask = some if vanishes else ~group.hideable | some
        yield from self._stamped(group, mask, group.run(mask, values), stamps)

    def _stamped(
        self, group: Group, mask: BoolArray, run: FamilyRun, stamps: FloatArray
    ) -> Iterator[FamilyRun | FamilySnapshot]:
        """The run; where stamps are asked for, one snapshot a family, with them. stamps: shape (rows, all series)."""
        if self.clocks is None:
            yield run
            return
        newest = self._wall(stamps.max(axis=0, initial=0.0))
        assert newest is not None
        start = 0
        for plan, found in zip(group.plans, run.split(), strict=True):
            stop = start + len(plan.entries)
            shown = mask[start:stop]
            keys = None
            if group.family.type == INFO:
                keys = tuple(plan.entries[index].labels for index in np.flatnonzero(shown).tolist())
            yield replace(found, stamps=newest[start:stop][shown], keys=keys)
            start = stop

    def _wall(self, stamps: FloatArray) -> FloatArray | None:
        """CLOCK_MONOTONIC stamps as Unix seconds; 0 stays 0. None where stamps are not asked for."""
        if self.clocks is None:
            return None
        now, monotonic = self.clocks
        return np.where(stamps > 0.0, now - np.maximum(monotonic - stamps, 0.0), 0.0)

    def _each(self, group: Group, rows: list[int], stamps: FloatArray, values: FloatArray) -> Iterator[FamilySnapshot]:
        """One series a worker, told apart by its pid; of rows with one pid, as two containers may have, the newest."""
        pids = [str(self.workers.read(row).pid) for row in rows]
        start = 0
        for plan in group.plans:
            shown: dict[LabelPairs, tuple[float, float, float]] = {}
            for position, entry in enumerate(plan.entries, start):
                for index in np.flatnonzero(stamps[:, position]).tolist():
                    labels = tuple(sorted((*entry.labels, ("pid", pids[index]))))
                    found = float(stamps[index, position]), float(values[index, position]), entry.created
                    shown[labels] = max(found, shown.get(labels, found))
            start += len(plan.entries)
            kept = np.array([value for _, value, _ in shown.values()], np.float64)
            created = np.array([made for _, _, made in shown.values()], np.float64)
            set_at = self._wall(np.array([stamp for stamp, _, _ in shown.values()], np.float64))
            yield FamilySnapshot(plan.family, SeriesLabels(shown), kept, None, created, stamps=set_at)


def _newest_said(group: Group, stamps: FloatArray) -> BoolArray:
    """Of the things that were said of an info with the same labels, the one that was said last."""
    newest = stamps.max(axis=0, initial=0.0)
    best: dict[tuple[int, LabelPairs], int] = {}
    entries = [(number, entry) for number, plan in enumerate(group.plans) for entry in plan.entries]
    for position, (number, entry) in enumerate(entries):
        said_before = best.get((number, entry.labels))
        if newest[position] > 0.0 and (said_before is None or newest[position] > newest[said_before]):
            best[number, entry.labels] = position
    mask = np.zeros(len(entries), np.bool_)
    mask[list(best.values())] = True
    return mask
