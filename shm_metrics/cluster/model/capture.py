"""Snapshot -> Blob.

The order is by name and labels, not by who asked for a series first: two instances with the same series then have the
same table, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from shm_metrics.cluster.codec.wire import packed
from shm_metrics.cluster.model.blob import Blob, Part
from shm_metrics.cluster.model.tables import Rows, Table, cells_of, definition, is_stamped, rule_of, width
from shm_metrics.model.arrays import FloatArray, IntArray
from shm_metrics.model.families import INFO, Family, FamilySnapshot, LabelPairs, SeriesLabels
from shm_metrics.model.family_run import FamilyRun
from shm_metrics.model.snapshot import Snapshot

__all__ = ["Capture"]

STAMP_STEPS = 1024.0  # stamps are published to about a millisecond: finer ones cost bytes, and clocks differ more


@dataclass(frozen=True)
class _Order:
    """A part's table, and where its cells and stamps are in the arrays of the scan."""

    table: Table
    cells: IntArray
    stamps: IntArray


class Capture:
    """Makes the blobs of one instance; the order of the series is cached while they do not change."""

    def __init__(self) -> None:
        self._kept: tuple[list[object], tuple[_Order, ...]] = ([], ())

    def blob(
        self,
        snapshot: Snapshot,
        *,
        host: str,
        pid: int,
        created_at: float,
        sequence: int,
        token: int = 0,
        interval: float = 0.0,
        published_at: float | None = None,
    ) -> Blob:
        """Return the blob of `snapshot`, which must have been taken with stamps; the other arguments as in Blob.

        published_at: Unix seconds; the time of the snapshot if left out.
        """
        items = snapshot.items
        for item in items:
            _check_stamps(item)
        key = [found for item in items for found in _key(item)]
        if key != self._kept[0]:
            self._kept = key, _orders(items)
        orders = self._kept[1]
        cells = np.concatenate([np.empty(0), *(array for item in items for array in _cells(item))])
        set_at = [item.stamps for item in items if isinstance(item, FamilySnapshot) and item.stamps is not None]
        stamps = np.floor(np.concatenate([np.empty(0), *set_at]) * STAMP_STEPS) / STAMP_STEPS
        parts = tuple(Part(order.table, cells[order.cells], stamps[order.stamps]) for order in orders)
        at = snapshot.taken_at if published_at is None else published_at
        return Blob(snapshot.incarnation, host, pid, created_at, at, sequence, token, interval, parts)


def _check_stamps(item: FamilyRun | FamilySnapshot) -> None:
    families = item.families if isinstance(item, FamilyRun) else [(item.family, item.labels)]
    missing = isinstance(item, FamilyRun) or item.stamps is None
    if missing and families and is_stamped(families[0][0]):
        raise ValueError(f"{families[0][0].name}: no stamps; ask for them: snapshot(stamps=True)")


def _key(item: FamilyRun | FamilySnapshot) -> tuple[object, ...]:
    """Return objects that stay the same while the series do, so that comparing them is cheap."""
    return (item.families,) if isinstance(item, FamilyRun) else (item.family, item.labels, item.keys)


def _cells(item: FamilyRun | FamilySnapshot) -> Iterable[FloatArray]:
    family = item.families[0][0] if isinstance(item, FamilyRun) else item.family
    if family.type != INFO:
        yield item.values.reshape(-1)
    if item.sums is not None:
        yield item.sums


def _orders(items: Iterable[FamilyRun | FamilySnapshot]) -> tuple[_Order, ...]:
    common: list[tuple[Rows, IntArray, IntArray]] = []
    own: list[tuple[Rows, IntArray, IntArray]] = []
    cell = stamp = 0
    for item in items:
        group = list(item.families) if isinstance(item, FamilyRun) else [(item.family, item.labels)]
        keys = item.keys if isinstance(item, FamilySnapshot) else None
        of, first = sum(len(labels) for _, labels in group), 0
        for family, labels in group:
            order = sorted(range(len(labels)), key=labels.__getitem__)
            series = np.array(order, np.intp)
            rows = Rows(family, SeriesLabels(labels[at] for at in order), _ordered(family, keys, order))
            target = own if rule_of(family)[0] in ("each", "said") else common
            at = stamp + series if is_stamped(family) else series[:0]
            target.append((rows, cell + cells_of(family, first + series, of), at))
            stamp += len(labels) * is_stamped(family)
            first += len(labels)
        cell += of * width(group[0][0]) if group else 0
    return tuple(_order(part) for part in (common, own) if part)


def _ordered(family: Family, keys: tuple[LabelPairs, ...] | None, order: list[int]) -> tuple[LabelPairs, ...] | None:
    if family.type != INFO:
        return None
    assert keys is not None, f"{family.name}: an info without keys"
    return tuple(keys[at] for at in order)


def _order(part: list[tuple[Rows, IntArray, IntArray]]) -> _Order:
    part.sort(key=lambda found: definition(found[0].family))
    nothing = np.empty(0, np.intp)
    return _Order(
        packed(Table(tuple(rows for rows, _, _ in part))),
        np.concatenate([nothing, *(cells for _, cells, _ in part)]),
        np.concatenate([nothing, *(stamps for _, _, stamps in part)]),
    )
