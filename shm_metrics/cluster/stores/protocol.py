"""The protocol of all stores.

Every call may raise SyncError: the cache is down, slow, full, or answers with an error. A call that raised may have
been carried out. Every call is idempotent: repeating it with the same arguments does nothing twice.

The fence: each grant of a scope has a greater token than every grant before it: the last token + 1, or the Unix time in
microseconds, whichever is greater. So tokens grow even when the cache was flushed or restarted empty. The data that a
scope guards (the blob of its instance, or the retired record) carries the token of the last grant. A write with a
smaller token is refused:

    1. A holds the lease (token 7) and is paused by its host in the middle of a publish
    2. the lease expires; B acquires it (token 8)
    3. A wakes up and writes
    4. the write is refused, even if B has written nothing yet
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
    "NO_TOMBSTONES",
    "Grant",
    "LeaseRefused",
    "OldSequenceError",
    "Store",
    "guarded_instance",
    "segment_scope",
]

DISTRIBUTED_ATOMIC = "distributed_atomic"  # a write and the check of the lease that allows it are one step
DISTRIBUTED_BASIC = "distributed_basic"  # compare-and-set loops
LOCAL_ONLY = "local_only"  # one host

CLUSTER = "cluster"  # the scope of the folding leader
_SEGMENT = "segment:"

BLOB_SECONDS = 7 * 86_400.0
"""How long a blob stays that is neither published nor folded: a safety net, much longer than any retention."""

NO_FOLD: Mapping[str, int] = {}
NO_TOMBSTONES: Mapping[tuple[str, int], bytes] = {}


def segment_scope(instance: str) -> str:
    """Return the scope of the leader that publishes this instance."""
    return _SEGMENT + instance


def guarded_instance(scope: str) -> str | None:
    """Return the instance whose blob the scope guards; None for another scope."""
    return scope[len(_SEGMENT) :] if scope.startswith(_SEGMENT) else None


@dataclass(frozen=True)
class Grant:
    """`owner` holds the lease of `scope`, counted from before acquire() was called; `token` fences its writes."""

    scope: str
    owner: str
    token: int


@dataclass(frozen=True)
class LeaseRefused:
    """Another owner holds the lease.

    remaining: seconds until it expires unless renewed; None if the store cannot tell.
    watched: `remaining` counts from when this store saw the last renewal; a contender that asks rarely sees it late.
    """

    remaining: float | None = None
    watched: bool = field(default=False, compare=False)


class OldSequenceError(SyncError):
    """A blob with a greater sequence, `newest`, is already published. Publish above it."""

    def __init__(self, message: str, newest: int) -> None:
        super().__init__(message)
        self.newest = newest


class Store(Protocol):
    """Where blobs, leases and the retired record are kept.

    strategy: one of the three above. round_trips: requests that waited for a reply, since the store was opened.
    """

    strategy: str

    @property
    def round_trips(self) -> int: ...

    def acquire(self, scope: str, owner: str, ttl: float) -> Grant | LeaseRefused:
        """Acquire the lease for `ttl` seconds. An owner that already holds it gets the same grant, renewed."""

    def renew(self, grant: Grant, ttl: float) -> bool:
        """Extend the lease to `ttl` seconds from now. Return False if it expired or has another owner."""

    def release(self, grant: Grant) -> bool:
        """Release the lease. Return False if this grant no longer holds it; another owner's lease is left alone."""

    def publish(self, grant: Grant, instance: str, blob: bytes, sequence: int, ttl: float) -> None:
        """Replace the instance's blob, and renew the lease for `ttl` seconds.

        Publishing a sequence again does nothing. Raise LockLostError when this grant does not hold the lease or a
        greater token has written, and OldSequenceError when a greater sequence is there.
        """

    def instances(self) -> dict[str, int]:
        """Return instance -> sequence of its newest blob. An entry may outlive its blob; fetch() then leaves it out."""

    def fetch(self, instances: Iterable[str]) -> dict[str, bytes]:
        """Return the newest blobs. Blobs that are missing, evicted or incomplete are left out."""

    def retired(self) -> bytes | None:
        """Return the retired record, or None."""

    def retired_mark(self) -> str | None:
        """Return a short text that differs between retired records; None if there is none, or it is incomplete."""

    def tombstones(self, folded: Mapping[str, int]) -> dict[str, bytes]:
        """Return the last blobs of folded instances.

        folded: instance -> folded sequence, as in the retired record. A tombstone is kept under both, so the tombstone
        of a fold that lost its race is never taken for that of the committed fold.
        """

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

        tombstones: written first, under the sequences in `gone`.
        gone: instance -> folded sequence. Their blobs are removed afterwards unless a newer one is there. An instance
            without a blob may be named, too: its entry in the directory is removed.
        forget: instance -> sequence of tombstones that the new record no longer refers to.

        Return False when another version is there: read again. Return True also when this commit was carried out before
        and its reply was lost. Raise LockLostError as publish() does.
        """

    def restore_retired(
        self, record: bytes, version: int, tombstones: Mapping[tuple[str, int], bytes] = NO_TOMBSTONES
    ) -> None:
        """After a flush, restore the record if there is none or an older one, and the tombstones.

        tombstones: by (instance, sequence).
        """

    def forget(self) -> None:
        """In a child of fork, close the descriptors of the parent's connections without sending anything.

        Otherwise the child would keep open the connections that a thread of the parent was using.
        """

    def close(self) -> None:
        """Close the connections. This does not release leases in a cache; it does release the local store's lock."""
