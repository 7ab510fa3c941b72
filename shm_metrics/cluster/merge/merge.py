"""The blobs of all instances, and the totals of those that are gone -> what the cluster shows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shm_metrics.cluster.merge.fold import COUNTED, RETURNED, fold, rest_of, state_of
from shm_metrics.cluster.merge.latest_info import latest_info
from shm_metrics.cluster.merge.table_union import TableUnion, UnionSums
from shm_metrics.cluster.model.blob import Blob, Part, Retired
from shm_metrics.cluster.model.tables import Definition, Table, definition, rule_of
from shm_metrics.model.families import Family, FamilySnapshot, LabelPairs, SeriesLabels

__all__ = ["NODE", "ClusterView", "Conflict", "InstanceInfo", "Merger", "fold", "merge"]

NODE = "node"
"""The label that tells the instances' own gauges apart."""


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """One instance. state: whether and how it is counted, as in fold.py; the rest as in Blob."""

    instance: str
    host: str
    pid: int
    created_at: float
    published_at: float
    sequence: int
    interval: float
    series: int
    state: str
    stale: bool


@dataclass(frozen=True, slots=True)
class Conflict:
    """One name with two definitions: `shown`, and `hidden`, which `instances` publish (0: only retired ones)."""

    name: str
    shown: Family
    hidden: Family
    instances: int
    series: int


@dataclass(frozen=True)
class ClusterView:
    """families: by name; for the exposition. instances: the newest incarnation first."""

    families: list[FamilySnapshot]
    conflicts: list[Conflict]
    instances: list[InstanceInfo]

    @property
    def series(self) -> int:
        return sum(len(found.labels) for found in self.families)

    def family(self, name: str) -> FamilySnapshot | None:
        """The family of this name (a counter's with or without `_total`), or None."""
        return next(
            (found for found in self.families if name in (found.family.name, found.family.name + "_total")), None
        )

    def value(self, name: str, **labels: str) -> float | None:
        """As Snapshot.value."""
        found, wanted = self.family(name), tuple(sorted(labels.items()))
        if found is None or wanted not in found.labels:
            return None
        return float(found.values[found.labels.index(wanted)].sum())


class _Counted(NamedTuple):
    """The parts of an instance that count."""

    blob: Blob
    parts: tuple[Part, ...]
    live: bool


def merge(
    blobs: Iterable[Blob], retired: Retired | None, tombstones: Mapping[str, Blob], *, stale: Collection[str] = ()
) -> ClusterView:
    """Return the view of all blobs; arguments as in Merger.merge."""
    return Merger().merge(blobs, retired, tombstones, stale=stale)


class Merger:
    """Merges blobs repeatedly; the union of their tables is cached while their series do not change."""

    def __init__(self) -> None:
        # One tuple, replaced as a whole: two threads may merge at once.
        self._kept: tuple[object, TableUnion] = (None, TableUnion(()))

    def merge(
        self,
        blobs: Iterable[Blob],
        retired: Retired | None,
        tombstones: Mapping[str, Blob],
        *,
        stale: Collection[str] = (),
    ) -> ClusterView:
        """Return what the cluster shows.

        blobs: the newest of each instance, read before `retired`, and that before `tombstones` (see fold.py).
        tombstones: instance -> the blob of it that was folded. stale: instances whose live gauges count no more.

        Counters, histograms, summaries and sum gauges add up. Other gauges follow their mode: `shared` and `mostrecent`
        show the value set last, and gauges of each worker get the label `node`. If a name has several definitions, that
        of the newest incarnation is shown: it changes once per deployment, the newest publish would change constantly.
        """
        instances, counted = _count(blobs, retired, tombstones, stale)
        tables: dict[Table, int] = {}
        for found in counted:
            for part in found.parts:
                tables[part.table] = tables.get(part.table, 0) + 1
        if retired is not None:
            tables.setdefault(retired.part.table, 0)
        shown, conflicts = _choose(tables)
        key, (known, union) = (tuple(tables), shown), self._kept
        if key != known:
            union = TableUnion(tables, lambda family: shown[family.name] == definition(family))
            self._kept = key, union
        return ClusterView(_families(union, counted, retired, shown), conflicts, instances)


def _count(
    blobs: Iterable[Blob], retired: Retired | None, tombstones: Mapping[str, Blob], stale: Collection[str]
) -> tuple[list[InstanceInfo], list[_Counted]]:
    newest: dict[str, Blob] = {}
    for blob in blobs:
        known = newest.get(blob.instance)
        if known is None or known.sequence < blob.sequence:
            newest[blob.instance] = blob
    instances, counted = [], []
    for blob in sorted(newest.values(), key=lambda found: (found.created_at, found.instance), reverse=True):
        tombstone = tombstones.get(blob.instance)
        state, silent = state_of(blob, retired, tombstone), blob.instance in stale
        if state == COUNTED:
            counted.append(_Counted(blob, blob.parts, not silent))
        elif state == RETURNED and tombstone is not None:
            counted.append(_Counted(blob, rest_of(blob, tombstone), not silent))
        instances.append(
            InstanceInfo(
                blob.instance,
                blob.host,
                blob.pid,
                blob.created_at,
                blob.published_at,
                blob.sequence,
                blob.interval,
                blob.series,
                state,
                silent,
            )
        )
    return instances, counted


def _choose(tables: Mapping[Table, int]) -> tuple[dict[str, Definition], list[Conflict]]:
    """Return name -> the definition that is shown, which is the first one; and the conflicts."""
    shown: dict[str, tuple[Definition, Family]] = {}
    hidden: dict[Definition, Conflict] = {}
    for table, instances in tables.items():
        for rows, key in zip(table.families, table.definitions, strict=True):
            name = rows.family.name
            chosen, family = shown.setdefault(name, (key, rows.family))
            if chosen != key:
                before = hidden.get(key)
                known = (before.instances, before.series) if before is not None else (0, 0)
                hidden[key] = Conflict(
                    name, family, rows.family, known[0] + instances, known[1] + len(rows.labels) * max(1, instances)
                )
    return {name: key for name, (key, _) in shown.items()}, list(hidden.values())


def _families(
    union: TableUnion, counted: list[_Counted], retired: Retired | None, shown: Mapping[str, Definition]
) -> list[FamilySnapshot]:
    def take(family: Family) -> bool:
        return shown[family.name] == definition(family)

    sums = UnionSums(union)
    if retired is not None:
        sums.add(retired.part, live=False)
    for found in counted:
        for part in found.parts:
            sums.add(part, live=found.live)
    infos, said_at = latest_info(_parts(counted, retired), take)
    return sorted(
        [
            *_shown(union.table, sums),
            *_each(counted, take),
            *Table(tuple(infos)).snapshots(np.empty(0), said_at),
        ],
        key=lambda snapshot: snapshot.family.name,
    )


def _parts(counted: list[_Counted], retired: Retired | None) -> Iterator[Part]:
    for found in counted:
        yield from found.parts
    if retired is not None:
        yield retired.part


def _shown(table: Table, sums: UnionSums) -> Iterator[FamilySnapshot]:
    """Yield the families of the union. A live gauge without a living instance is left out; an empty sum is 0."""
    for snapshot, start in zip(table.snapshots(sums.cells, sums.stamps), table.starts, strict=False):
        rule, live = rule_of(snapshot.family)
        alive = sums.alive[start[1] : start[1] + len(snapshot.labels)]
        if not live or rule == "add" or alive.all():
            yield snapshot
            continue
        labels = SeriesLabels(pairs for pairs, there in zip(snapshot.labels, alive, strict=True) if there)
        stamps = None if snapshot.stamps is None else snapshot.stamps[alive]
        yield FamilySnapshot(snapshot.family, labels, snapshot.values[alive], stamps=stamps)


def _each(counted: list[_Counted], take: Callable[[Family], bool]) -> Iterator[FamilySnapshot]:
    """Yield the gauges that have one series per worker, distinguished by `node` besides their pid."""
    families: dict[Definition, Family] = {}
    found: dict[Definition, dict[LabelPairs, tuple[float, float]]] = {}
    for blob, parts, fresh in counted:
        node = f"{blob.host}:{blob.instance[:8]}"
        for part in parts:
            for rows, key, start in zip(part.table.families, part.table.definitions, part.table.starts, strict=False):
                rule, live = rule_of(rows.family)
                if rule != "each" or not take(rows.family):
                    continue
                families.setdefault(key, rows.family)
                series = found.setdefault(key, {})
                if fresh or not live:
                    values = part.cells[start[0] : start[0] + len(rows.labels)].tolist()
                    stamps = part.stamps[start[1] : start[1] + len(rows.labels)].tolist()
                    for labels, value, stamp in zip(rows.labels, values, stamps, strict=True):
                        series[_with_node(labels, node)] = value, stamp
    for key, family in families.items():
        numbers = np.array(list(found[key].values()), np.float64).reshape(-1, 2)
        yield FamilySnapshot(family, SeriesLabels(found[key]), numbers[:, 0].copy(), stamps=numbers[:, 1])


def _with_node(labels: LabelPairs, node: str) -> LabelPairs:
    """Return `labels` with `node`; an application's label of that name becomes `exported_node`, as in Prometheus."""
    renamed = ((f"exported_{name}" if name == NODE else name, value) for name, value in labels)
    return tuple(sorted((*renamed, (NODE, node))))
