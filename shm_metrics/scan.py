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

__all__ = ["Guarded", "add_rows", "guarded_gauges", "guarded_histograms", "histogram_totals"]


TRIES = 400
TRIES_BEFORE_YIELDING = 50
MOST_NUMBERS_AT_ONCE = 1 << 13  # 64 KiB: stays in the processor's cache, and needs no new pages from the kernel


def add_rows(segment: Segment, rows: list[int], slots: int) -> FloatArray:
    """The sum over `rows` of each of the first `slots` slots: shape (slots,). Right for slots that stand alone."""
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

    indexes: shape (n, width + 1); per series its slots in the order to load them, the guard first and again last.
    whole: says of blocks (m, width + 1) which are one state.
    """

    indexes: IntArray
    whole: Callable[[FloatArray], BoolArray]

    def __post_init__(self) -> None:
        self.first_pages = self.indexes.min(axis=1) // L.SLOTS_PER_PAGE
        self.last_pages = self.indexes.max(axis=1) // L.SLOTS_PER_PAGE

    def blocks(self, segment: Segment, rows: list[int]) -> Iterator[FloatArray]:
        """Blocks (some rows, n, width + 1), together all of `rows` in their order; zeros where a row has no memory."""
        step = max(1, MOST_NUMBERS_AT_ONCE // max(1, self.indexes.size))
        for start in range(0, len(rows), step):
            yield self.read(segment, rows[start : start + step])

    def read(self, segment: Segment, rows: list[int]) -> FloatArray:
        """shape (rows, n, width + 1)."""
        n, width = self.indexes.shape
        matrix = segment.matrix.reshape(-1)
        at = (np.array(rows, np.intp)[:, None, None] * segment.layout.slots + self.indexes).reshape(-1, width)
        pages = segment.pages[rows]
        there = ((pages[:, self.first_pages] != 0) & (pages[:, self.last_pages] != 0)).reshape(-1)
        if there.all():
            block = np.empty(at.shape)
            build.gather(matrix, at.reshape(-1), block.reshape(-1))
            self._look_again(matrix, at, block)
            return block.reshape(len(rows), n, width)
        block, some = np.zeros(at.shape), at[there]
        part = np.empty(some.shape)
        build.gather(matrix, some.reshape(-1), part.reshape(-1))
        self._look_again(matrix, some, part)
        block[there] = part
        return block.reshape(len(rows), n, width)

    def _look_again(self, matrix: FloatArray, at: IntArray, block: FloatArray) -> None:
        for turn in range(TRIES):
            moved = np.flatnonzero(~self.whole(block))
            if not moved.size:
                return
            if turn >= TRIES_BEFORE_YIELDING:
                time.sleep(0)
            again = np.empty((moved.size, block.shape[1]))
            build.gather(matrix, at[moved].reshape(-1), again.reshape(-1))
            block[moved] = again


def _histogram_whole(block: FloatArray) -> BoolArray:
    sequence = block[:, 0]
    # A sequence further ahead than the one update under way: observations are being moved in from private memory.
    ahead = sequence - block[:, 1:-3].sum(axis=1)
    return np.asarray((sequence == block[:, -1]) & (ahead >= 0.0) & (ahead <= 1.0))


def _gauge_whole(block: FloatArray) -> BoolArray:
    return np.asarray(block[:, 0] == block[:, -1])


def guarded_histograms(slots: IntArray, buckets: int) -> Guarded:
    """Histograms of `buckets` buckets: blocks of (sequence, buckets..., even sum, odd sum, sequence).

    Buckets are loaded before the sums: the writer stores them the other way round.
    """
    order = np.concatenate((np.arange(buckets + 3), [0]))
    return Guarded(slots[:, None] + order, _histogram_whole)


def guarded_gauges(slots: IntArray, width: int) -> Guarded:
    """Gauges of `width` slots: blocks of (stamp, value, [delta], stamp)."""
    order = np.concatenate((np.arange(width), [0]))
    return Guarded(slots[:, None] + order, _gauge_whole)


def histogram_totals(block: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Of a block (rows, n, width + 1): the buckets (n, buckets) and the sums (n,), over the rows."""
    buckets = block[:, :, 1:-3]
    # Of its two sums, a row's is the one that belongs to its count.
    odd = buckets.sum(axis=2) % 2.0 != 0.0
    sums = np.where(odd, block[:, :, -2], block[:, :, -3])
    return buckets.sum(axis=0), sums.sum(axis=0)
