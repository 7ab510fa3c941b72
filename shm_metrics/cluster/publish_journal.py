"""The journal of what an incarnation has published, for one that returns after the record has forgotten it.

    1. A publishes 7 and is cut off; the leader folds it: the record holds 7 and lists A
    2. A stays away longer than `return_within`: the record holds 7 and no longer lists A; A's tombstone is gone
    3. A returns with 9. As a new instance it would count 7 twice
    4. its journal says that it has published 7: that becomes its base, and A publishes 2 for the rest of its life

The journal is written before the blob is sent: a blob that may have arrived counts as arrived. So the base is never
less than what the record holds of the incarnation, and nothing counts twice. Without a journal the incarnation is new.

Step 3 is detected by sequences; clocks of different hosts are never compared. The record holds the greatest sequence
that it has forgotten. The folded blob of A has at least the last sequence that the cache is known to have accepted. If
that is greater than the forgotten sequence, A was not forgotten.

    file    8s magic "SHMSENT1" | u64 accepted | u32 bytes of the first frame | the blob that was sent last, before its
            base was taken from it | the base, or nothing
"""

from __future__ import annotations

import logging
import struct
from dataclasses import replace

from shm_metrics.cluster.codec.wire import decode, encode
from shm_metrics.cluster.merge.fold import rest_of
from shm_metrics.cluster.model.blob import Blob, Part, Retired
from shm_metrics.errors import WireFormatError
from shm_metrics.runtime.atomic_file import replace_file
from shm_metrics.runtime.log_once import LogOnce

__all__ = ["PublishJournal"]

log = logging.getLogger("shm_metrics")

_HEAD = struct.Struct("<8sQI")
_MAGIC = b"SHMSENT1"


class PublishJournal:
    """The journal of one instance.

    path: of the file; None keeps the journal in this process only.
    accepted: a sequence that the cache has accepted; after a fold and return, the folded sequence.
    """

    def __init__(self, path: str | None, instance: str) -> None:
        self._path = path
        self._instance = instance
        self._log_once = LogOnce(log)
        self.accepted = 0
        self._base: tuple[Blob, bytes] | None = None
        self._last: Blob | None = None
        self._load()

    @property
    def last(self) -> Blob | None:
        """The last blob that was sent, by this process or another, before its base was subtracted."""
        return self._last

    def may_be_forgotten_by(self, record: Retired | None) -> bool:
        """Whether the record holds the instance without listing it, provided that no blob of it is there."""
        if record is None or not record.forgotten or self.accepted > record.forgotten:
            return False
        return self._instance not in record.folded  # a listed instance has returned within the time

    def set_base(self, base: Blob) -> None:
        """Publish only what lies beyond `base` from now on."""
        self._base = base, encode(base)

    def beyond_base(self, blob: Blob) -> Blob:
        """Return the part of `blob` that is to be published."""
        if self._base is None:
            return blob
        parts = [part if part.low is None else _rounded(part) for part in rest_of(blob, self._base[0])]
        return replace(blob, parts=tuple(parts))

    def remember(self, blob: Blob, data: bytes | None = None) -> None:
        """Note that `blob` is about to be sent. data: its bytes, if they are encoded already."""
        self._last = blob
        if self._path is None:
            return
        frame = encode(blob) if data is None else data
        content = b"".join(
            (_HEAD.pack(_MAGIC, self.accepted, len(frame)), frame, b"" if self._base is None else self._base[1])
        )
        try:
            replace_file(self._path, content)
        except OSError as error:
            self._log_once.warning(
                "write",
                "%s: cannot be written: %s; if this host is cut off from its cluster for days, the cluster may "
                "count its totals twice",
                self._path,
                error.strerror,
            )

    def _load(self) -> None:
        if self._path is None:
            return
        try:
            with open(self._path, "rb") as file:
                content = memoryview(file.read())
            magic, accepted, size = _HEAD.unpack_from(content)
            if magic != _MAGIC:
                return
            last, rest = decode(content[_HEAD.size : _HEAD.size + size]), content[_HEAD.size + size :]
            base = (decode(rest), bytes(rest)) if rest else None
        except (OSError, struct.error, WireFormatError):
            return  # missing or damaged: the next publish writes a new one
        if last.instance == self._instance:
            self.accepted, self._last, self._base = accepted, last, base


def _rounded(part: Part) -> Part:
    assert part.low is not None
    return Part(part.table, part.cells + part.low, part.stamps)
