"""The reader: scan a segment and return a Snapshot."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from shm_metrics.model.arrays import BoolArray, FloatArray, IntArray, UnsignedArray
from shm_metrics.model.families import (
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
from shm_metrics.model.family_run import FamilyRun
from shm_metrics.model.gauge_modes import MODES
from shm_metrics.model.snapshot import Snapshot
from shm_metrics.reader.aggregate import combine, shared_gauges
from shm_metrics.reader.catalog_view import CatalogView
from shm_metrics.reader.exemplar_reader import ExemplarScan
from shm_metrics.reader.plan import Group, ReadPlan
from shm_metrics.reader.seqlock import (
    SeqlockGroup,
    add_histograms,
    add_rows,
    gauge_group,
    histogram_group,
    read_columns,
)
from shm_metrics.runtime.call_lock import CallLock, NestedCallError
from shm_metrics.segment import layout as L
from shm_metrics.segment.segment import Segment
from shm_metrics.segment.slot_table import SlotTable
from shm_metrics.segment.worker_rows import WorkerTable

__all__ = ["Reader"]

_Parts: TypeAlias = tuple[FloatArray, ...]

SCANS = 5  # of shared gauges that are set under the scan
MOST_REMOVALS = 50  # that come in while a group is read
SHARED_SIGNS = (0, 2, 5)  # slots of a shared gauge of which one is not 0 once it was used: stamps and delta
LIMIT = 2.0**53  # a float64 beyond it does not see a 1
NEAR_LIMIT = LIMIT - 2.0**52


class Reader:
    """Reads one segment. mine: the rows of this very process, which the kernel does not call locked by another."""

    def __init__(self, segment: Segment, mine: Callable[[], Iterable[int]] = tuple) -> None:
        self.segment = segment
        self.workers = WorkerTable(segment)
        self.table = SlotTable(segment)
        workers = self.workers  # not self: without a cycle a dropped reader is freed at once, with its descriptors

        def uses(families: Iterable[int]) -> set[int]:
            rows = {*workers.live(), *mine()}
            return {family for family in families if any(workers.uses(row, family) for row in rows)}

        self._uses = uses
        self.catalog_view = CatalogView(segment, self._uses)
        self.exemplars = ExemplarScan(segment)
        self._mine = mine
        self._plan: ReadPlan | None = None
        self._lock = CallLock()

    def renew(self) -> None:
        """Replace a lock that another thread held when this process was forked."""
        self._lock.renew()

    def live_rows(self, used: list[int] | None = None) -> list[int]:
        """Return the rows of living workers, in ascending order."""
        return sorted({*self.workers.live(used), *self._mine()})

    def snapshot(self, now: float, monotonic: float | None = None) -> Snapshot:
        """Scan once. now: Unix seconds, for `taken_at`. Raise SegmentFormatError when the file was truncated.

        monotonic: CLOCK_MONOTONIC at `now`, for a snapshot with stamps.
        """
        with _any_floats():
            try:
                return self._lock.run(self._scan, now, monotonic)
            except NestedCallError:
                return self._another().snapshot(now, monotonic)

    def _another(self) -> Reader:
        """Return a reader for a signal handler or __del__ that interrupts a call, when this one is inconsistent."""
        return Reader(self.segment, self._mine)

    def _scan(self, now: float, monotonic: float | None) -> Snapshot:
        self.segment.check_size()
        plan = self._current_plan()
        used = self.workers.used()
        live = self.live_rows(used)
        # Before the counts: an exemplar is written after its update, so the counts include every exemplar shown.
        newest = self.exemplars.newest(used)
        kept = plan.exemplars(newest) if newest else {}
        scan = _Scan(self.segment, self.table, plan.seen, used, live, self.workers, kept)
        scan.clocks = None if monotonic is None else (now, monotonic)
        items = tuple(scan.items(plan))
        return Snapshot(
            items,
            now,
            self.segment.header.incarnation.hex(),
            tuple(live),
            tuple(used),
            sum(len(older.series) for older in self.catalog_view.older),
            self.catalog_view.damaged + self.exemplars.damaged,
            scan.near_limit,
        )

    def refreshed(self) -> CatalogView:
        """Return the catalog view, brought up to date."""
        try:
            self._lock.run(self.catalog_view.refresh)
        except NestedCallError:
            return self._another().refreshed()
        return self.catalog_view

    def _current_plan(self) -> ReadPlan:
        self.catalog_view.refresh()
        if self._plan is None or self._plan.version != self.catalog_view.version:
            self._plan = ReadPlan(self.catalog_view)
        return self._plan

    # -- single series --------------------------------------------------------------------------------------------

    def column_totals(self, family: Family, slot: int) -> FloatArray:
        """Return the totals of one series over all rows.

        counter: (1,). histogram: (buckets + 1,), the sum last.
        """
        rows, slots = self._rows_that_count(slot, self.workers.used()), np.array([slot], np.intp)
        if family.type == COUNTER:
            return np.array([exact_total([self._slot(row, slot) for row in rows])])
        buckets = max(1, len(family.bounds))
        total = np.zeros((buckets + 1, 1))
        with _any_floats():
            add_histograms(histogram_group(slots, buckets).read(self.segment, rows), total[:-1], total[-1])
        return total[:, 0]

    def _rows_that_count(self, slot: int, rows: Iterable[int]) -> list[int]:
        """Return those of `rows` that have followed the last removal of the series at `slot`."""
        generation = self.table.generation(slot)
        return [row for row in rows if self.workers.generation(row) >= generation]

    def gauge_value(self, family: Family, slot: int) -> float:
        """Return one value of a gauge: by its mode, or the sum over workers for the modes that keep them apart."""
        mode = MODES[family.mode]
        used = self.live_rows() if mode.live else self.workers.used()
        rows = used if mode.live or mode.combine in ("sum", "each", "shared") else [*used, L.LEDGER_ROW]
        rows = self._rows_that_count(slot, rows)
        seqlock_group = gauge_group(np.array([slot], np.intp), mode.slots)
        with _any_floats():
            if mode.combine == "shared":
                return float(read_shared(self.segment, seqlock_group, rows, None)[0][0])
            blocks = seqlock_group.read(self.segment, rows)
            rule = "sum" if mode.combine == "each" else mode.combine
            return float(combine(rule, blocks[:, 0], blocks[:, 1])[0][0])

    def unused(self, slots: list[int]) -> list[int]:
        """Return those of the removed series, by first slot, that no row has used since their removal."""
        at, used = np.array(slots, np.intp), self.workers.used()
        generation = self.table.states(slots, [0] * len(slots)).generation
        counts = self.workers.generations(used)[:, None] >= generation
        shared = (self.segment.slot_map[at] & ~np.uint8(L.SLOT_REMOVED)) == L.SLOT_STAMP_SHARED
        something = np.zeros(len(slots), np.bool_)
        for offset in SHARED_SIGNS:
            of = at + np.where(shared, offset, 0)
            something |= ((read_columns(self.segment, used, of) != 0.0) & counts).any(axis=0)
        return [slot for slot, used in zip(slots, something.tolist(), strict=True) if not used]

    def exemplar(self, slots: Iterable[int], series: int) -> Exemplar | None:
        """Return the newest exemplar of `slots` (counters or buckets) since the series at slot `series` was made."""
        born = self.table.born(series)
        try:
            newest = self._lock.run(self.exemplars.newest, self.workers.used())
        except NestedCallError:
            return self._another().exemplar(slots, series)
        found = [newest[slot] for slot in slots if slot in newest and newest[slot].stamp > born]
        return max(found, key=lambda entry: entry.stamp).exemplar if found else None

    def engine_totals(self, rows: Iterable[int], *slots: int) -> list[float]:
        """Return the sum over `rows` of each of the engine's own slots, which are in the first page of a row."""
        segment, lay = self.segment, self.segment.layout
        firsts = [row * lay.slots for row in rows if segment.page_bytes[row * lay.pages_per_row]]
        return [sum([segment.doubles[first + slot] for first in firsts]) for slot in slots]

    def _slot(self, row: int, slot: int) -> float:
        segment, lay = self.segment, self.segment.layout
        # Through the memoryviews: for one number numpy takes four times as long.
        there = segment.page_bytes[row * lay.pages_per_row + slot // L.SLOTS_PER_PAGE]
        return segment.doubles[row * lay.slots + slot] if there else 0.0


def exact_total(values: Sequence[float]) -> float:
    """Return the sum in the order of add_rows(); from NEAR_LIMIT on rounded only once, so that no row is lost."""
    total = 0.0
    for value in values:
        total += value
    return math.fsum(values) if NEAR_LIMIT <= total < math.inf else total


def _any_floats() -> np.errstate:
    """Suppress numpy's warnings: infinities of opposite signs add up to NaN, which is correct."""
    return np.errstate(invalid="ignore", over="ignore")


class _Scan:
    """One pass over the rows, group by group.

    exemplars: group -> those of its series.
    clocks: wall clock and CLOCK_MONOTONIC at one moment, when stamps are asked for.
    """

    clocks: tuple[float, float] | None = None
    near_limit = 0

    def __init__(
        self,
        segment: Segment,
        table: SlotTable,
        seen: int,
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
        self.table = table
        self.seen = seen

    def _followed(self, rows: list[int]) -> UnsignedArray:
        """Return the generation that each row has followed. Call it before reading numbers: what counts is zeroed."""
        return self.workers.generations(rows)

    def _counts(self, rows: list[int], generation: UnsignedArray) -> BoolArray | None:
        """shape (rows, n): where a row has followed the last removal of a series; None: everywhere."""
        if not generation.any():
            return None
        counts: BoolArray = self._followed(rows)[:, None] >= generation
        return None if counts.all() else counts

    def _settled(self, group: Group, read: Callable[[IntArray, Any, UnsignedArray], _Parts]) -> _Parts:
        """Return what `read` returns for slots, seqlock group (None: counters), generations; series on the last axis.

        Read a series that is removed meanwhile again: its workers may be zeroing it.
        """
        generation = group.generation
        if self.table.newest_generation() != self.seen:
            generation = self._generations(group.slots, generation, self.seen)
        seen = self.table.newest_generation()
        parts = read(group.slots, group.seqlock_group, generation)
        for _ in range(MOST_REMOVALS):
            now = self.table.newest_generation()
            if now == seen:
                break
            after = self._generations(group.slots, generation, seen)
            changed = np.flatnonzero(after != generation)
            if len(changed):
                seqlock_group = None if group.seqlock_group is None else group.seqlock_group.some(changed)
                for whole, part in zip(parts, read(group.slots[changed], seqlock_group, after[changed]), strict=True):
                    whole[..., changed] = part
            generation, seen = after, now
        return parts

    def _generations(self, slots: IntArray, before: UnsignedArray, seen: int) -> UnsignedArray:
        """Return the generations as of now, of slots that had `before` when `seen` was the newest of all."""
        removed = self.table.removed_since(seen)
        if removed is None:
            return self.table.generations(slots)
        after = before.copy()
        for position in np.flatnonzero(np.isin(slots, np.array(list(removed), np.intp))).tolist():
            after[position] = max(int(after[position]), removed[int(slots[position])])
        return after

    def items(self, plan: ReadPlan) -> Iterator[FamilyRun | FamilySnapshot]:
        for group in plan.groups:
            if group.family.type == COUNTER:
                yield self._counters(group)
            elif group.family.type in (HISTOGRAM, SUMMARY):
                yield self._histograms(group)
            else:
                yield from self._gauges(group)

    def _counters(self, group: Group) -> FamilyRun:
        (values,) = self._settled(group, self._read_counters)
        return group.run(~group.hideable | (values != 0.0), values, None, self.exemplars.get(group))

    def _read_counters(self, slots: IntArray, _: None, generation: UnsignedArray) -> _Parts:
        followed = self._followed(self.used)
        values = add_rows(self.segment, self.used, int(slots.max(initial=-1)) + 1)[slots]
        again = np.flatnonzero(generation > followed.min(initial=L.LARGEST_WORD))
        if len(again):
            block = read_columns(self.segment, self.used, slots[again])
            values[again] = _sum_of_rows(block, followed[:, None] >= generation[again])
        large = np.flatnonzero(values >= NEAR_LIMIT)
        if len(large):
            # Added up exactly, as a total may be beyond 2^53; and counted, as a row may be near it.
            block = read_columns(self.segment, self.used, slots[large])
            block[followed[:, None] < generation[large]] = 0.0
            values[large] = [exact_total(column) for column in block.T.tolist()]
            self.near_limit += int((block >= NEAR_LIMIT).any(axis=0).sum())
        return (values,)

    def _histograms(self, group: Group) -> FamilyRun:
        counts, sums = self._settled(group, self._read_histograms)
        values = np.ascontiguousarray(counts.T)
        mask = ~group.hideable | (values.sum(axis=1) != 0.0)
        if group.family.type == SUMMARY:
            return group.run(mask, values[:, 0], sums)
        return group.run(mask, values, sums, self.exemplars.get(group))

    def _read_histograms(self, slots: IntArray, seqlock_group: SeqlockGroup, generation: UnsignedArray) -> _Parts:
        counts, sums = np.zeros((len(seqlock_group.indexes) - 4, len(slots))), np.zeros(len(slots))
        for block in seqlock_group.blocks(self.segment, self.used, self._counts(self.used, generation)):
            add_histograms(block, counts, sums)
        return counts, sums

    def _gauges(self, group: Group) -> Iterator[FamilyRun | FamilySnapshot]:
        assert group.seqlock_group is not None
        mode, family = group.mode, group.family
        rows = self.live if mode.live else self.used
        if not mode.live and mode.combine in ("min", "max", "newest"):
            # The ledger row goes last: a value that moves there meanwhile is found where it was, or where it went.
            rows = [*rows, L.LEDGER_ROW]
        if mode.combine == "shared":
            values, stamp, was_used = self._settled(
                group, lambda _, of, generation: read_shared(self.segment, of, rows, self._counts(rows, generation))
            )
            mask = ~group.hideable | (was_used != 0.0)
            yield from self._stamped(group, mask, group.run(mask, values), stamp[None])
            return
        (blocks,) = self._settled(
            group, lambda _, of, generation: (of.read(self.segment, rows, self._counts(rows, generation)),)
        )
        stamps = blocks[:, 0]
        if mode.combine == "each":
            yield from self._each(group, rows, stamps, blocks[:, 1])
            return
        if family.type == INFO:
            mask = _latest_info(group, stamps)
            yield from self._stamped(group, mask, group.run(mask, np.ones(len(group.slots))), stamps)
            return
        values, some = combine(mode.combine, stamps, blocks[:, 1])
        # A live gauge that no living worker has is hidden; the sum of none is 0, which its readers expect.
        vanishes = mode.live and mode.combine != "sum" and family.type == GAUGE
        mask = some if vanishes else ~group.hideable | some
        yield from self._stamped(group, mask, group.run(mask, values), stamps)

    def _stamped(
        self, group: Group, mask: BoolArray, run: FamilyRun, stamps: FloatArray
    ) -> Iterator[FamilyRun | FamilySnapshot]:
        """Yield the run; with stamps, one snapshot a family instead. stamps: shape (rows, all series)."""
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
        """Yield one series a worker, labelled with its pid; of rows with one pid (two containers) the newest."""
        pids = [str(self.workers.read(row).pid) for row in rows]
        start = 0
        for plan in group.plans:
            shown: dict[LabelPairs, tuple[float, float, float]] = {}
            for position, entry in enumerate(plan.entries, start):
                # Where the application has a label of that name, the worker's pid goes by another one.
                names, label = {name for name, _ in entry.labels}, "pid"
                if label in names:
                    label = "worker_pid"
                while label in names:
                    label += "_"
                for index in np.flatnonzero(stamps[:, position]).tolist():
                    labels = tuple(sorted((*entry.labels, (label, pids[index]))))
                    created_at = float(group.created[position])
                    found = float(stamps[index, position]), float(values[index, position]), created_at
                    shown[labels] = max(found, shown.get(labels, found))
            start += len(plan.entries)
            kept = np.array([value for _, value, _ in shown.values()], np.float64)
            created = np.array([made for _, _, made in shown.values()], np.float64)
            set_at = self._wall(np.array([stamp for stamp, _, _ in shown.values()], np.float64))
            yield FamilySnapshot(plan.family, SeriesLabels(shown), kept, None, created, stamps=set_at)


def _sum_of_rows(block: FloatArray, counts: BoolArray) -> FloatArray:
    """Add row after row, as add_rows() does: another order may change the last bit."""
    total = np.zeros(block.shape[1])
    for row, some in zip(block, counts, strict=True):
        total += np.where(some, row, 0.0)
    return total


def read_shared(segment: Segment, seqlock_group: SeqlockGroup, rows: list[int], counts: BoolArray | None) -> _Parts:
    """Read shared gauges and combine them as shared_gauges(), with 1.0 for True; retry if a set() moved the epoch."""
    slots = seqlock_group.indexes[0]
    for _ in range(SCANS):
        epochs = read_columns(segment, [L.LEDGER_ROW], slots)[0]
        block = seqlock_group.read(segment, rows, counts)
        if (epochs == read_columns(segment, [L.LEDGER_ROW], slots)[0]).all():
            break
    values, stamps, some = shared_gauges(epochs, block)
    return values, stamps, some.astype(np.float64)


def _latest_info(group: Group, stamps: FloatArray) -> BoolArray:
    """Return which series show: of the infos with the same labels, the one set last."""
    newest = stamps.max(axis=0, initial=0.0)
    best: dict[tuple[int, LabelPairs], int] = {}
    entries = [(number, entry) for number, plan in enumerate(group.plans) for entry in plan.entries]
    for position, (number, entry) in enumerate(entries):
        known = best.get((number, entry.labels))
        if newest[position] > 0.0 and (known is None or newest[position] > newest[known]):
            best[number, entry.labels] = position
    mask = np.zeros(len(entries), np.bool_)
    mask[list(best.values())] = True
    return mask
