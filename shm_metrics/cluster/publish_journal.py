"""What an incarnation has sent, as its own host remembers it: for one that comes back when the record has forgotten it.

    1. A publishes 7 and is cut off; the leader folds it: the record says 7, and that A is in it
    2. A stays away for longer than `return_within`: the record says 7, and nothing of A; A's tombstone is gone
    3. A comes back with 9. As a new instance it would count 7 twice
    4. its file says that it has sent 7: that is its base from now on, and it publishes 2, for as long as it lives

The file is written before the blob is sent: what may have arrived is taken as arrived. So the base is never less than
what the record has of the incarnation, and nothing counts twice. Where the file is lost the incarnation is a new one.

Step 3 is known by sequences, no two hosts' clocks are compared: the record tells the greatest one of those that it has
forgotten. What was folded of A has at least the sequence of what the cache is known to have accepted of it; so, where
that is greater, A is not among them.

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
from shm_metrics.cluster.stores.snapshot_file import put_in_place
from shm_metrics.errors import WireFormatError

__all__ = ["PublishJournal"]

log = logging.getLogger("shm_metrics")

_HEAD = struct.Struct("<8sQI")
_MAGIC = b"SHMSENT1"


class PublishJournal:
    """path: of the file; None: remembered in this process only. instance: whose blobs they are.

    accepted: a sequence that the cache has accepted; of one that was folded, and has returned, that which was folded.
    """

    def __init__(self, path: str | None, instance: str) -> None:
        self._path = path
        self._instance = instance
        self._told = False
        self.accepted = 0
        self._base: tuple[Blob, bytes] | None = None
        self._last: Blob | None = None
        self._load()

    @property
    def last(self) -> Blob | None:
        """What was sent last, in this process or another, before its base was taken from it."""
        return self._last

    def may_be_forgotten_by(self, record: Retired | None) -> bool:
        """Whether, if no blob of it is there, the record holds it without saying so."""
        if record is None or not record.forgotten or self.accepted > record.forgotten:
            return False
        return self._instance not in record.folded  # else it has returned, as anybody may

    def set_base(self, base: Blob) -> None:
        """Only what lies beyond `base` counts from now on."""
        self._base = base, encode(base)

    def beyond_base(self, blob: Blob) -> Blob:
        """What of `blob` is to be published."""
        if self._base is None:
            return blob
        parts = [part if part.low is None else _rounded(part) for part in rest_of(blob, self._base[0])]
        return replace(blob, parts=tuple(parts))

    def remember(self, blob: Blob, data: bytes | None = None) -> None:
        """`blob` is about to be sent; data: its bytes, if they were made already."""
        self._last = blob
        if self._path is None:
            return
        frame = encode(blob) if data is None else data
        content = b"".join(
            (_HEAD.pack(_MAGIC, self.accepted, len(frame)), frame, b"" if self._base is None else self._base[1])
        )
        try:
            put_in_place(self._path, content)
        except OSError as error:
            if not self._told:
                self._told = True
                log.warning(
                    "%s: cannot be written: %s; should this host be cut off from its cluster for days, the cluster "
                    "may count twice what it has counted",
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
            return  # none yet, or a damaged one: it is written anew
        if last.instance == self._instance:
            self.accepted, self._last, self._base = accepted, last, base


def _rounded(part: Part) -> Part:
    assert part.low is not None
    return Part(part.table, part.cells + part.low, part.stamps)
