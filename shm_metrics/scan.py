"""Reading the matrix: rows into sums, with every series read whole.

Lives here: which pages may be touched, the order of loads, looking again at what moved. May not: know names, write.

A page that nobody reserved is never touched: it would be allocated by the mere look, or be a SIGBUS on a full file
system. It counts as zeros.

Series of several slots are guarded by their first: a histogram's sequence, a gauge's stamp. A guarded read loads
guard, slots, guard, in this order; equal guards mean that no second update began in between, and then the slots are
one state of the series (the order of stores in _cells_cy.py makes it so). What moved is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import sleep  # at import, like the locks: see locks.py, "Under gevent"

import numpy as np

from shm_metrics import layout as L
from shm_metrics.arrays import BoolArray, FloatArray, IntArray
from shm_metrics.cells import build
from shm_metrics.segment import Segment

__all__ = ["Guarded", "add_histograms", "add_rows", "guarded_gauges", "guarded_histograms"]


TRIES = 400
TRIES_BEFORE_YIELDING = 50
MOST_NUMBERS_AT_ONCE = 1 << 13  # 64 KiB: stays in the processor's cache, and needs no new pages from the kernel


def add_rows(segment: Segment, rows: list[int], slots: int) -> FloatArray:
    """The sum over `rows` of each of the first `slots` slots: shape (slots,). Right for slots that stand alone."""
    if rows and slots and rows[-1] - rows[0] == len(rows) - 1:
        pages = segment.pages[rows[0] : rows[-1] + 1, : (slots - 1) // L.SLOTS_PER_PAGE + 1]
        if pages.all():
            return np.asarray(segment.matrix[rows[0] : rows[-1] + 1, :slots].sum(axis=0))
    total = np.zeros(slots)
    for row in rows:
        for first, last in reserved_runs(segment, row, slots):
            part = total[first:last]
            np.add(part, segment.matrix[row, first:last], out=part)
    return total


def reserved_runs(segment: Segment, row: int, slots: int) -> list[tuple[int, int]]:
    """The reserved parts of a row's first `slots` slots, as (first, last + 1) slots."""
    if not slots:
        return []
    pages = segment.pages[row, : (slots - 1) // L.SLOTS_PER_PAGE + 1]
    if pages.all():
        return [(0, slots)]
    edges = np.flatnonzero(np.diff(np.concatenate(([0], (pages != 0).view(np.int8), [0]))))
    return [
        (int(first) * L.SLOTS_PER_PAGE, min(int(last) * L.SLOTS_PER_PAGE, slots))
        for first, last in zip(edges[::2], edges[1::2], strict=True)
    ]


@dataclass(eq=False)
class Guarded:
    """n series of the same shape.

    indexes: shape (width + 1, n); the slots of each series from top to bottom in the order to load them: the guard
        first, and again last.
    whole: says of blocks (width + 1, m) which of the m are one state.
    """

    indexes: IntArray
    whole: Callable[[FloatArray], BoolArray]

    def __post_init__(self) -> None:
        self.first_pages = self.indexes.min(axis=0) // L.SLOTS_PER_PAGE
        self.last_pages = self.indexes.max(axis=0) // L.SLOTS_PER_PAGE

    def blocks(self, segment: Segment, rows: list[int]) -> Iterator[FloatArray]:
        """Blocks (width + 1, some rows, n), together all of `rows` in their order."""
        step = max(1, MOST_NUMBERS_AT_ONCE // max(1, self.indexes.size))
        for start in range(0, len(rows), step):
            yield self.read(segment, rows[start : start + step])

    def read(self, segment: Segment, rows: list[int]) -> FloatArray:
        """shape (width + 1, rows, n); zeros where a row has no memory for a series."""
        width, n = self.indexes.shape
        matrix = segment.matrix.reshape(-1)
        at = (np.array(rows, np.intp)[:, None] * segment.layout.slots + self.indexes[:, None, :]).reshape(width, -1)
        pages = segment.pages[rows]
        there = ((pages[:, self.first_pages] != 0) & (pages[:, self.last_pages] != 0)).reshape(-1)
        if there.all():
            block = self._load(matrix, at)
        else:
            block = np.zeros(at.shape)
            block[:, there] = self._load(matrix, at[:, there])
        return block.reshape(width, len(rows), n)

    def _load(self, matrix: FloatArray, at: IntArray) -> FloatArray:
        block = _gathered(matrix, at)
        for turn in range(TRIES):
            moved = np.flatnonzero(~self.whole(block))
            if not moved.size:
                break
            if turn >= TRIES_BEFORE_YIELDING:
                sleep(0)
            block[:, moved] = _gathered(matrix, np.ascontiguousarray(at[:, moved]))
        return block


def _gathered(matrix: FloatArray, at: IntArray) -> FloatArray:
    out = np.empty(at.shape)
    build.gather(matrix, at.reshape(-1), out.reshape(-1))
    return out


def _histogram_whole(block: FloatArray) -> BoolArray:
    sequence = block[0]
    # A sequence further ahead than the one update under way: observations are being moved in from private memory.
    ahead = sequence - block[1:-3].sum(axis=0)
    return np.asarray((sequence == block[-1]) & (ahead >= 0.0) & (ahead <= 1.0))


def _gauge_whole(block: FloatArray) -> BoolArray:
    return np.asarray(block[0] == block[-1])


def guarded_histograms(slots: IntArray, buckets: int) -> Guarded:
    """Histograms of `buckets` buckets: blocks of (sequence, buckets..., even sum, odd sum, sequence).

    Buckets are loaded before the sums: the writer stores them the other way round.
    """
    return Guarded(np.append(np.arange(buckets + 3), 0)[:, None] + slots, _histogram_whole)


def guarded_gauges(slots: IntArray, width: int) -> Guarded:
    """Gauges of `width` slots: blocks of (stamp, value, [delta], stamp)."""
    return Guarded(np.append(np.arange(width), 0)[:, None] + slots, _gauge_whole)


def add_histograms(block: FloatArray, counts: FloatArray, sums: FloatArray) -> None:
    """Add the rows of a block (width + 1, rows, n) to the buckets `counts` (buckets, n) and to `sums` (n,)."""
    buckets = block[1:-3]
    counts += buckets.sum(axis=1)
    # Of its two sums, a row's is the one that belongs to its count.
    odd = buckets.sum(axis=0) % 2.0 != 0.0
    # One after another, which sum(axis=0) does not promise: in another order the same numbers make another last bit,
    # and a total that falls by it when a worker comes would be taken for a counter that was reset.
    for row in np.where(odd, block[-2], block[-3]):
        sums += row
