"""What a store promises, whatever is behind it.

Every call may raise SyncError: the cache is down, slow, full, or answers with an error. A call that raised may have
been carried out all the same, so each can be repeated with the same arguments without doing anything twice.

The fence. Each grant of a scope has a greater token than every grant before it: the last one + 1, or the unix time in
microseconds, whichever is greater, so that it grows also when the cache was flushed or restarted empty. What a scope
guards (the blob of its instance; the retired record) carries the token of the last grant, and a write with a smaller
one is refused:

    1. A holds the lease (token 7) and is paused by its host in the middle of a publish
    2. the lease expires; B acquires it (token 8)
    3. A wakes up and writes
    4. the write is refused, also where B has written nothing yet
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from shm_metrics.errors import SyncError

__all__ = [
    "BLOB_SECONDS",
    "CLUSTER",
    "DISTRIBUTED_ATOMIC",
    "DISTRIBUTED_BASIC",
    "LOCAL_ONLY",
    "NO_FOLD",
    "NO_TOMBS",
    "Grant",
    "OldSequenceError",
    "Refused",
    "Store",
    "guarded_instance",
    "segment_scope",
]

DISTRIBUTED_ATOMIC = "distributed_atomic"  # a write and the check of the lease that allows it are one step
DISTRIBUTED_BASIC = "distributed_basic"  # compare-and-set loops
LOCAL_ONLY = "local_only"  # one host

CLUSTER = "cluster"  # the scope of whoever folds
_SEGMENT = "segment:"

BLOB_SECONDS = 7 * 86_400.0
"""How long a blob stays when nobody publishes or folds it: a safety net, much longer than any retention."""

NO_FOLD: Mapping[str, int] = {}
NO_TOMBSTONES: Mapping[tuple[str, int], bytes] = {}


def segment_scope(instance: str) -> str:
    """The scope of whoever publishes this instance."""
    return _SEGMENT + instance


def guarded_instance(scope: str) -> str | None:
    """The instance whose blob the scope guards; None for another scope."""
    return scope[len(_SEGMENT) :] if scope.startswith(_SEGMENT) else None


@dataclass(frozen=True)
class Grant:
    """The lease of `scope` is `owner`'s, counted from before acquire() was called; `token` fences its writes."""

    scope: str
    owner: str
    token: int


@dataclass(frozen=True)
class LeaseRefused:
    """Somebody else holds it. remaining: seconds until it runs out unless renewed; None if the store cannot tell.

    watched: `remaining` counts from when this store saw the last renewal, so who asks seldom learns late.
    """

    remaining: float | None = None
    watched: bool = field(default=False, compare=False)


class OldSequenceError(SyncError):
    """A blob with a greater sequence is published already; `newest` is its sequence. Publish above it."""

    def __init__(self, message: str, newest: int) -> None:
        super().__init__(message)
        self.newest = newest


class Store(Protocol):
    """strategy: one of the three above; round_trips: requests that waited for a reply, since the store was opened."""

    strategy: str

    @property
    def round_trips(self) -> int: ...

    def acquire(self, scope: str, owner: str, ttl: float) -> Grant | LeaseRefused:
        """Take the lease for `ttl` seconds. The owner that has it already gets the same grant, renewed."""

    def renew(self, grant: Grant, ttl: float) -> bool:
        """`ttl` seconds from now on. False: it ran out, or is somebody else's; it is not taken back."""

    def release(self, grant: Grant) -> bool:
        """Give it up. False: it was no longer this grant's; another's lease is left alone."""

    def publish(self, grant: Grant, instance: str, blob: bytes, sequence: int, ttl: float) -> None:
        """Put the instance's blob in place of its last one, and renew the lease for `ttl` seconds.

        The same sequence twice is once. Raises LockLostError when the lease is not this grant's or a greater token has
        written, and OldSequenceError when a greater sequence is there.
        """

    def instances(self) -> dict[str, int]:
        """instance -> sequence of its newest blob. An entry may outlive its blob, which fetch() then leaves out."""

    def fetch(self, instances: Iterable[str]) -> dict[str, bytes]:
        """The newest blobs. Those that are missing, evicted or not whole are left out."""

    def retired(self) -> bytes | None:
        """The retired record."""

    def retired_mark(self) -> str | None:
        """What is another for each retired record, in a few bytes; None: there is none, or it is not whole."""

    def tombstones(self, folded: Mapping[str, int]) -> dict[str, bytes]:
        """The last blobs of folded instances, {instance: folded sequence} as the retired record tells; a tombstone is kept
        under both, so that one written by a fold that then lost its race is never taken for the committed one's."""

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
        """Replace the retired record of `expected_version` (0: there is none) by `record` of `version`.

        gone: {instance: folded sequence}; their blobs are removed afterwards unless a newer one has come, and the
        tombstones, kept under these sequences, are written before. An instance without a blob may be named, too: its entry
        in the directory goes. forget: tombstones, by {instance: sequence}, that the new record no longer refers to.

        False: another version is there; read again. True also when this very commit was carried out before and only
        its reply was lost. Raises LockLostError as publish() does.
        """

    def restore_retired(self, record: bytes, version: int, tombstones: Mapping[tuple[str, int], bytes] = NO_TOMBSTONES) -> None:
        """After a flush: put the record back if there is none or an older one; the tombstones by (instance, sequence)."""

    def forget(self) -> None:
        """In a child of fork, of its parent's store: let go of the connections. Nothing is sent over them, and they
        stay the parent's; but for this the child would keep those that a thread of the parent was using."""

    def close(self) -> None:
        """Drop the connections. A lease in a cache is not released by it, the publisher byte of the local store is."""
