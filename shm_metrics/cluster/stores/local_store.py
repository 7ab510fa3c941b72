"""Blobs, leases and the retired record on one host: a file beside the segment, and the segment's publisher lock.

The kernel releases the lock when its holder dies, so the lease needs no term: `ttl` is ignored, and a stopped holder
keeps the lease. The holder of one scope can also acquire the other: one host has one leader.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import time

from shm_metrics.cluster.stores.protocol import (
    BLOB_SECONDS,
    LOCAL_ONLY,
    NO_FOLD,
    NO_TOMBSTONES,
    Grant,
    LeaseRefused,
    guarded_instance,
)
from shm_metrics.cluster.stores.refusals import fenced, lease_lost, newer_is_there
from shm_metrics.cluster.stores.snapshot_file import Content, Kept, SnapshotFile
from shm_metrics.errors import SyncError
from shm_metrics.segment.segment import Segment
from shm_metrics.segment.shared_lock import LockHandle

__all__ = ["LocalStore"]


class LocalStore:
    """The store without a cache. blob_ttl: seconds that a blob outlives its last publish."""

    strategy = LOCAL_ONLY
    round_trips = 0

    def __init__(
        self, path: str | None, segment: Segment, *, timeout: float = 2.0, blob_ttl: float = BLOB_SECONDS
    ) -> None:
        self._file = SnapshotFile(path, timeout)
        self._segment = segment
        self._blob_ttl = blob_ttl
        self._held: dict[str, Grant] = {}
        self._lock_handle = LockHandle()

    # -- the lease ------------------------------------------------------------------------------------------------

    def acquire(self, scope: str, owner: str, ttl: float) -> Grant | LeaseRefused:
        self._look()
        held = self._held.get(scope)
        if held is not None:
            return held if held.owner == owner else LeaseRefused()
        if not self._segment.writable:
            raise SyncError(f"{self._segment.place.path}: opened read_only; its workers publish it")
        if not self._held and not self._lock_handle.acquire(self._segment.publisher):
            return LeaseRefused()
        try:
            token = self._file.change(lambda content: _next_token(content, scope))
        except BaseException:
            if not self._held:
                self._lock_handle.release()
            raise
        self._held[scope] = grant = Grant(scope, owner, token)
        return grant

    def renew(self, grant: Grant, ttl: float) -> bool:
        return self._has(grant)

    def release(self, grant: Grant) -> bool:
        if not self._has(grant):
            return False
        del self._held[grant.scope]
        if not self._held:
            self._lock_handle.release()
        return True

    def _has(self, grant: Grant) -> bool:
        self._look()
        return self._held.get(grant.scope) == grant

    def _look(self) -> None:
        """Forget the held leases if the lock is gone: after a fork, a close, or the end of the segment."""
        if self._held and (self._segment.abandoned or not self._lock_handle.holds(self._segment.publisher)):
            self._held.clear()

    def _check(self, grant: Grant, kept: Kept | None) -> None:
        if not self._has(grant):
            raise lease_lost(self._file.display_name, grant)
        if kept is not None and kept.token > grant.token:
            raise fenced(self._file.display_name, grant)

    # -- blobs ----------------------------------------------------------------------------------------------------

    def publish(self, grant: Grant, instance: str, blob: bytes, sequence: int, ttl: float) -> None:
        def put(content: Content) -> None:
            there = content.blobs.get(instance)
            self._check(grant, there)
            if there is not None and there.number > sequence:
                raise newer_is_there(self._file.display_name, instance, there.number, sequence)
            if there is None or there.number != sequence:
                content.blobs[instance] = Kept(sequence, grant.token, time(), blob)
            oldest = time() - self._blob_ttl
            content.blobs = {name: kept for name, kept in content.blobs.items() if kept.at >= oldest}

        self._file.change(put)

    def instances(self) -> dict[str, int]:
        return {instance: kept.number for instance, kept in self._file.read().blobs.items()}

    def fetch(self, instances: Iterable[str]) -> dict[str, bytes]:
        blobs = self._file.read().blobs
        return {instance: blobs[instance].data for instance in instances if instance in blobs}

    # -- what is left of instances that are gone ------------------------------------------------------------------

    def retired(self) -> bytes | None:
        kept = self._file.read().retired
        return None if kept is None else kept.data

    def retired_mark(self) -> str | None:
        kept = self._file.read().retired
        return None if kept is None else f"{kept.number}:{kept.token}"

    def tombstones(self, folded: Mapping[str, int]) -> dict[str, bytes]:
        tombstones = self._file.read().tombstones
        keys = {instance: f"{instance}:{sequence}" for instance, sequence in folded.items()}
        return {instance: tombstones[key].data for instance, key in keys.items() if key in tombstones}

    def commit_fold(
        self,
        grant: Grant,
        expected_version: int,
        record: bytes,
        version: int,
        tombstones: Mapping[str, bytes],
        gone: Mapping[str, int],
        forget: Mapping[str, int] = NO_FOLD,
    ) -> bool:
        def commit(content: Content) -> bool:
            there = content.retired
            self._check(grant, there)
            if there is not None and (there.number, there.token) == (version, grant.token):
                return True
            if (0 if there is None else there.number) != expected_version:
                return False
            content.retired = Kept(version, grant.token, time(), record)
            for instance, sequence in forget.items():
                content.tombstones.pop(f"{instance}:{sequence}", None)
            for instance, tombstone in tombstones.items():
                content.tombstones[f"{instance}:{gone[instance]}"] = Kept(gone[instance], 0, time(), tombstone)
            for instance, sequence in gone.items():
                if instance in content.blobs and content.blobs[instance].number <= sequence:
                    del content.blobs[instance]
            return True

        return self._file.change(commit)

    def restore_retired(
        self, record: bytes, version: int, tombstones: Mapping[tuple[str, int], bytes] = NO_TOMBSTONES
    ) -> None:
        def restore(content: Content) -> None:
            there = content.retired
            if there is None or there.number < version:
                content.retired = Kept(version, 0 if there is None else there.token, time(), record)
            for (instance, sequence), tombstone in tombstones.items():
                content.tombstones[f"{instance}:{sequence}"] = Kept(sequence, 0, time(), tombstone)

        self._file.change(restore)

    def forget(self) -> None:
        """Do nothing: there is no connection, and the lock stays with the parent."""

    def close(self) -> None:
        for grant in list(self._held.values()):
            self.release(grant)


def _next_token(content: Content, scope: str) -> int:
    instance = guarded_instance(scope)
    guarded = content.retired if instance is None else content.blobs.get(instance)
    last = max(content.tokens.get(scope, 0), 0 if guarded is None else guarded.token)
    token = max(last + 1, int(time() * 1_000_000))
    # Those of incarnations that are gone are not needed: the clock is ahead of them.
    content.tokens = {each: number for each, number in content.tokens.items() if _is_needed(content, each)}
    content.tokens[scope] = token
    return token


def _is_needed(content: Content, scope: str) -> bool:
    instance = guarded_instance(scope)
    return instance is None or instance in content.blobs
