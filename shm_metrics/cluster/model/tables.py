"""Which series a blob has, apart from their values.

The values of a table are two arrays. `cells`, family after family: what is counted or set. `stamps`, family after
family: when it was set, in Unix seconds.

    family (n series)   cells                                               stamps
    counter             n totals
    histogram           n x k buckets, not cumulative, then n sums
    summary             n counts, then n sums
    gauge               n values                                            n
    stateset            n state indexes                                     n
    info                                                                    n
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from shm_metrics.model.arrays import FloatArray, IntArray
from shm_metrics.model.families import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    INFO,
    STATESET,
    SUMMARY,
    Family,
    FamilySnapshot,
    LabelPairs,
    SeriesLabels,
)
from shm_metrics.model.gauge_modes import MODES
from shm_metrics.runtime.cached_property import cached_property

__all__ = ["Definition", "Rows", "Table", "cells_of", "definition", "is_stamped", "rule_of", "width"]

Definition: TypeAlias = "tuple[str, str, str, str, tuple[float, ...], tuple[str, ...]]"


def definition(family: Family) -> Definition:
    """Return what distinguishes two families: everything but the documentation."""
    return family.name, family.type, family.unit, family.mode, family.bounds, family.states


def rule_of(family: Family) -> tuple[str, bool]:
    """Return how the values of instances are combined, and whether only those of living instances are.

    add, min, max, newest, shared, each: as in gauge_modes; said: an info.
    """
    if family.type in (COUNTER, HISTOGRAM, SUMMARY):
        return "add", False
    if family.type != GAUGE:
        return ("said" if family.type == INFO else "newest"), False
    mode = MODES[family.mode]
    return ("add" if mode.combine == "sum" else mode.combine), mode.live


def width(family: Family) -> int:
    """Return the number of cells of a series."""
    return {HISTOGRAM: len(family.bounds) + 1, SUMMARY: 2, INFO: 0}.get(family.type, 1)


def is_stamped(family: Family) -> bool:
    """Whether its series have stamps."""
    return family.type in (GAUGE, INFO, STATESET)


@dataclass(frozen=True, slots=True)
class Rows:
    """One family's series. keys: the labels of an info without those that it sets; None for other types."""

    family: Family
    labels: SeriesLabels
    keys: tuple[LabelPairs, ...] | None = None


@dataclass(frozen=True, eq=False)
class Table:
    """The families and series of a part. Compared by identity: decoding and capture reuse the table of equal series.

    packed: its compressed bytes, their digest and their length before compression, once they have been made.
    """

    families: tuple[Rows, ...]
    packed: tuple[bytes, bytes, int] | None = None

    @cached_property
    def series(self) -> int:
        return sum(len(rows.labels) for rows in self.families)

    @cached_property
    def definitions(self) -> tuple[Definition, ...]:
        return tuple(definition(rows.family) for rows in self.families)

    @cached_property
    def starts(self) -> tuple[tuple[int, int], ...]:
        """The first cell and the first stamp of each family, and one more entry with the ends of the arrays."""
        cell = stamp = 0
        found = [(0, 0)]
        for rows in self.families:
            cell += len(rows.labels) * width(rows.family)
            stamp += len(rows.labels) * is_stamped(rows.family)
            found.append((cell, stamp))
        return tuple(found)

    @property
    def cells(self) -> int:
        return self.starts[-1][0]

    @property
    def stamps(self) -> int:
        return self.starts[-1][1]

    def snapshots(self, cells: FloatArray, stamps: FloatArray) -> Iterator[FamilySnapshot]:
        """Yield the values as snapshots for the exposition; the arrays are views."""
        for rows, start in zip(self.families, self.starts, strict=False):
            family, n = rows.family, len(rows.labels)
            own = cells[start[0] : start[0] + n * width(family)]
            set_at = stamps[start[1] : start[1] + n] if is_stamped(family) else None
            if family.type == HISTOGRAM:
                k = len(family.bounds)
                yield FamilySnapshot(family, rows.labels, own[: n * k].reshape(n, k), own[n * k :])
            elif family.type == SUMMARY:
                yield FamilySnapshot(family, rows.labels, own[:n], own[n:])
            elif family.type == INFO:
                yield FamilySnapshot(family, rows.labels, np.ones(n), stamps=set_at, keys=rows.keys)
            else:
                yield FamilySnapshot(family, rows.labels, own, stamps=set_at)


def cells_of(family: Family, series: IntArray, of: int) -> IntArray:
    """Return the positions of the cells of these series within a family of `of` series, in the order of a table."""
    if family.type == HISTOGRAM:
        k = len(family.bounds)
        buckets = (series[:, None] * k + np.arange(k)).reshape(-1)
        return np.concatenate((buckets, of * k + series))
    if family.type == SUMMARY:
        return np.concatenate((series, of + series))
    return series[: len(series) * width(family)]
