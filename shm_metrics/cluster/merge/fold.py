"""An instance that is gone -> the retired totals, exactly once.

An instance is in one of these states. `sequence` is that of its newest blob, `folded` that of the blob in the totals.
The tombstone is the blob that was folded.

    nothing folded                          counted      its blob is counted
    sequence <= folded                      folded       its blob is ignored: it is in the totals
    sequence > folded                       returned     its blob less its tombstone is counted
    sequence > folded, no tombstone         unknown      its blob is ignored: an unknown part of it is in the totals

The record lists the instances that it holds, so one write of the record is the whole fold. Tombstones are written
before it and blobs removed after it; either may be lost. Read blobs first, then the record, then the tombstones that it
names: an instance that is folded in between is then seen twice and counted once. In another order it would be missing.

A tombstone is kept under instance and sequence: a fold that dies between tombstone and record has not replaced the
tombstone that the current record needs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from shm_metrics.cluster.merge.compensated_sum import add_compensated
from shm_metrics.cluster.merge.latest_info import latest_info
from shm_metrics.cluster.merge.table_union import TableUnion, UnionSums
from shm_metrics.cluster.model.blob import Blob, Folded, Part, Retired
from shm_metrics.cluster.model.tables import Table, cells_of, rule_of
from shm_metrics.model.arrays import IntArray
from shm_metrics.model.families import SeriesLabels

__all__ = ["COUNTED", "FOLDED", "RETURNED", "UNKNOWN", "fold", "forget", "rest_of", "state_of"]

COUNTED, FOLDED, RETURNED, UNKNOWN = "counted", "folded", "returned", "unknown"


def state_of(blob: Blob, retired: Retired | None, tombstone: Blob | None) -> str:
    """Return the state of the blob's instance: what of the blob counts beside the retired totals."""
    folded = None if retired is None else retired.folded.get(blob.instance)
    if folded is None:
        return COUNTED
    if blob.sequence <= folded.sequence:
        return FOLDED
    return RETURNED if tombstone is not None and tombstone.sequence == folded.sequence else UNKNOWN


def rest_of(blob: Blob, tombstone: Blob) -> tuple[Part, ...]:
    """Return the blob less its tombstone: sums become differences, values that were set stay as they are.

    A series that is only in the tombstone was removed and makes no difference. One that started again from zero may
    make a negative difference.
    """
    parts = []
    for part in blob.parts:
        rest = Part(part.table, part.cells.copy(), part.stamps, np.zeros(part.table.cells))
        for old in tombstone.parts:
            _subtract(rest, old)
        parts.append(rest)
    return tuple(parts)


def _subtract(part: Part, old: Part) -> None:
    known = {key: place for place, key in enumerate(old.table.definitions)}
    for rows, key, start in zip(part.table.families, part.table.definitions, part.table.starts, strict=False):
        # Values that only living instances show were never folded.
        rule, live = rule_of(rows.family)
        if rule not in ("add", "shared") or live or key not in known:
            continue
        old_rows, old_start = old.table.families[known[key]], old.table.starts[known[key]]
        series, old_series = _in_both(rows.labels, old_rows.labels)
        if rule == "shared":
            # A gauge that was set is no sum: the newest value wins.
            moved = (part.stamps[start[1] + series] == 0.0) & (old.stamps[old_start[1] + old_series] == 0.0)
            series, old_series = series[moved], old_series[moved]
        at = start[0] + cells_of(rows.family, series, len(rows.labels))
        old_at = old_start[0] + cells_of(rows.family, old_series, len(old_rows.labels))
        assert part.low is not None
        with np.errstate(invalid="ignore", over="ignore"):
            add_compensated(part.cells, part.low, at, -old.cells[old_at])


def _in_both(labels: SeriesLabels, old: SeriesLabels) -> tuple[IntArray, IntArray]:
    """Return the positions, in each, of the series that are in both. Mostly both are equal, scrape after scrape."""
    if labels is old or labels == old:
        same = np.arange(len(labels))
        return same, same
    index = {pairs: place for place, pairs in enumerate(old)}
    both = [(place, index[pairs]) for place, pairs in enumerate(labels) if pairs in index]
    series, old_series = np.array(both, np.intp).reshape(-1, 2).T
    return series, old_series


def fold(
    retired: Retired | None, blob: Blob, tombstone: Blob | None, now: float, *, token: int | None = None
) -> Retired:
    """Return the record with `blob` in its totals; the record itself if the blob is already in them.

    `blob` becomes the tombstone of its instance.

    tombstone: the blob of the same instance that was folded before, if one was. now: Unix seconds.
    token: the fencing token of the folding leader; that of the record if left out.

    Sums are added, minima and maxima merged; of values that were set the newest wins. Values that only living workers
    or instances show are dropped. If the tombstone is lost, nothing is added: the increase since is unknown.
    """
    retired = retired or Retired()
    state = state_of(blob, retired, tombstone)
    if state == FOLDED:
        return retired
    parts: tuple[Part, ...] = ()
    if state == COUNTED:
        parts = blob.parts
    elif state == RETURNED and tombstone is not None:
        parts = rest_of(blob, tombstone)
    return Retired(
        retired.version + 1,
        retired.token if token is None else token,
        {**retired.folded, blob.instance: Folded(blob.sequence, now)},
        _sum(retired.part, parts),
        retired.forgotten,
    )


def _sum(before: Part, parts: tuple[Part, ...]) -> Part:
    union = TableUnion([before.table, *(part.table for part in parts)], lambda family: not rule_of(family)[1])
    sums = UnionSums(union)
    for part in (before, *parts):
        sums.add(part, live=False)
    infos, said_at = latest_info([before, *parts])
    families = (*union.table.families, *infos)
    # Equal series share the table, whose bytes are encoded already.
    table = before.table if families == before.table.families else Table(families)
    return Part(table, sums.cells, np.concatenate((sums.stamps, said_at)), sums.low)


def forget(retired: Retired, before: float, *, living: Collection[str] = ()) -> Retired:
    """Return the record without the instances that were folded before `before` (Unix seconds); their totals stay.

    living: instances that are never forgotten: their blobs would count beside the totals that hold them. An instance
    that returns later learns from `forgotten` that it may be in the totals.
    """
    kept = {name: folded for name, folded in retired.folded.items() if folded.at >= before or name in living}
    gone = [folded.sequence for name, folded in retired.folded.items() if name not in kept]
    if not gone:
        return retired
    return replace(retired, version=retired.version + 1, folded=kept, forgotten=max(retired.forgotten, *gone))
