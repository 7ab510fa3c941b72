"""One process as a member of the cluster: what it does when it holds a lease.

Lives here: the order of reading, publishing, observing and folding. May not: threads, or when to do what (agent.py).

Two leases. Who holds that of its segment publishes the segment's absolute aggregate. Who holds the cluster's folds the
instances that nobody publishes any more into the retired totals.

Silence is measured here, on this process' monotonic clock: an instance is silent while the sequence of its blob does
not change. No two hosts' clocks are compared, and a leader that has just begun sees nobody as silent.

    1. host A dies; its blob stays as it is                         the cluster's totals stay
    2. the leader B sees no new sequence of A for `retention`       B folds: record, with A in it, replaces record
    3. B dies before it removes A's blob                            readers ignore the blob: the record says it is in it
    4. the next leader C finds blob and record                      C removes the blob, and nothing is added twice
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shm_metrics.errors import LockLostError, WireFormatError
from shm_metrics.sync.blob import Blob, Retired
from shm_metrics.sync.capture import Capture
from shm_metrics.sync.cluster import ClusterView, Merger
from shm_metrics.sync.config import SyncConfig
from shm_metrics.sync.fold import FOLDED, fold, forget, state_of
from shm_metrics.sync.lease import Lease
from shm_metrics.sync.stores.protocol import CLUSTER, OldSequenceError, Store, segment_scope
from shm_metrics.sync.wire import decode, decode_retired, encode, encode_retired

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

__all__ = ["Member", "Published"]

log = logging.getLogger("shm_metrics")


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
        self.damaged: dict[str, str] = {}
        """instance -> why its blob cannot be read now, and is left out; the retired record stands there as CLUSTER."""
        owner = f"{self.instance}:{os.getpid()}:{secrets.token_hex(4)}"
        self.segment_lease = Lease(store, segment_scope(self.instance), owner, config.lease_ttl, now=now)
        self.cluster_lease = Lease(store, CLUSTER, owner, config.lease_ttl, now=now)
        self._backend = backend
        self._now, self._wall = now, wall
        self._capture = Capture()
        self._merger = Merger()
        self._sequence = 0
        self._seen: dict[str, tuple[int, float]] = {}
        """instance -> the sequence of its blob, and since when it is that one."""
        self._kept_retired: tuple[int, bytes] = (0, b"")
        """The newest record that this process has met: to put back when the cache has lost it."""
        self._kept_tombs: dict[tuple[str, int], bytes] = {}
        """The tombs of those that have returned: without them the record alone would count them for less."""
        self._read_retired: tuple[bytes, Retired] | None = None
        """The record that was decoded last: it changes seldom, and each look needs it."""

    # -- publishing -----------------------------------------------------------------------------------------------

    def publish(self) -> Published:
        """Publish the segment as it is now. Raises LockLostError when the lease is not ours, and SyncError."""
        grant = self.segment_lease.grant
        snapshot = self._backend.snapshot(stamps=True)
        for _ in range(2):
            self._sequence = max(self._sequence + 1, int(self._wall() * 1e9))
            blob = self._capture.blob(
                snapshot,
                host=socket.gethostname(),
                pid=os.getpid(),
                created_at=self._backend.created_at,
                sequence=self._sequence,
                token=grant.token,
                interval=self.config.interval,
                published_at=self._wall(),
            )
            data, sent = encode(blob), self._now()
            try:
                self.store.publish(grant, self.instance, data, self._sequence, self.config.lease_ttl)
            except OldSequenceError as error:
                self._sequence = error.newest  # a leader before us had a clock that was ahead
            except LockLostError:
                self.segment_lease.denied()
                raise
            else:
                self.segment_lease.renewed(sent)
                return Published(_count(blob), len(data), self._sequence)
        raise LockLostError(f"{self.instance}: somebody else publishes it at the same time")

    # -- the retired totals ---------------------------------------------------------------------------------------

    def look_around(self) -> None:
        """See who is there, and fold whoever is not, if the cluster's lease is ours. Raises SyncError."""
        record = self._retired_bytes()
        there = self.store.instances()
        now = self._now()
        for instance, sequence in there.items():
            known = self._seen.get(instance)
            if known is None or known[0] != sequence:
                self._seen[instance] = sequence, now
        self._seen = {instance: seen for instance, seen in self._seen.items() if instance in there}
        retired = self._decoded_retired(record)
        self._keep_tombs(there, retired)
        if not self.cluster_lease.held:
            return
        silent = [
            instance
            for instance, (_, since) in self._seen.items()
            if instance != self.instance and now - since >= self.config.retention
        ]
        if silent or self._is_due_to_forget(retired):
            self._fold(silent, retired)

    def _fold(self, silent: list[str], retired: Retired | None) -> None:
        grant = self.cluster_lease.grant
        blobs = self._decoded(self.store.fetch(silent))
        old = {} if retired is None else {i: retired.folded[i].sequence for i in blobs if i in retired.folded}
        tombs = self._decoded(self.store.tombs(old)) if old else {}
        after, packed, gone = retired or Retired(), dict[str, bytes](), dict[str, int]()
        for instance in silent:
            blob = blobs.get(instance)
            if blob is None:  # evicted: its entry in the directory goes
                gone[instance] = self._seen[instance][0]
                continue
            gone[instance] = blob.sequence
            if state_of(blob, after, tombs.get(instance)) != FOLDED:
                after = fold(after, blob, tombs.get(instance), self._wall(), token=grant.token)
                packed[instance] = encode(blob)
        kept = forget(after, self._wall() - self.config.return_within)
        forgotten = {i: folded.sequence for i, folded in after.folded.items() if i not in kept.folded}
        forgotten |= {i: sequence for i, sequence in old.items() if i in packed}  # a tomb that a newer one replaces
        expected = 0 if retired is None else retired.version
        after = Retired(expected + 1, grant.token, kept.folded, kept.part)
        data = encode_retired(after)
        try:
            if self.store.commit_fold(grant, expected, data, after.version, packed, gone, forgotten):
                self._kept_retired = after.version, data
        except LockLostError:
            self.cluster_lease.denied()
            raise

    def _is_due_to_forget(self, retired: Retired | None) -> bool:
        limit = self._wall() - self.config.return_within
        return retired is not None and any(folded.at < limit for folded in retired.folded.values())

    def _retired_bytes(self) -> bytes | None:
        """The record; one that the cache has lost is put back first."""
        record = self.store.retired()
        version = self._version(record)
        kept_version, kept = self._kept_retired
        if version > kept_version and record is not None:
            self._kept_retired = version, record
        elif version < kept_version:
            self.store.restore_retired(kept, kept_version, self._kept_tombs)
            record = self.store.retired()
        return record

    def _keep_tombs(self, there: dict[str, int], retired: Retired | None) -> None:
        """Have the tombs of those that have returned; what the cache has lost of them is put back."""
        if retired is None:
            return
        folded = {instance: entry.sequence for instance, entry in retired.folded.items()}
        wanted = {i: folded[i] for i, sequence in there.items() if i in folded and sequence > folded[i]}
        found = self.store.tombs(wanted) if wanted else {}
        kept = {key: tomb for key, tomb in self._kept_tombs.items() if folded.get(key[0]) == key[1]}
        lost = {key: tomb for key, tomb in kept.items() if key[0] in wanted and key[0] not in found}
        if lost:
            version, record = self._kept_retired
            self.store.restore_retired(record, version, lost)
        self._kept_tombs = kept | {(i, wanted[i]): tomb for i, tomb in found.items()}

    def _version(self, record: bytes | None) -> int:
        retired = self._decoded_retired(record)
        return 0 if retired is None else retired.version

    # -- reading --------------------------------------------------------------------------------------------------

    def read(self) -> tuple[ClusterView, dict[str, Blob]]:
        """All instances together, and the blob of each. Raises SyncError."""
        # In this order, as fold.py says: who is folded in between is then met twice and counted once.
        blobs = self._decoded(self.store.fetch(self.store.instances()))
        retired = self._decoded_retired(self.store.retired())
        names = {} if retired is None else {i: retired.folded[i].sequence for i in blobs if i in retired.folded}
        returned = {i: s for i, s in names.items() if blobs[i].sequence > s}
        tombs = self._decoded(self.store.tombs(returned)) if returned else {}
        return self._merger.merge(blobs.values(), retired, tombs, stale=self._stale(blobs.values())), blobs

    def _stale(self, blobs: Iterable[Blob]) -> set[str]:
        """Whose live gauges count no more: seen silent here, or, before that can be known, by its own clock."""
        now, wall, limit = self._now(), self._wall(), self.config.stale_after
        stale = set()
        for blob in blobs:
            seen = self._seen.get(blob.instance)
            watched = seen is not None and seen[0] == blob.sequence and now - seen[1] >= limit
            if watched or wall - blob.published_at >= limit + max(blob.interval, self.config.interval):
                stale.add(blob.instance)
        return stale - {self.instance}

    def _decoded(self, found: dict[str, bytes]) -> dict[str, Blob]:
        blobs = {}
        for instance, data in found.items():
            try:
                blob = decode(data)
            except WireFormatError as error:
                self._left_out(instance, error)
                continue
            self.damaged.pop(instance, None)
            if blob.instance == instance:
                blobs[instance] = blob
        return blobs

    def _left_out(self, what: str, error: WireFormatError) -> None:
        if what not in self.damaged:
            log.warning("shm_metrics: sync: %s cannot be read and is left out: %s", what, error)
        self.damaged[what] = str(error)

    def _decoded_retired(self, record: bytes | None) -> Retired | None:
        if record is None:
            return None
        if self._read_retired is None or self._read_retired[0] != record:
            try:
                self._read_retired = record, decode_retired(record)
            except WireFormatError as error:
                self._left_out(CLUSTER, error)
                return None
            self.damaged.pop(CLUSTER, None)
        return self._read_retired[1]


def _count(blob: Blob) -> dict[str, int]:
    series: dict[str, int] = {}
    for part in blob.parts:
        for rows in part.table.families:
            series[rows.family.type] = series.get(rows.family.type, 0) + len(rows.labels)
    return series
