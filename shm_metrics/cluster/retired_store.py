"""The retired record and the tombstones that it names, as one process knows them.

A process never goes back to an older record. An older one in the cache means that the cache was flushed or restored
from an older state: the process restores the newer record, and uses its copy until then. Tombstones never change, so
each is read once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from shm_metrics.cluster.codec.blob_decoder import BlobDecoder
from shm_metrics.cluster.codec.wire import encode
from shm_metrics.cluster.model.blob import Blob, Folded, Retired
from shm_metrics.cluster.stores.protocol import Store

__all__ = ["RetiredStore"]

_NOTHING: Mapping[str, Folded] = {}


class RetiredStore:
    """The newest retired record of `store` that this process has met. Every call may raise SyncError."""

    def __init__(self, store: Store, decoder: BlobDecoder) -> None:
        self._store = store
        self._decoder = decoder
        self._mark: str | None = None  # of the record that was read last
        self._there: int | None = 0  # its version; None: it cannot be read
        self._newest: tuple[Retired, bytes] | None = None
        self._tombstones: dict[tuple[str, int], Blob] = {}  # of instances that have returned

    def read(self) -> Retired | None:
        """Read the record if it has changed; return the newest one that this process has met."""
        mark = self._store.retired_mark()
        if mark is None or mark != self._mark:
            data = None if mark is None else self._store.retired()
            self._mark = None if data is None else mark
            self._accept(data)
        return self.newest

    @property
    def newest(self) -> Retired | None:
        """The newest record that this process has met, without asking the store."""
        return None if self._newest is None else self._newest[0]

    @property
    def _version(self) -> int:
        return 0 if self._newest is None else self._newest[0].version

    def _accept(self, data: bytes | None) -> None:
        retired = self._decoder.retired(data)
        self._there = 0 if data is None else None if retired is None else retired.version
        if retired is not None and data is not None and retired.version >= self._version:
            self.replaced(retired, data)

    def replaced(self, retired: Retired, data: bytes) -> None:
        """Take `retired` as the record from now on. data: its bytes."""
        self._newest = retired, data
        self._tombstones = {
            (instance, sequence): tombstone
            for (instance, sequence), tombstone in self._tombstones.items()
            if instance in retired.folded and retired.folded[instance].sequence == sequence
        }

    def restore(self) -> None:
        """Restore the record if the store has lost it or has an older one."""
        if self._there is not None and self._there < self._version:
            self._restore(self._tombstones)
            self.read()

    def _restore(self, tombstones: Mapping[tuple[str, int], Blob]) -> None:
        if self._newest is not None:
            retired, data = self._newest
            self._store.restore_retired(
                data, retired.version, {key: encode(tombstone) for key, tombstone in tombstones.items()}
            )

    @property
    def folded(self) -> Mapping[str, Folded]:
        """The instances that the record holds."""
        return _NOTHING if self._newest is None else self._newest[0].folded

    def returned(self, there: Mapping[str, int]) -> dict[str, int]:
        """Return instance -> folded sequence, for the instances in `there` that have published since their fold."""
        folded = self.folded
        return {
            instance: folded[instance].sequence
            for instance, sequence in there.items()
            if instance in folded and sequence > folded[instance].sequence
        }

    def keep_tombstone(self, tombstone: Blob) -> None:
        """Keep the tombstone of this process' own instance."""
        self._tombstones[tombstone.instance, tombstone.sequence] = tombstone

    def tombstones(self, wanted: Mapping[str, int], *, check: Collection[str] = ()) -> dict[str, Blob]:
        """Return the tombstones of {instance: folded sequence} that are available.

        check: instances whose tombstones are read although they are known, and restored if the store has lost them.
        """
        asked = {
            name: folded for name, folded in wanted.items() if name in check or (name, folded) not in self._tombstones
        }
        found = self._decoder.tombstones(self._store.tombstones(asked)) if asked else {}
        keys = {name: (name, folded) for name, folded in asked.items()}
        lost = {
            key: self._tombstones[key] for name, key in keys.items() if name not in found and key in self._tombstones
        }
        if lost:
            self._restore(lost)
        self._tombstones |= {
            keys[name]: tombstone for name, tombstone in found.items() if tombstone.sequence == asked[name]
        }
        return {
            name: self._tombstones[name, folded]
            for name, folded in wanted.items()
            if (name, folded) in self._tombstones
        }
