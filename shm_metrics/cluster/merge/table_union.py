"""Many tables as one, and the sums of their parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from shm_metrics.cluster.merge.compensated_sum import add_compensated
from shm_metrics.cluster.model.blob import Part
from shm_metrics.cluster.model.tables import Definition, Rows, Table, cells_of, definition, is_stamped, rule_of
from shm_metrics.model.arrays import BoolArray, FloatArray, IntArray
from shm_metrics.model.families import Family, LabelPairs, SeriesLabels

__all__ = ["TableUnion", "UnionSums"]


class _Route(NamedTuple):
    """Cells and stamps of a table that follow one rule, and where in the union they go."""

    rule: str
    live: bool
    cells: IntArray
    stamps: IntArray
    to_cells: IntArray
    to_stamps: IntArray


class TableUnion:
    """The series of all `tables`, of the families that `take` accepts; each family and series once.

    Gauges with one series per instance, and infos, are left out.
    """

    def __init__(self, tables: Iterable[Table], take: Callable[[Family], bool] = lambda family: True) -> None:
        self._tables = list(dict.fromkeys(tables))
        found: dict[Definition, list[Rows]] = {}
        taken: list[list[tuple[Rows, tuple[int, int], Definition]]] = []
        for table in self._tables:
            taken.append([])
            for rows, start in zip(table.families, table.starts, strict=False):
                if rule_of(rows.family)[0] not in ("each", "said") and take(rows.family):
                    key = definition(rows.family)
                    found.setdefault(key, []).append(rows)
                    taken[-1].append((rows, start, key))
        self.table = Table(tuple(_united(found[key]) for key in sorted(found)))
        places = dict(zip(sorted(found), zip(self.table.families, self.table.starts, strict=False), strict=True))
        indexes: dict[Definition, dict[LabelPairs, int]] = {}
        self._routes: dict[Table, list[_Route]] = {}
        for table, wanted in zip(self._tables, taken, strict=True):
            routes: dict[tuple[str, bool], list[tuple[IntArray, ...]]] = {}
            for rows, start, key in wanted:
                into, into_start = places[key]
                series = _positions(rows.labels, into.labels, key, indexes)
                routes.setdefault(rule_of(rows.family), []).append(_route(rows, start, series, into, into_start))
            self._routes[table] = [
                _Route(rule, live, *(np.concatenate(arrays) for arrays in zip(*found_routes, strict=True)))
                for (rule, live), found_routes in routes.items()
            ]

    def routes(self, table: Table) -> Sequence[_Route]:
        return self._routes[table]


def _united(several: list[Rows]) -> Rows:
    """Return the first family with the series of all; its own labels object if all are equal, for line caches."""
    first = several[0]
    others = [rows.labels for rows in several[1:] if rows.labels is not first.labels and rows.labels != first.labels]
    if not others:
        return first
    return Rows(first.family, SeriesLabels(sorted(set(first.labels).union(*others))))


def _positions(
    labels: SeriesLabels, into: SeriesLabels, key: Definition, indexes: dict[Definition, dict[LabelPairs, int]]
) -> IntArray:
    if labels is into or labels == into:
        return np.arange(len(labels))
    if key not in indexes:
        indexes[key] = {pairs: place for place, pairs in enumerate(into)}
    return np.array(list(map(indexes[key].__getitem__, labels)), np.intp)


def _route(
    rows: Rows, start: tuple[int, int], series: IntArray, into: Rows, into_start: tuple[int, int]
) -> tuple[IntArray, ...]:
    n, family = len(rows.labels), rows.family
    own = np.arange(n)
    stamps = own if is_stamped(family) else own[:0]
    return (
        start[0] + cells_of(family, own, n),
        start[1] + stamps,
        into_start[0] + cells_of(family, series, len(into.labels)),
        into_start[1] + series[: len(stamps)],
    )


class UnionSums:
    """Accumulates the values of a union's series, part by part.

    alive: shape (stamps,), the live gauges that a living instance has.
    """

    def __init__(self, union: TableUnion) -> None:
        self._union = union
        self.cells: FloatArray = np.zeros(union.table.cells)
        self.low: FloatArray = np.zeros(union.table.cells)
        self.stamps: FloatArray = np.zeros(union.table.stamps)
        self.alive: BoolArray = np.zeros(union.table.stamps, np.bool_)

    def add(self, part: Part, *, live: bool = True) -> None:
        """Combine the values of `part` with the accumulated ones. live: also gauges of living instances only."""
        with np.errstate(invalid="ignore", over="ignore"):
            for route in self._union.routes(part.table):
                if live or not route.live:
                    self._add(route, part)

    def _add(self, route: _Route, part: Part) -> None:
        values, at = part.cells[route.cells], route.to_cells
        if route.rule == "add":
            add_compensated(self.cells, self.low, at, values, None if part.low is None else part.low[route.cells])
            self._note(route, part.stamps[route.stamps])
            return
        stamps, known = part.stamps[route.stamps], self.stamps[route.to_stamps]
        if route.rule in ("newest", "shared"):
            if route.rule == "shared":
                # Not set yet, only moved by inc() and dec(): the moves add up.
                moved = (stamps == 0.0) & (known == 0.0)
                low = None if part.low is None else part.low[route.cells][moved]
                add_compensated(self.cells, self.low, at[moved], values[moved], low)
            newer = stamps > known
            self.cells[at[newer]], self.low[at[newer]] = values[newer], 0.0
        else:
            there, choose = stamps > 0.0, np.minimum if route.rule == "min" else np.maximum
            before = self.cells[at]
            best = np.where(known > 0.0, choose(before, values), values)
            self.cells[at] = np.where(there, best, before)
        self._note(route, stamps)

    def _note(self, route: _Route, stamps: FloatArray) -> None:
        at = route.to_stamps
        self.stamps[at] = np.maximum(self.stamps[at], stamps)
        if route.live:
            self.alive[at] = True
