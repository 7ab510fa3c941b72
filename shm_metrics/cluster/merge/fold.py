"""An instance that is gone -> the retired totals, exactly once.

An instance moves through these states; `sequence` is that of its newest blob, `folded` that of the one in the totals:

    nothing folded              counted      its blob is counted
    sequence <= folded          folded       its blob is ignored: it is in the totals
    sequence > folded           returned     its blob less its tombstone is counted; the tombstone is the blob that was folded
    the same, and no tombstone       unknown      its blob is ignored: a part of it is in the totals, nobody knows how much

The record says itself what it holds, so that writing it is the whole fold; whatever is written before (tombstones) or
removed after (blobs) may be lost on the way. Read blobs first, then the record, then the tombstones it names: an instance
that is folded in between is then seen twice and counted once, where in another order it would be missing.

A tombstone is kept under instance and sequence. A fold that dies between tombstone and record has then not replaced the tombstone that
the record in force needs.
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
    """What of the blob counts beside the retired totals."""
    folded = None if retired is None else retired.folded.get(blob.instance)
    if folded is None:
        return COUNTED
    if blob.sequence <= folded.sequence:
        return FOLDED
    return RETURNED if tombstone is not None and tombstone.sequence == folded.sequence else UNKNOWN


def rest_of(blob: Blob, tombstone: Blob) -> tuple[Part, ...]:
    """The blob less its tombstone: what was added up becomes a difference, what was set stays as it is.

    A series that the blob has no more (it was removed) is no difference; one that began anew may be a negative one.
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
        # What only the living show was never folded.
        rule, live = rule_of(rows.family)
        if rule not in ("add", "shared") or live or key not in known:
            continue
        old_rows, old_start = old.table.families[known[key]], old.table.starts[known[key]]
        series, old_series = _in_both(rows.labels, old_rows.labels)
        if rule == "shared":
            # One that was set is no sum: the newest one wins.
            moved = (part.stamps[start[1] + series] == 0.0) & (old.stamps[old_start[1] + old_series] == 0.0)
            series, old_series = series[moved], old_series[moved]
        at = start[0] + cells_of(rows.family, series, len(rows.labels))
        old_at = old_start[0] + cells_of(rows.family, old_series, len(old_rows.labels))
        assert part.low is not None
        with np.errstate(invalid="ignore", over="ignore"):
            add_compensated(part.cells, part.low, at, -old.cells[old_at])


def _in_both(labels: SeriesLabels, old: SeriesLabels) -> tuple[IntArray, IntArray]:
    """Where the series that are in both are, in each. Most often they are the same, scrape after scrape."""
    if labels is old or labels == old:
        same = np.arange(len(labels))
        return same, same
    index = {pairs: place for place, pairs in enumerate(old)}
    both = [(place, index[pairs]) for place, pairs in enumerate(labels) if pairs in index]
    series, old_series = np.array(both, np.intp).reshape(-1, 2).T
    return series, old_series


def fold(retired: Retired | None, blob: Blob, tombstone: Blob | None, now: float, *, token: int | None = None) -> Retired:
    """The record with `blob` in its totals; the record itself if it was there already. `blob` is its next tombstone.

    tombstone: the blob of the same instance that was folded before, if one was. now: Unix seconds.
    token: the fencing token of the one who folds; that of the record, if left out.

    Sums are added, min and max meet, what is set goes by the newest; what only living workers or instances show is
    dropped. Where the tombstone is lost, nothing is added: what came since is unknown, and what comes from here on is not.
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
    # The same series: the same table, and its bytes need not be made again.
    table = before.table if families == before.table.families else Table(families)
    return Part(table, sums.cells, np.concatenate((sums.stamps, said_at)), sums.low)


def forget(retired: Retired, before: float, *, living: Collection[str] = ()) -> Retired:
    """The record without the instances that were folded before this time (Unix seconds); their totals stay.

    living: who is never forgotten: its blob would count beside the totals that it is in. Who comes back later than that
    learns from `forgotten` that it may be in the totals.
    """
    kept = {name: folded for name, folded in retired.folded.items() if folded.at >= before or name in living}
    gone = [folded.sequence for name, folded in retired.folded.items() if name not in kept]
    if not gone:
        return retired
    return replace(retired, version=retired.version + 1, folded=kept, forgotten=max(retired.forgotten, *gone))
