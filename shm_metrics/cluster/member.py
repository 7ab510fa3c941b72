"""One process as a member of the cluster: what it does when it holds a lease.

Two leases. Who holds that of its segment publishes the segment's absolute aggregate. Who holds the cluster's folds the
instances that nobody publishes any more into the retired totals.

Silence is watched here, on this process' monotonic clock: an instance is silent while the sequence of its blob does
not change. No two hosts' clocks are compared, and a leader that has just begun, or could not ask the cache for a while,
takes nobody for silent.

    1. host A dies; its blob stays as it is                         the cluster's totals stay
    2. the leader B sees no new sequence of A for `stale_after`     B keeps a copy of the blob
    3. the cache loses the blob                                     who has read it shows its copy; B folds its own
    4. no new sequence for `retention`                              B folds: record, with A in it, replaces record
    5. B dies before it removes A's blob                            readers ignore the blob: the record says it is in it
    6. the next leader C finds blob and record                      C removes the blob, and nothing is added twice
"""

from __future__ import annotations

import math
import os
import secrets
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shm_metrics.cluster.codec.blob_decoder import Decoder
from shm_metrics.cluster.codec.wire import encode, encode_retired
from shm_metrics.cluster.config import SyncConfig
from shm_metrics.cluster.lease import Lease
from shm_metrics.cluster.liveness import Sightings
from shm_metrics.cluster.merge.fold import FOLDED, fold, forget, state_of
from shm_metrics.cluster.merge.merge import ClusterView, Merger
from shm_metrics.cluster.model.blob import Blob, Retired
from shm_metrics.cluster.model.capture import Capture
from shm_metrics.cluster.publish_journal import Sent
from shm_metrics.cluster.retired_store import Record
from shm_metrics.cluster.stores.protocol import CLUSTER, LOCAL_ONLY, OldSequenceError, Store, segment_scope
from shm_metrics.errors import LockLostError

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

__all__ = ["Member", "Published"]

FOLDED_AT_ONCE = 100
"""Instances in one fold: thousands that ended together must not make a write that takes longer than the time-out."""


@dataclass(frozen=True, slots=True)
class Published:
    """What one publish sent. series: by type."""

    series: dict[str, int]
    bytes: int
    sequence: int


class Member:
    """backend: whose segment it publishes. store: where. now: a monotonic clock; wall: Unix seconds."""

    def __init__(
        self,
        backend: MetricsBackend,
        store: Store,
        config: SyncConfig,
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.config = config
        self.instance = backend.instance_id
        owner = f"{self.instance}:{os.getpid()}:{secrets.token_hex(4)}"
        self.segment_lease = Lease(store, segment_scope(self.instance), owner, config.lease_ttl, now=now)
        self.cluster_lease = Lease(store, CLUSTER, owner, config.lease_ttl, now=now)
        self._backend = backend
        self._now, self._wall = now, wall
        self._capture = Capture()
        self._merger = Merger()
        self._decoder = Decoder()
        self._record = Record(store, self._decoder)
        self._sightings = Sightings(config.interval)
        self._sequence = 0
        self._sent: tuple[Blob, ...] = ()
        """Our first blob and our last since the last look: if we were folded meanwhile, the first is our tombstone."""
        self._own: Sent | None = None
        self._unknown: set[str] = set()
        """Who had returned, and had no tombstone, when we looked last."""

    @property
    def damaged(self) -> dict[str, str]:
        """instance -> why its blob cannot be read now, and is left out; the retired record stands there as CLUSTER."""
        return dict(self._decoder.damaged)

    # -- publishing -----------------------------------------------------------------------------------------------

    def publish(self) -> Published:
        """Publish the segment as it is now. Raises LockLostError when the lease is not ours, and SyncError."""
        grant = self.segment_lease.grant
        own = self._remembered()
        self._see_whether_we_were_forgotten(own)
        snapshot = self._backend.snapshot(stamps=True)
        for _ in range(2):
            self._sequence = max(self._sequence + 1, int(self._wall() * 1e9))
            whole = self._capture.blob(
                snapshot,
                host=socket.gethostname(),
                pid=os.getpid(),
                created_at=self._backend.created_at,
                sequence=self._sequence,
                token=grant.token,
                interval=self.config.interval,
                published_at=self._wall(),
            )
            blob = own.beyond_base(whole)
            data = encode(blob)
            own.remember(whole, data if blob is whole else None)
            sent = self._now()
            try:
                self.store.publish(grant, self.instance, data, self._sequence, self.config.lease_ttl)
            except OldSequenceError as error:
                self._sequence = error.newest  # a leader before us had a clock that was ahead
            except LockLostError:
                self.segment_lease.denied()
                raise
            else:
                self.segment_lease.renewed(sent)
                self._sent = (*self._sent[:1], blob)
                own.accepted = self._sequence
                return Published(_count(blob), len(data), self._sequence)
        raise LockLostError(f"{self.instance}: somebody else publishes it at the same time")

    def _remembered(self) -> Sent:
        if self._own is None:
            place = self._backend.place
            # A private segment has no place, and without a cache the totals are the segment's own.
            alone = not os.path.isabs(place.path) or self.store.strategy == LOCAL_ONLY
            self._own = Sent(None if alone else place.sent, self.instance)
        return self._own

    def _see_whether_we_were_forgotten(self, own: Sent) -> None:
        """After a long silence: whether we were folded, and the record does not say so any more (see sent.py)."""
        last = own.last
        # Nobody is folded sooner. Either way, as a clock may have been set.
        if last is None or abs(self._wall() - last.sequence / 1e9) < self.config.retention:
            return
        record = self._record.read()
        if own.may_be_forgotten_by(record) and self.instance not in self.store.instances():  # else it was never folded
            own.begin_beyond(last)

    # -- the retired totals -----------------------------------------------------------------------------------------

    def observe_and_fold(self) -> None:
        """See who is there, and fold whoever is not, if the cluster's lease is ours. Raises SyncError."""
        self._record.read()
        self._record.put_back()
        there = self.store.instances()
        self._sightings.look(there, self._now())
        self._sightings.drop_folded(self._record.folded)
        self._see_whether_we_were_folded()
        leads = self.cluster_lease.held
        returned = self._record.returned(there)
        # Each host has its own tombstone put back when it is lost, and the leader all that it knows.
        tombstones = self._record.tombstones(returned, check=returned if leads else (self.instance,))
        unknown = returned.keys() - tombstones.keys()
        still_unknown, self._unknown = unknown & self._unknown, unknown
        if leads:
            self._keep_copies()
            self._fold(self._silent(), still_unknown)
        self._drop_lost()

    def _see_whether_we_were_folded(self) -> None:
        folded = self._record.folded.get(self.instance)
        if folded is not None:
            # The blob was removed, so nothing refuses the lower sequence of a clock that was set back since.
            self._sequence = max(self._sequence, folded.sequence)
            if self._own is not None:
                self._own.accepted = folded.sequence  # so much of us may be forgotten one day, and no more of it
            for blob in self._sent:
                if blob.sequence == folded.sequence:
                    self._record.keep_tombstone(blob)
        self._sent = self._sent[-1:]

    def _keep_copies(self) -> None:
        """Of the blobs that nobody will publish again, if the cache should lose them before they are folded."""
        wanted = [
            instance
            for instance, seen in self._sightings.items()
            if seen.there
            and seen.silent >= self.config.stale_after
            and (seen.copy is None or seen.copy.sequence != seen.sequence)
        ]
        if wanted:
            self._sightings.keep(self._decoder.blobs(self.store.fetch(wanted[:FOLDED_AT_ONCE])).values())

    def _silent(self) -> list[str]:
        """Who is to be folded: silent for `retention`; or gone from the cache, and silent for long enough to be so."""
        there, lost = self.config.retention, min(self.config.stale_after, self.config.retention)
        return [
            instance
            for instance, seen in self._sightings.items()
            if instance != self.instance and seen.silent >= (there if seen.there else lost)
        ]

    def _fold(self, silent: Collection[str], unknown: Collection[str]) -> None:
        """unknown: those whose tombstones are lost for good. Nothing of them is added, and they count again from here on."""
        grant, retired = self.cluster_lease.grant, self._record.newest
        names = [*silent, *(name for name in unknown if name not in silent)][:FOLDED_AT_ONCE]
        after, packed, gone = retired or Retired(), dict[str, bytes](), dict[str, int]()
        blobs = self._to_fold(names, unknown, gone)
        tombstones = self._record.tombstones(self._record.returned({name: blob.sequence for name, blob in blobs.items()}))
        replaced = {name: after.folded[name].sequence for name in blobs if name in after.folded}
        for name, blob in blobs.items():
            gone[name] = blob.sequence
            if state_of(blob, after, tombstones.get(name)) != FOLDED:
                after = fold(after, blob, tombstones.get(name), self._wall(), token=grant.token)
                packed[name] = encode(blob)
        # Whoever has just begun to look may not have seen yet who lives.
        before = (
            self._wall() - self.config.return_within if self._sightings.watched >= self.config.retention else -math.inf
        )
        kept = forget(after, before, living=self._sightings.names)
        forgotten = {name: folded.sequence for name, folded in after.folded.items() if name not in kept.folded}
        if not gone and not forgotten:
            return
        forgotten |= {name: sequence for name, sequence in replaced.items() if name in packed}
        expected = 0 if retired is None else retired.version
        after = replace(kept, version=expected + 1, token=grant.token)
        data = encode_retired(after)
        try:
            done = self.store.commit_fold(grant, expected, data, after.version, packed, gone, forgotten)
        except LockLostError:
            self.cluster_lease.denied()
            raise
        if done:
            self._record.replaced(after, data)
            self._sightings.drop(gone)

    def _to_fold(self, names: Collection[str], unknown: Collection[str], gone: dict[str, int]) -> dict[str, Blob]:
        """The last blob of each, or our copy; `gone` gets those of whom nothing is left but the name."""
        found = self.store.fetch(names) if names else {}
        readable, blobs = self._decoder.blobs(found), dict[str, Blob]()
        for name in names:
            seen, blob = self._sightings.get(name), readable.get(name)
            assert seen is not None
            if blob is not None:
                if blob.sequence == seen.sequence or name in unknown:
                    blobs[name] = blob  # another one was published a moment ago
            elif name in found:
                continue  # perhaps one that a later version of us can read
            elif seen.copy is not None:
                blobs[name] = seen.copy
            elif seen.there:
                gone[name] = seen.sequence
        return blobs

    def _drop_lost(self) -> None:
        # Two intervals later than whoever leads would have folded it.
        self._sightings.drop_lost(self.config.retention + 2 * self.config.interval, self.config.return_within)

    # -- reading ----------------------------------------------------------------------------------------------------

    def read(self) -> tuple[ClusterView, dict[str, Blob]]:
        """All instances together, and the blob of each. Raises SyncError.

        What this process has read before stands in for what the cache has lost since, so that totals do not fall.
        """
        # In this order, as fold.py says: who is folded in between is then met twice and counted once.
        there = self.store.instances()
        data = self.store.fetch(dict.fromkeys([*there, *(name for name, _ in self._sightings.items())]))
        found = self._decoder.blobs(data)
        self._sightings.look({name: blob.sequence for name, blob in found.items()}, self._now())
        self._sightings.keep(found.values())
        blobs = found | self._sightings.copies()
        tombstones = self._tombstones(blobs)
        self._sightings.drop_folded(self._record.folded)
        self._drop_lost()
        blobs = {name: blob for name, blob in blobs.items() if name in found or self._sightings.get(name) is not None}
        self._decoder.forget_all_but(data)
        view = self._merger.merge(blobs.values(), self._record.newest, tombstones, stale=self._stale(blobs.values()))
        return view, blobs

    def _tombstones(self, blobs: Mapping[str, Blob]) -> dict[str, Blob]:
        """The tombstones that the record names, both of one moment."""
        sequences = {name: blob.sequence for name, blob in blobs.items()}
        while True:
            retired = self._record.read()
            wanted = self._record.returned(sequences)
            tombstones = self._record.tombstones(wanted)
            # One that was folded again in between has another tombstone now, and the record says so.
            if len(tombstones) == len(wanted) or self._record.read() is retired:
                return tombstones

    def _stale(self, blobs: Iterable[Blob]) -> set[str]:
        """Whose live gauges count no more: seen silent here, or, before that can be known, by its own clock."""
        now, wall, limit = self._now(), self._wall(), self.config.stale_after
        stale = set()
        for blob in blobs:
            seen = self._sightings.get(blob.instance)
            silent = seen is not None and now - seen.changed_at >= limit
            watched = seen is not None and seen.watched
            if silent or (not watched and wall - blob.published_at >= limit + max(blob.interval, self.config.interval)):
                stale.add(blob.instance)
        return stale - {self.instance}


def _count(blob: Blob) -> dict[str, int]:
    series: dict[str, int] = {}
    for part in blob.parts:
        for rows in part.table.families:
            series[rows.family.type] = series.get(rows.family.type, 0) + len(rows.labels)
    return series
