"""Blobs, leases and the retired record in Memcached, by add, gets and cas.

A lease is a record that its holder renews by changing it. It expires by itself, but Memcached counts in seconds. A
contender can do better: a record that it has seen unchanged for a whole term was not renewed, and is taken over by
compare-and-swap. Only durations on one clock are compared, never clocks of different hosts.

acquire() builds the fence described in protocol.py:

    1. add the lease, or take it over; it has no token yet, so it allows nothing
    2. take the next token: greater than the scope's last one, than the token of the guarded data, and than the Unix
       time in microseconds (so that it also grows after a flush)
    3. put the token on the head of what the scope guards: from here on no write of an older holder succeeds, since each
       compares and swaps this head
    4. put the token into the lease, if this process still holds it
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from time import monotonic, time
from typing import NamedTuple, TypeVar

from shm_metrics.cluster.codec import chunks
from shm_metrics.cluster.stores.compare_and_swap import TRIES, Keep, Write, compare_and_swap
from shm_metrics.cluster.stores.memcached_records import DIRECTORY_SHARDS, Head, LeaseRecord, Names, members, shard_of
from shm_metrics.cluster.stores.memcached_ring import CHUNKS_AT_ONCE, Ring
from shm_metrics.cluster.stores.protocol import (
    BLOB_SECONDS,
    DISTRIBUTED_BASIC,
    NO_FOLD,
    NO_TOMBSTONES,
    Grant,
    LeaseRefused,
    guarded_instance,
)
from shm_metrics.cluster.stores.refusals import fenced, lease_lost, newer_is_there
from shm_metrics.errors import InvalidMetricError, LockLostError, SyncError, WireFormatError

__all__ = ["MemcachedStore"]

AT_ONCE = -1  # an expiry in the past: compare-and-swap with it is compare-and-delete
NEVER = 0
LONGEST = 30 * 86_400  # Memcached reads a longer expiry as a date

Answer = TypeVar("Answer")

_Taken = Grant | LeaseRefused | bool
"""How an attempt to take a lease ended; True: the lease is taken, and its token still to come."""


class _Outcome(NamedTuple):
    """Of a write of chunks and their head. obsolete: the head whose chunks are no longer needed."""

    obsolete: Head | None
    done: bool = True
    enlisted: bool = True


class MemcachedStore:
    """namespace: any text; blob_ttl: seconds that a blob outlives its last publish; clock: of durations."""

    strategy = DISTRIBUTED_BASIC

    def __init__(
        self,
        ring: Ring,
        namespace: str,
        *,
        blob_ttl: float = BLOB_SECONDS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        if not namespace:
            raise InvalidMetricError("cache namespace '': give a name, the same on every host of the cluster")
        self._ring = ring
        self._names = Names(namespace)
        self._blob_seconds = min(math.ceil(blob_ttl), LONGEST)
        self._clock = clock
        self._watched: dict[str, tuple[bytes, float]] = {}  # scope -> the lease seen, and since when

    @property
    def round_trips(self) -> int:
        return self._ring.round_trips

    def key(self, kind: str, name: str = "") -> str:
        """The key under which something is kept."""
        return self._names.key(kind, name or "-")

    def forget(self) -> None:
        self._ring.close()

    def close(self) -> None:
        self._ring.close()

    # -- the lease ------------------------------------------------------------------------------------------------

    def acquire(self, scope: str, owner: str, ttl: float) -> Grant | LeaseRefused:
        key = self.key("lease", scope)

        def take(found: Mapping[str, bytes]) -> Write[_Taken] | Keep[_Taken] | None:
            data = found.get(key)
            lease = LeaseRecord.decode(data)
            if lease is not None and lease.owner == owner:
                if not lease.token:
                    return Keep(True)
                grant = Grant(scope, owner, lease.token)
                return Keep(grant) if self.renew(grant, ttl) else None
            left = 0.0 if data is None else self._left(scope, data, lease)
            if left > 0:
                return Keep(LeaseRefused(left, watched=True))
            return Write(LeaseRecord(0, 0, ttl, owner).encode(), _expiry(ttl), True)

        answer = compare_and_swap(self._ring, key, take)
        if isinstance(answer, Grant | LeaseRefused):
            return answer
        return self._with_token(scope, owner, ttl) if answer else LeaseRefused()

    def _left(self, scope: str, data: bytes, lease: LeaseRecord | None) -> float:
        """Return the seconds until the lease will have been seen unchanged for its term."""
        seen, since = self._watched.get(scope, (None, 0.0))
        if seen != data:
            since = self._clock()
            self._watched[scope] = (data, since)
        return 0.0 if lease is None else since + lease.term - self._clock()

    def _with_token(self, scope: str, owner: str, ttl: float) -> Grant | LeaseRefused:
        """Run steps 2 to 4 of acquire(); this process has just taken the lease."""
        fence = self.key("fence", scope)
        guarded = self._guarded(scope)

        def raise_token(found: Mapping[str, bytes]) -> Write[int]:
            head = Head.decode(found.get(guarded))
            token = max(_number(found.get(fence)) + 1, (head.token if head else 0) + 1, int(time() * 1_000_000))
            return Write(b"%020d" % token, self._blob_seconds, token)

        token = compare_and_swap(self._ring, fence, raise_token, (fence, guarded))
        expire = NEVER if guarded_instance(scope) is None else self._blob_seconds
        if token is None or not self._raise_fence(guarded, token, expire):
            return LeaseRefused()
        return Grant(scope, owner, token) if self._swap(scope, owner, 0, token, ttl) else LeaseRefused()

    def _raise_fence(self, key: str, token: int, expire: int) -> bool:
        """Put the token on the head at `key`. Return False if a greater one is there."""

        def raised(found: Mapping[str, bytes]) -> Write[bool] | Keep[bool]:
            head = Head.decode(found.get(key))
            if head is not None and head.token >= token:
                return Keep(head.token == token)
            new = Head(0, token) if head is None else replace(head, token=token)
            return Write(new.encode(), expire, True)

        return compare_and_swap(self._ring, key, raised) or False

    def _swap(self, scope: str, owner: str, old_token: int, token: int, ttl: float) -> bool:
        """Replace the lease with `old_token` by one with `token`, which may be the same, renewed."""
        key = self.key("lease", scope)

        def renewed(found: Mapping[str, bytes]) -> Write[bool] | Keep[bool]:
            lease = LeaseRecord.decode(found.get(key))
            if lease is None or lease.owner != owner or lease.token not in (old_token, token):
                return Keep(False)
            return Write(LeaseRecord(token, lease.renewals + 1, ttl, owner).encode(), _expiry(ttl), True)

        return compare_and_swap(self._ring, key, renewed) or False

    def renew(self, grant: Grant, ttl: float) -> bool:
        return self._swap(grant.scope, grant.owner, grant.token, grant.token, ttl)

    def release(self, grant: Grant) -> bool:
        key = self.key("lease", grant.scope)

        def deleted(found: Mapping[str, bytes]) -> Write[bool] | Keep[bool]:
            lease = LeaseRecord.decode(found.get(key))
            if lease is None or not lease.is_of(grant.owner, grant.token):
                return Keep(False)
            return Write(b"", AT_ONCE, True)

        return compare_and_swap(self._ring, key, deleted) or False

    def _check_lease(self, grant: Grant, data: bytes | None) -> None:
        lease = LeaseRecord.decode(data)
        if lease is None or not lease.is_of(grant.owner, grant.token):
            raise lease_lost(self._ring.display_name, grant)

    def _check_fence(self, grant: Grant, head: Head | None) -> None:
        if head is not None and head.token > grant.token:
            raise fenced(self._ring.display_name, grant)

    def _guarded(self, scope: str) -> str:
        instance = guarded_instance(scope)
        return self.key("retired") if instance is None else self.key("blob", instance)

    # -- blobs ----------------------------------------------------------------------------------------------------

    def publish(self, grant: Grant, instance: str, blob: bytes, sequence: int, ttl: float) -> None:
        lease_key, head_key = self.key("lease", grant.scope), self.key("blob", instance)
        shard_key = self.key("directory", shard_of(instance))
        parts = chunks.split(blob)
        new = Head(sequence, grant.token, len(parts), secrets.token_hex(8))
        written = False
        replaced: Head | None = None

        def put(found: Mapping[str, bytes]) -> Write[_Outcome] | Keep[_Outcome]:
            nonlocal written, replaced
            self._check_lease(grant, found.get(lease_key))
            head = Head.decode(found.get(head_key))
            self._check_fence(grant, head)
            enlisted = instance in members(found.get(shard_key))
            if head is not None and head.number == sequence and head.written:
                # Written by this call, with the reply lost; or another's copy of the same blob.
                obsolete = None if not written else replaced if head.id == new.id else new
                return Keep(_Outcome(obsolete, enlisted=enlisted))
            if head is not None and head.number > sequence:
                raise newer_is_there(self._ring.display_name, instance, head.number, sequence)
            if not written:
                self._write(new, parts, self._blob_seconds)
                written = True
            replaced = head
            return Write(new.encode(), self._blob_seconds, _Outcome(head, enlisted=enlisted))

        outcome = compare_and_swap(self._ring, head_key, put, (lease_key, head_key, shard_key))
        if outcome is None:
            raise self._too_busy(head_key)
        self._forget(outcome.obsolete)
        if not outcome.enlisted:
            self._enlist(instance)
        if not self.renew(grant, ttl):
            raise LockLostError(
                f"{self._ring.display_name}: the lease of {grant.scope} ran out while its blob was written"
            )

    def instances(self) -> dict[str, int]:
        shards = self._ring.get(self.key("directory", str(n)) for n in range(DIRECTORY_SHARDS))
        heads = self._heads(instance for shard in shards.values() for instance in members(shard))
        return {instance: head.number for instance, head in heads.items()}

    def fetch(self, instances: Iterable[str]) -> dict[str, bytes]:
        wanted, before = list(instances), dict[str, Head]()
        found: dict[str, bytes] = {}
        for _ in range(TRIES):
            heads = self._heads(wanted)
            found.update(self._whole(heads))
            # Replaced, and its chunks deleted, between our two questions; or, if the head is the same again, evicted.
            wanted = [name for name, head in heads.items() if name not in found and head != before.get(name)]
            if not wanted:
                break
            before = heads
        return found

    def _heads(self, instances: Iterable[str]) -> dict[str, Head]:
        keys = {instance: self.key("blob", instance) for instance in instances}
        found = self._ring.get(keys.values())
        heads = {instance: Head.decode(found.get(key)) for instance, key in keys.items()}
        return {instance: head for instance, head in heads.items() if head is not None and head.written}

    def _whole(self, heads: Mapping[str, Head]) -> dict[str, bytes]:
        parts = {instance: [self.key("chunk", part) for part in head.parts()] for instance, head in heads.items()}
        found = self._ring.get((key for keys in parts.values() for key in keys), CHUNKS_AT_ONCE)
        whole: dict[str, bytes] = {}
        for instance, keys in parts.items():
            try:
                whole[instance] = chunks.join(found[key] for key in keys)
            except (KeyError, WireFormatError):
                pass  # evicted, replaced since, or damaged: it counts as missing until it is published again
        return whole

    def _is_whole(self, head: Head | None) -> bool:
        return head is not None and head.written and bool(self._whole({"": head}))

    def _write(self, head: Head, parts: list[bytes], expire: int) -> None:
        self._ring.set({self.key("chunk", part): data for part, data in zip(head.parts(), parts, strict=True)}, expire)

    def _forget(self, head: Head | None) -> None:
        if head is not None and head.written:
            self._ring.delete(self.key("chunk", part) for part in head.parts())

    # -- the directory --------------------------------------------------------------------------------------------

    def _enlist(self, instance: str) -> None:
        """Add the instance to its shard, and remove instances of the shard that have no blob any more."""

        def with_it(present: list[str]) -> list[str]:
            return [*self._heads(each for each in present if each != instance), instance]

        self._change_shard(shard_of(instance), with_it)

    def _strike(self, instances: Iterable[str]) -> None:
        shards: dict[str, set[str]] = {}
        for instance in instances:
            shards.setdefault(shard_of(instance), set()).add(instance)
        for shard, some in shards.items():

            def without(present: list[str], some: set[str] = some) -> list[str]:
                # An instance that is publishing again has written its blob before it reads the shard.
                again = self._heads(some.intersection(present))
                return [each for each in present if each not in some or each in again]

            self._change_shard(shard, without)

    def _change_shard(self, shard: str, change: Callable[[list[str]], list[str]]) -> None:
        key = self.key("directory", shard)

        def changed(found: Mapping[str, bytes]) -> Write[bool] | Keep[bool]:
            present = members(found.get(key))
            wanted = change(present)
            return Keep(True) if {*wanted} == {*present} else Write("\n".join(wanted).encode(), NEVER, True)

        if not compare_and_swap(self._ring, key, changed):
            raise self._too_busy(key)

    # -- what is left of instances that are gone ------------------------------------------------------------------

    def retired(self) -> bytes | None:
        return self._read_retired(lambda head: self._whole({"": head}).get(""))

    def retired_mark(self) -> str | None:
        def mark(head: Head) -> str | None:
            there = self._ring.touch((self.key("chunk", part) for part in head.parts()), NEVER)
            return f"{head.number}:{head.id}" if there else None

        return self._read_retired(mark)

    def _read_retired(self, read: Callable[[Head], Answer | None]) -> Answer | None:
        """Return what `read` finds under the record's head; None if the chunks of an unchanged head are evicted."""
        before: Head | None = None
        for _ in range(TRIES):
            head = Head.decode(self._gets(self.key("retired"))[0])
            if head is None or not head.written:
                return None
            found = read(head)
            if found is not None or head == before:
                return found
            before = head
        return None

    def tombstones(self, folded: Mapping[str, int]) -> dict[str, bytes]:
        keys = {instance: self.key("tomb", f"{instance}:{sequence}") for instance, sequence in folded.items()}
        found = self._ring.get(keys.values())
        heads = {instance: Head.decode(found.get(key)) for instance, key in keys.items()}
        return self._whole({instance: head for instance, head in heads.items() if head is not None})

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
        lease_key, key = self.key("lease", grant.scope), self.key("retired")
        parts = chunks.split(record)
        new = Head(version, grant.token, len(parts), secrets.token_hex(8))
        written = False

        def commit(found: Mapping[str, bytes]) -> Write[_Outcome] | Keep[_Outcome]:
            nonlocal written
            self._check_lease(grant, found.get(lease_key))
            head = Head.decode(found.get(key))
            self._check_fence(grant, head)
            there = head.number if head is not None else 0
            if there == version and head is not None and head.token == grant.token and head.written:
                return Keep(_Outcome(None))  # this very commit, whose reply was lost
            if expected_version == 0 and there and not self._is_whole(head):
                there = 0  # its chunks were evicted: the record can no longer be read
            if there != expected_version:
                return Keep(_Outcome(new if written else None, done=False))
            if not written:
                self._write_tombstones({(instance, gone[instance]): data for instance, data in tombstones.items()})
                self._write(new, parts, NEVER)
                written = True
            return Write(new.encode(), NEVER, _Outcome(head))

        outcome = compare_and_swap(self._ring, key, commit, (lease_key, key))
        if outcome is None:
            raise self._too_busy(key)
        self._forget(outcome.obsolete)
        if not outcome.done:
            return False
        written_now = {(instance, gone[instance]) for instance in tombstones}
        self._tidy(gone, [each for each in forget.items() if each not in written_now])
        return True

    def restore_retired(
        self, record: bytes, version: int, tombstones: Mapping[tuple[str, int], bytes] = NO_TOMBSTONES
    ) -> None:
        key = self.key("retired")
        self._write_tombstones(tombstones)
        parts = chunks.split(record)
        new: Head | None = None

        def restore(found: Mapping[str, bytes]) -> Write[_Outcome] | Keep[_Outcome]:
            nonlocal new
            head = Head.decode(found.get(key))
            if head is not None and head.number >= version and self._is_whole(head):
                return Keep(_Outcome(new if new is not None and head.id != new.id else None))
            if new is None:
                new = Head(version, 0 if head is None else head.token, len(parts), secrets.token_hex(8))
                self._write(new, parts, NEVER)
            elif head is not None:
                new = replace(new, token=head.token)
            return Write(new.encode(), NEVER, _Outcome(head))

        outcome = compare_and_swap(self._ring, key, restore)
        if outcome is None:
            raise self._too_busy(key)
        self._forget(outcome.obsolete)

    def _write_tombstones(self, tombstones: Mapping[tuple[str, int], bytes]) -> None:
        for (instance, sequence), tombstone in tombstones.items():
            parts = chunks.split(tombstone)
            head = Head(sequence, 0, len(parts), f"{instance}:{sequence}")
            self._write(head, parts, NEVER)
            self._ring.set({self.key("tomb", f"{instance}:{sequence}"): head.encode()}, NEVER)

    def _tidy(self, gone: Mapping[str, int], forget: Iterable[tuple[str, int]]) -> None:
        keys = {self.key("blob", instance): instance for instance in gone}
        for key, (data, unique) in self._ring.gets(keys).items():
            head = Head.decode(data)
            if head is not None and head.number <= gone[keys[key]] and self._ring.cas(key, b"", unique, AT_ONCE):
                self._forget(head)
        self._strike(gone)
        heads = self._ring.get(self.key("tomb", f"{instance}:{sequence}") for instance, sequence in forget)
        self._ring.delete(heads)
        for data in heads.values():
            self._forget(Head.decode(data))

    # -- one key --------------------------------------------------------------------------------------------------

    def _gets(self, key: str) -> tuple[bytes | None, bytes]:
        return self._ring.gets([key]).get(key, (None, b""))

    def _too_busy(self, key: str) -> SyncError:
        return SyncError(f"{self._ring.display_name}: {key}: {TRIES} attempts lost to other writers")


def _expiry(ttl: float) -> int:
    """Whole seconds; Memcached's clock may tick right after, so one more."""
    return math.ceil(ttl) + 1


def _number(data: bytes | None) -> int:
    return int(data) if data is not None and data.isdigit() else 0
