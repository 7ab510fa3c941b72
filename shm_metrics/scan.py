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
import numpy.typing as npt

from shm_metrics import layout as L
from shm_metrics.arrays import FloatArray, IntArray
from shm_metrics.cells import build
from shm_metrics.segment import Segment

__all__ = ["Guarded", "add_rows", "guarded_gauges", "guarded_histograms"]


TRIES = 400
TRIES_BEFORE_YIELDING = 50


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


@dataclass(frozen=True, eq=False)
class Guarded:
    """n series of the same shape.

    indexes: shape (n, width + 1); per series its slots in the order to load them, the guard first and again last.
    whole: says of blocks (m, width + 1) which are one state.
    """

    indexes: IntArray
    whole: Callable[[FloatArray], npt.NDArray[np.bool_]]

    def read(self, segment: Segment, row: int) -> FloatArray:
        """shape (n, width + 1): the row's slots of each series; zeros where it has no memory for them."""
        indexes, block = self.indexes, np.zeros(self.indexes.shape)
        pages = segment.pages[row]
        last = indexes.max(initial=0) // L.SLOTS_PER_PAGE
        if pages[: last + 1].all():
            build.gather(segment.matrix[row], indexes.reshape(-1), block.reshape(-1))
            there: IntArray | None = None
        else:
            low, high = indexes.min(axis=1), indexes.max(axis=1)
            there = np.flatnonzero(
                (pages[low // L.SLOTS_PER_PAGE] != 0) & (pages[high // L.SLOTS_PER_PAGE] != 0)
            )
            if there.size:
                part = np.empty((there.size, indexes.shape[1]))
                build.gather(segment.matrix[row], indexes[there].reshape(-1), part.reshape(-1))
                block[there] = part
        self._look_again(segment, row, block)
        return block

    def _look_again(self, segment: Segment, row: int, block: FloatArray) -> None:
        for turn in range(TRIES):
            moved = np.flatnonzero(~self.whole(block))
            if not moved.size:
                return
            if turn >= TRIES_BEFORE_YIELDING:
                sleep(0)
            again = np.empty((moved.size, block.shape[1]))
            build.gather(segment.matrix[row], self.indexes[moved].reshape(-1), again.reshape(-1))
            block[moved] = again

    def rows(self, segment: Segment, rows: list[int]) -> Iterator[tuple[int, FloatArray]]:
        for row in rows:
            yield row, self.read(segment, row)


def _histogram_whole(block: FloatArray) -> npt.NDArray[np.bool_]:
    sequence = block[:, 0]
    # A sequence further ahead than the one update under way: observations are being moved in from private memory.
    ahead = sequence - block[:, 1:-3].sum(axis=1)
    return np.asarray((sequence == block[:, -1]) & (ahead >= 0.0) & (ahead <= 1.0))


def _gauge_whole(block: FloatArray) -> npt.NDArray[np.bool_]:
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


def histogram_sums(block: FloatArray) -> FloatArray:
    """shape (n,): of a block's two sums the one that belongs to its count."""
    counts = block[:, 1:-3].sum(axis=1)
    odd = (counts % 2.0) != 0.0
    return np.where(odd, block[:, -2], block[:, -3])
