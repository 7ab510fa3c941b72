"""One process as a member of the cluster: publish, fold and read.

There are two leases. The holder of a segment's lease publishes the absolute aggregate of the segment. The holder of the
cluster's lease folds instances that are no longer published into the retired totals.

Each process measures silence on its own monotonic clock: an instance is silent while the sequence of its blob does not
change. Clocks of different hosts are never compared. A new leader, or one that could not reach the cache for a while,
treats no instance as silent.

    1. host A dies; its blob stays as it is                         the cluster's totals stay
    2. the leader B sees no new sequence of A for `stale_after`     B keeps a copy of the blob
    3. the cache loses the blob                                     readers serve their copies; B folds its own copy
    4. no new sequence for `retention`                              B folds: record, with A in it, replaces record
    5. B dies before it removes A's blob                            readers ignore the blob: the record lists A
    6. the next leader C finds blob and record                      C removes the blob; nothing is added twice
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

from shm_metrics.cluster.codec.blob_decoder import BlobDecoder
from shm_metrics.cluster.codec.wire import encode, encode_retired
from shm_metrics.cluster.config import SyncConfig
from shm_metrics.cluster.lease import Lease
from shm_metrics.cluster.liveness import Liveness
from shm_metrics.cluster.merge.fold import FOLDED, fold, forget, state_of
from shm_metrics.cluster.merge.merge import ClusterView, Merger
from shm_metrics.cluster.model.blob import Blob, Retired
from shm_metrics.cluster.model.capture import Capture
from shm_metrics.cluster.publish_journal import PublishJournal
from shm_metrics.cluster.retired_store import RetiredStore
from shm_metrics.cluster.stores.protocol import CLUSTER, LOCAL_ONLY, OldSequenceError, Store, segment_scope
from shm_metrics.errors import LockLostError

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

__all__ = ["Member", "Published"]

FOLDED_AT_ONCE = 100
"""Instances in one fold. The limit keeps the write within the time-out when thousands of instances end together."""


@dataclass(frozen=True, slots=True)
class Published:
    """What one publish sent: number of series by type, bytes of the blob, its sequence."""

    series: dict[str, int]
    bytes: int
    sequence: int


class Member:
    """A member of the cluster: publishes its segment, folds silent instances, reads the cluster.

    backend: its segment is published. store: holds leases, blobs and the retired record.
    now: a monotonic clock. wall: Unix seconds.
    """

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
        self._decoder = BlobDecoder()
        self._retired_store = RetiredStore(store, self._decoder)
        self._liveness = Liveness(config.interval)
        self._sequence = 0
        self._sent: tuple[Blob, ...] = ()
        """The first and the last blob since the last look. The first is the tombstone if this instance was folded."""
        self._journal: PublishJournal | None = None
        self._unknown: set[str] = set()
        """Instances that had returned and had no tombstone at the last look."""

    @property
    def damaged(self) -> dict[str, str]:
        """Return instance -> why its blob cannot be read and is left out. The key of the retired record is CLUSTER."""
        return dict(self._decoder.damaged)

    # -- publishing -----------------------------------------------------------------------------------------------

    def publish(self) -> Published:
        """Publish the segment as it is now. Raise LockLostError when the lease is not held, and SyncError."""
        grant = self.segment_lease.grant
        journal = self._open_journal()
        self._rebase_if_forgotten(journal)
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
            blob = journal.beyond_base(whole)
            data = encode(blob)
            journal.remember(whole, data if blob is whole else None)
            sent = self._now()
            try:
                self.store.publish(grant, self.instance, data, self._sequence, self.config.lease_ttl)
            except OldSequenceError as error:
                self._sequence = error.newest  # the clock of an earlier leader was ahead
            except LockLostError:
                self.segment_lease.denied()
                raise
            else:
                self.segment_lease.renewed(sent)
                self._sent = (*self._sent[:1], blob)
                journal.accepted = self._sequence
                return Published(_count(blob), len(data), self._sequence)
        raise LockLostError(f"{self.instance}: another process publishes it at the same time")

    def _open_journal(self) -> PublishJournal:
        if self._journal is None:
            place = self._backend.place
            # A private segment has no location; without a cache the segment itself holds the totals.
            alone = not os.path.isabs(place.path) or self.store.strategy == LOCAL_ONLY
            self._journal = PublishJournal(None if alone else place.sent, self.instance)
        return self._journal

    def _rebase_if_forgotten(self, journal: PublishJournal) -> None:
        """Set a new base if this instance was folded and the record has forgotten it (see publish_journal.py)."""
        last = journal.last
        # No instance is folded sooner. Differences of both signs count: a clock may have been set.
        if last is None or abs(self._wall() - last.sequence / 1e9) < self.config.retention:
            return
        record = self._retired_store.read()
        # An instance whose blob is still there was never folded.
        if journal.may_be_forgotten_by(record) and self.instance not in self.store.instances():
            journal.set_base(last)

    # -- the retired totals -----------------------------------------------------------------------------------------

    def observe_and_fold(self) -> None:
        """Observe the instances in the cache; fold silent ones if the cluster's lease is held. Raise SyncError."""
        self._retired_store.read()
        self._retired_store.restore()
        there = self.store.instances()
        self._liveness.observe(there, self._now())
        self._liveness.drop_folded(self._retired_store.folded)
        self._note_own_fold()
        leads = self.cluster_lease.held
        returned = self._retired_store.returned(there)
        # Each host restores its own tombstone when the cache loses it; the leader restores all that it knows.
        tombstones = self._retired_store.tombstones(returned, check=returned if leads else (self.instance,))
        unknown = returned.keys() - tombstones.keys()
        still_unknown, self._unknown = unknown & self._unknown, unknown
        if leads:
            self._keep_copies()
            self._fold(self._silent(), still_unknown)
        self._drop_lost()

    def _note_own_fold(self) -> None:
        folded = self._retired_store.folded.get(self.instance)
        if folded is not None:
            # The blob was removed, so the store would accept the lower sequence of a clock that was set back.
            self._sequence = max(self._sequence, folded.sequence)
            if self._journal is not None:
                self._journal.accepted = folded.sequence  # the record may later forget up to this sequence
            for blob in self._sent:
                if blob.sequence == folded.sequence:
                    self._retired_store.keep_tombstone(blob)
        self._sent = self._sent[-1:]

    def _keep_copies(self) -> None:
        """Keep copies of the blobs of silent instances, in case the cache loses them before they are folded."""
        wanted = [
            instance
            for instance, seen in self._liveness.items()
            if seen.there
            and seen.silent >= self.config.stale_after
            and (seen.copy is None or seen.copy.sequence != seen.sequence)
        ]
        if wanted:
            self._liveness.keep(self._decoder.blobs(self.store.fetch(wanted[:FOLDED_AT_ONCE])).values())

    def _silent(self) -> list[str]:
        """Return the instances to fold: silent for `retention`, or lost by the cache and silent for `stale_after`."""
        there, lost = self.config.retention, min(self.config.stale_after, self.config.retention)
        return [
            instance
            for instance, seen in self._liveness.items()
            if instance != self.instance and seen.silent >= (there if seen.there else lost)
        ]

    def _fold(self, silent: Collection[str], unknown: Collection[str]) -> None:
        """Fold the `silent` instances into the retired totals.

        unknown: returned instances whose tombstones are lost. Nothing is added for them; they count from this fold on.
        """
        grant, retired = self.cluster_lease.grant, self._retired_store.newest
        names = [*silent, *(name for name in unknown if name not in silent)][:FOLDED_AT_ONCE]
        after, packed, gone = retired or Retired(), dict[str, bytes](), dict[str, int]()
        blobs = self._to_fold(names, unknown, gone)
        tombstones = self._retired_store.tombstones(
            self._retired_store.returned({name: blob.sequence for name, blob in blobs.items()})
        )
        replaced = {name: after.folded[name].sequence for name in blobs if name in after.folded}
        for name, blob in blobs.items():
            gone[name] = blob.sequence
            if state_of(blob, after, tombstones.get(name)) != FOLDED:
                after = fold(after, blob, tombstones.get(name), self._wall(), token=grant.token)
                packed[name] = encode(blob)
        # A leader that has watched for less than `retention` may not have seen every living instance.
        before = (
            self._wall() - self.config.return_within if self._liveness.watched >= self.config.retention else -math.inf
        )
        kept = forget(after, before, living=self._liveness.names)
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
            self._retired_store.replaced(after, data)
            self._liveness.drop(gone)

    def _to_fold(self, names: Collection[str], unknown: Collection[str], gone: dict[str, int]) -> dict[str, Blob]:
        """Return the last blob of each, or its copy. Add to `gone` those of which only the name is left."""
        found = self.store.fetch(names) if names else {}
        readable, blobs = self._decoder.blobs(found), dict[str, Blob]()
        for name in names:
            seen, blob = self._liveness.get(name), readable.get(name)
            assert seen is not None
            if blob is not None:
                if blob.sequence == seen.sequence or name in unknown:
                    blobs[name] = blob  # else a newer blob was published a moment ago
            elif name in found:
                continue  # a later version of shm_metrics may be able to read it
            elif seen.copy is not None:
                blobs[name] = seen.copy
            elif seen.there:
                gone[name] = seen.sequence
        return blobs

    def _drop_lost(self) -> None:
        # Two intervals after a leader would have folded it.
        self._liveness.drop_lost(self.config.retention + 2 * self.config.interval, self.config.return_within)

    # -- reading ----------------------------------------------------------------------------------------------------

    def read(self) -> tuple[ClusterView, dict[str, Blob]]:
        """Return the merged view of all instances, and the blob of each. Raise SyncError.

        Copies that this process has read stand in for blobs that the cache has lost since, so that totals do not fall.
        """
        # Blobs before the record, as fold.py says: an instance folded in between is seen twice and counted once.
        there = self.store.instances()
        data = self.store.fetch(dict.fromkeys([*there, *(name for name, _ in self._liveness.items())]))
        found = self._decoder.blobs(data)
        self._liveness.observe({name: blob.sequence for name, blob in found.items()}, self._now())
        self._liveness.keep(found.values())
        blobs = found | self._liveness.copies()
        tombstones = self._tombstones(blobs)
        self._liveness.drop_folded(self._retired_store.folded)
        self._drop_lost()
        blobs = {name: blob for name, blob in blobs.items() if name in found or self._liveness.get(name) is not None}
        self._decoder.forget_all_but(data)
        view = self._merger.merge(
            blobs.values(), self._retired_store.newest, tombstones, stale=self._stale(blobs.values())
        )
        return view, blobs

    def _tombstones(self, blobs: Mapping[str, Blob]) -> dict[str, Blob]:
        """Return the tombstones that the record names; record and tombstones are consistent."""
        sequences = {name: blob.sequence for name, blob in blobs.items()}
        while True:
            retired = self._retired_store.read()
            wanted = self._retired_store.returned(sequences)
            tombstones = self._retired_store.tombstones(wanted)
            # An instance that was folded again in between has another tombstone, and the record has changed.
            if len(tombstones) == len(wanted) or self._retired_store.read() is retired:
                return tombstones

    def _stale(self, blobs: Iterable[Blob]) -> set[str]:
        """Return the instances whose live gauges no longer count.

        An instance is stale when this process has seen it silent; before that can be known, its own clock decides.
        """
        now, wall, limit = self._now(), self._wall(), self.config.stale_after
        stale = set()
        for blob in blobs:
            seen = self._liveness.get(blob.instance)
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
