"""What came from the cache -> blobs and the record, as far as they can be read."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from shm_metrics.cluster.codec.wire import decode, decode_retired
from shm_metrics.cluster.model.blob import Blob, Retired
from shm_metrics.cluster.stores.protocol import CLUSTER
from shm_metrics.errors import WireFormatError

__all__ = ["Decoder"]

_TOMBSTONE = "tomb:"

log = logging.getLogger("shm_metrics")


class Decoder:
    """damaged: what cannot be read, and why: an instance's blob; its tombstone (tomb:<instance>); the record (CLUSTER)."""

    def __init__(self) -> None:
        self.damaged: dict[str, str] = {}

    def blobs(self, found: Mapping[str, bytes]) -> dict[str, Blob]:
        """instance -> its blob; those that cannot be read, or are another's, are left out."""
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
        """The record, if there is one that can be read."""
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
        """What is no longer there is no longer damaged."""
        names = {CLUSTER, *instances, *(_TOMBSTONE + instance for instance in instances)}
        self.damaged = {name: why for name, why in self.damaged.items() if name in names}

    def _left_out(self, name: str, error: WireFormatError) -> None:
        if name not in self.damaged:
            log.warning("shm_metrics: sync: %s cannot be read and is left out: %s", name, error)
        self.damaged[name] = str(error)
