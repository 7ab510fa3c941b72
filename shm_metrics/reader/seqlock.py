"""Read the matrix: add rows up, with a consistent read of every series.

A page that was never reserved counts as zeros and is not read: reading would allocate it, or end in SIGBUS on a full
file system.

Series of several slots are guarded by their first: a histogram's sequence, a gauge's stamp. A guarded read loads
guard, slots, guard, in this order; equal guards mean that no second update began in between, and then the slots are
one state of the series (the order of stores in _cells_cy.py makes it so). A series that moved is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import sleep  # at import, like the locks: see file_locks.py, "Under gevent"

import numpy as np

from shm_metrics.model.arrays import BoolArray, FloatArray, IntArray
from shm_metrics.native.implementation import cells
from shm_metrics.segment import layout as L
from shm_metrics.segment.segment import Segment

__all__ = ["SeqlockGroup", "add_histograms", "add_rows", "gauge_group", "histogram_group", "read_columns"]


TRIES = 400
TRIES_BEFORE_YIELDING = 50
MOST_NUMBERS_AT_ONCE = 1 << 14  # with their indexes 256 KiB: they stay in the processor's second cache


def add_rows(segment: Segment, rows: list[int], slots: int) -> FloatArray:
    """Return the sum over `rows` of each of the first `slots` slots: shape (slots,). For series of one slot only."""
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


def read_columns(segment: Segment, rows: list[int], slots: IntArray) -> FloatArray:
    """shape (rows, n): single slots of each row; zeros where a row has no memory for them."""
    block, pages = np.zeros((len(rows), len(slots))), slots // L.SLOTS_PER_PAGE
    for position, row in enumerate(rows):
        there = segment.pages[row, pages] != 0
        block[position, there] = segment.matrix[row, slots[there]]
    return block


def reserved_runs(segment: Segment, row: int, slots: int) -> list[tuple[int, int]]:
    """Return the reserved parts of a row's first `slots` slots, as (first, last + 1) slots."""
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
class SeqlockGroup:
    """n series of the same shape.

    indexes: shape (width + 1, n); the slots of each series from top to bottom in the order to load them: the guard
        first, and again last.
    consistent: maps a block (rows, width + 1, n) to which series of which row are one state: (rows, n).
    """

    indexes: IntArray
    consistent: Callable[[FloatArray], BoolArray]

    def __post_init__(self) -> None:
        self.first_pages = self.indexes.min(axis=0, initial=0) // L.SLOTS_PER_PAGE
        self.last_pages = self.indexes.max(axis=0, initial=0) // L.SLOTS_PER_PAGE
        # Memory of its own for each read: new memory of this size comes from the kernel page by page, each time.
        self._at: IntArray = np.empty(0, np.intp)
        self._block: FloatArray = np.empty(0)

    def some(self, positions: IntArray) -> SeqlockGroup:
        """Return the group of these series only."""
        return SeqlockGroup(self.indexes[:, positions], self.consistent)

    def blocks(self, segment: Segment, rows: list[int], counts: BoolArray | None = None) -> Iterator[FloatArray]:
        """Yield blocks (some rows, width + 1, n), together all of `rows` in their order; each good until the next."""
        step = max(1, MOST_NUMBERS_AT_ONCE // max(1, self.indexes.size))
        for start in range(0, len(rows), step):
            part = None if counts is None else counts[start : start + step]
            yield self.read(segment, rows[start : start + step], part)

    def read(self, segment: Segment, rows: list[int], counts: BoolArray | None = None) -> FloatArray:
        """shape (rows, width + 1, n), good until the next read; zeros where a row has no memory for a series.

        counts: shape (rows, n); where it is False, what the row has does not count, and is zeros as well.
        """
        shape = (len(rows), *self.indexes.shape)
        size = len(rows) * self.indexes.size
        if self._at.size < size:
            self._at, self._block = np.empty(size, np.intp), np.empty(size)
        at, block = self._at[:size].reshape(shape), self._block[:size].reshape(shape)
        starts = np.array(rows, np.intp) * segment.layout.slots
        np.add(starts[:, None, None], self.indexes, out=at)
        matrix, there = segment.matrix.reshape(-1), self._there(segment, rows, counts)
        if there is None:
            cells.gather(matrix, at.reshape(-1), block.reshape(-1))
            self._read_again(matrix, at, block)
        else:
            block[:] = 0.0
            row, series = np.nonzero(there)
            block[row, :, series] = self._load(matrix, at[row, :, series])
        return block

    def _there(self, segment: Segment, rows: list[int], counts: BoolArray | None) -> BoolArray | None:
        """shape (rows, n): which series a row has memory for, and counts for; None: all of them in every row."""
        if segment.pages[rows, : int(self.last_pages.max(initial=0)) + 1].all():
            return counts
        pages = segment.pages[rows] != 0
        there: BoolArray = pages[:, self.first_pages] & pages[:, self.last_pages]
        return there if counts is None else there & counts

    def _load(self, matrix: FloatArray, at: IntArray) -> FloatArray:
        """Return the series at `at` (m, width + 1), each consistent: shape (m, width + 1)."""
        at = np.ascontiguousarray(at.T)[None]
        block = np.empty(at.shape)
        cells.gather(matrix, at.reshape(-1), block.reshape(-1))
        self._read_again(matrix, at, block)
        loaded: FloatArray = block[0].T
        return loaded

    def _read_again(self, matrix: FloatArray, at: IntArray, block: FloatArray) -> None:
        for turn in range(TRIES):
            moved = ~self.consistent(block)
            if not moved.any():
                return
            if turn >= TRIES_BEFORE_YIELDING:
                sleep(0)
            row, series = np.nonzero(moved)
            again = np.ascontiguousarray(at[row, :, series])
            loaded = np.empty(again.shape)
            cells.gather(matrix, again.reshape(-1), loaded.reshape(-1))
            block[row, :, series] = loaded


def _equal_guards(block: FloatArray) -> BoolArray:
    return np.asarray(block[:, 0] == block[:, -1])


def histogram_group(slots: IntArray, buckets: int) -> SeqlockGroup:
    """Histograms of `buckets` buckets: (sequence, buckets..., even sum, odd sum, sequence).

    Buckets are loaded before the sums: the writer stores them the other way round.
    """
    return SeqlockGroup(np.append(np.arange(buckets + 3), 0)[:, None] + slots, _equal_guards)


def gauge_group(slots: IntArray, width: int) -> SeqlockGroup:
    """Gauges of `width` slots: (stamp, value, stamp), or the six of a shared one, and its first again."""
    return SeqlockGroup(np.append(np.arange(width), 0)[:, None] + slots, _equal_guards)


def add_histograms(block: FloatArray, counts: FloatArray, sums: FloatArray) -> None:
    """Add the rows of a block (rows, width + 1, n) to the buckets `counts` (buckets, n) and to `sums` (n,)."""
    buckets = block[:, 1:-3]
    counts += buckets.sum(axis=0)
    # Of its two sums, a row's is the one that belongs to its count. (`% 2` takes four times as long.)
    half = buckets.sum(axis=1) * 0.5
    odd = half != np.floor(half)
    # One after another, which sum(axis=0) does not promise: in another order the same numbers make another last bit,
    # and a total that falls by it when a worker comes would be taken for a counter that was reset.
    for row in np.where(odd, block[:, -2], block[:, -3]):
        sums += row
