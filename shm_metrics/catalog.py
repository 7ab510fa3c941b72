"""The append-only list of families and series in a segment.

Lives here: appending (under the catalog lock, which the caller holds), reading, skipping damage.
May not: allocate slots or decide what a record should say.

A record is there once the commit offset has passed it; a writer killed before that leaves bytes that the next
append overwrites. The catalog is the truth: index and readers are made from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from shm_metrics import layout as L
from shm_metrics import records
from shm_metrics.errors import SegmentFormatError, SegmentFullError
from shm_metrics.records import Record
from shm_metrics.segment import Segment

__all__ = ["Catalog"]

_COMMIT = L.CATALOG_COMMIT_OFFSET // L.WORD
_RESERVED = L.CATALOG_RESERVED_OFFSET // L.WORD

_WRITTEN = re.compile(rb"[^\0]")


class Catalog:
    def __init__(self, segment: Segment) -> None:
        lay = segment.layout
        self.segment = segment
        self.data = segment.bytes[lay.catalog : lay.catalog + lay.catalog_bytes]

    @property
    def commit(self) -> int:
        """The end of what has been published."""
        words = self.segment.words
        commit = words[_COMMIT]
        if commit > words[_RESERVED] or commit > len(self.data) or commit % records.ALIGN:
            # Damaged. Memory that was never reserved is not touched, whatever the word says.
            return min(commit, words[_RESERVED], len(self.data)) // records.ALIGN * records.ALIGN
        return commit

    def append(self, record: Record) -> tuple[int, int]:
        """Write and publish a record; where it begins and ends. Raises SegmentFullError."""
        words, offset, packed = self.segment.words, self.commit, record.pack()
        end = offset + len(packed)
        if end > words[_RESERVED] or end > len(self.data):
            self._reserve(end)
        self.data[offset:end] = packed
        # The commit goes last: no reader ever sees half a record.
        words[_COMMIT] = end
        return offset, end

    def _reserve(self, end: int) -> None:
        segment = self.segment
        if end > len(self.data):
            raise SegmentFullError(
                f"{segment.place.path}: the catalog of {len(self.data)} bytes is full; make the segment with more slots"
            )
        reserved = segment.get(L.CATALOG_RESERVED_OFFSET)
        step = min(-(-end // L.CATALOG_RESERVE_STEP) * L.CATALOG_RESERVE_STEP, len(self.data))
        segment.reserve(segment.layout.catalog + reserved, step - reserved)
        segment.set(L.CATALOG_RESERVED_OFFSET, step)

    def read(self, offset: int) -> Record:
        """The record at `offset`. Raises SegmentFormatError."""
        return records.unpack(self.data, offset, self.commit)[0]

    def status(self, offset: int) -> int:
        return self.data[offset + records.STATUS_OFFSET]

    def set_status(self, offset: int, status: int) -> None:
        self.data[offset + records.STATUS_OFFSET] = status

    def scan(self, start: int) -> Iterator[tuple[int, Record | None, int]]:
        """The published records from `start` on, as (offset, record, offset of the next).

        A damaged stretch comes as one None: the scan goes on at the next place where a whole record with a right
        checksum begins.
        """
        offset, end = start, self.commit
        while offset < end:
            try:
                record, following = records.unpack(self.data, offset, end)
            except SegmentFormatError:
                following = self._resynchronise(offset + records.ALIGN, end)
                yield offset, None, following
            else:
                yield offset, record, following
            offset = following

    def _resynchronise(self, offset: int, end: int) -> int:
        while offset < end:
            try:
                records.unpack(self.data, offset, end)
                return offset
            except SegmentFormatError:
                written = _WRITTEN.search(self.data, offset + records.ALIGN, end)  # a stretch of zeros may be long
                if written is None:
                    return end
                offset = written.start() // records.ALIGN * records.ALIGN
        return end
