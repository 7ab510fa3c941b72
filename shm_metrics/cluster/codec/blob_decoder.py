"""Bytes from the cache -> blobs and the retired record; what cannot be read is left out and reported."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from shm_metrics.cluster.codec.wire import decode, decode_retired
from shm_metrics.cluster.model.blob import Blob, Retired
from shm_metrics.cluster.stores.protocol import CLUSTER
from shm_metrics.errors import WireFormatError

__all__ = ["BlobDecoder"]

_TOMBSTONE = "tomb:"

log = logging.getLogger("shm_metrics")


class BlobDecoder:
    """Decodes what a store returns.

    damaged: why something cannot be read, by key: an instance for its blob, tomb:<instance> for its tombstone, CLUSTER
    for the retired record.
    """

    def __init__(self) -> None:
        self.damaged: dict[str, str] = {}

    def blobs(self, found: Mapping[str, bytes]) -> dict[str, Blob]:
        """Return instance -> blob. Blobs that cannot be read, or are another instance's, are left out."""
        return self._blobs(found, "")

    def tombstones(self, found: Mapping[str, bytes]) -> dict[str, Blob]:
        return self._blobs(found, _TOMBSTONE)

    def _blobs(self, found: Mapping[str, bytes], kind: str) -> dict[str, Blob]:
        blobs = {}
        for instance, data in found.items():
            try:
                blob = decode(data)
            except WireFormatError as error:
                self._left_out(kind + instance, error)
                continue
            self.damaged.pop(kind + instance, None)
            if blob.instance == instance:
                blobs[instance] = blob
        return blobs

    def retired(self, data: bytes | None) -> Retired | None:
        """Return the record, or None if there is none that can be read."""
        retired = None
        try:
            if data is not None:
                retired = decode_retired(data)
        except WireFormatError as error:
            self._left_out(CLUSTER, error)
        else:
            self.damaged.pop(CLUSTER, None)
        return retired

    def forget_all_but(self, instances: Collection[str]) -> None:
        """Forget the damage of what is no longer there."""
        names = {CLUSTER, *instances, *(_TOMBSTONE + instance for instance in instances)}
        self.damaged = {name: why for name, why in self.damaged.items() if name in names}

    def _left_out(self, name: str, error: WireFormatError) -> None:
        if name not in self.damaged:
            log.warning("shm_metrics: sync: %s cannot be read and is left out: %s", name, error)
        self.damaged[name] = str(error)
