"""The shape of a family: how many lines a series has on a page, and its numbers in the order of these lines."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from shm_metrics.model.arrays import FloatArray
from shm_metrics.model.families import HISTOGRAM, STATESET, SUMMARY, Family

__all__ = ["LineShape", "line_shape"]


@dataclass(frozen=True, slots=True)
class LineShape:
    """What decides how many lines a series has, and how they come from its cells.

    type: histogram, summary or stateset; "" for one line a series.
    cells: buckets of a histogram, states of a stateset, else 1.
    totals: whether a histogram shows its count and sum.
    """

    type: str
    cells: int
    totals: bool = True

    @property
    def lines(self) -> int:
        """How many lines a series has."""
        return {HISTOGRAM: self.cells + 2 * self.totals, SUMMARY: 2, STATESET: self.cells}.get(self.type, 1)

    def array(self, values: FloatArray, sums: FloatArray | None) -> FloatArray:
        """Return the numbers of all lines, flat.

        histogram: the k cumulative buckets, the count (the last bucket again) and the sum of each series;
        summary: count and sum; stateset: 1.0 for the current state, 0.0 for the others; else the values.
        """
        if self.type == HISTOGRAM:
            numbers = np.empty((len(values), self.cells + 2 * self.totals))
            np.cumsum(values, axis=1, out=numbers[:, : self.cells])
            if self.totals:
                numbers[:, self.cells] = numbers[:, self.cells - 1]
                numbers[:, self.cells + 1] = _given(sums)
            return numbers.reshape(-1)
        if self.type == SUMMARY:
            return np.stack((values, _given(sums)), axis=1).reshape(-1)
        if self.type == STATESET:
            current: FloatArray = (values[:, None] == np.arange(self.cells)).astype(np.float64)
            return current.reshape(-1)
        return np.ascontiguousarray(values, dtype=np.float64)

    def list(self, values: FloatArray, sums: FloatArray | None) -> list[float]:
        """Return `array` as a list, without numpy's fixed costs where that pays: for families of a few series."""
        if self.type == HISTOGRAM and self.totals:
            numbers: list[float] = []
            for row, total in zip(values.tolist(), _given(sums).tolist(), strict=True):
                numbers += accumulate(row)
                numbers += (numbers[-1], total)
            return numbers
        flat: list[float] = (self.array(values, sums) if self.type else values).tolist()
        return flat


def _given(sums: FloatArray | None) -> FloatArray:
    if sums is None:
        raise ValueError("a histogram or summary needs the sums of its series: give FamilySnapshot(sums=...)")
    return sums


def line_shape(family: Family, openmetrics: bool = False) -> LineShape:
    """Return the shape of `family`; families of equal shape may share a run.

    In OpenMetrics a histogram with negative bounds may show neither sum nor count: its sum could fall.
    """
    if family.type == HISTOGRAM:
        return LineShape(HISTOGRAM, len(family.bounds), not (openmetrics and family.bounds[0] < 0))
    if family.type == STATESET:
        return LineShape(STATESET, len(family.states))
    return LineShape(SUMMARY if family.type == SUMMARY else "", 1)
