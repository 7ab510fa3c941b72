"""The catalog: the list of families and series in a segment.

A record is published once the commit offset has passed it; a writer killed before that leaves bytes that the next
append overwrites. Index and readers are derived from the catalog.

There are two regions, and the number of switches selects the one in use. When it is full of dead records, the living
ones are copied to the other region, and one store switches. An offset is valid until the next switch; a reader without
the lock compares the number of switches before and after.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from shm_metrics.errors import SegmentFormatError, SegmentFullError
from shm_metrics.runtime.call_lock import CallLock, ForkedCallError
from shm_metrics.segment import catalog_records
from shm_metrics.segment import layout as L
from shm_metrics.segment.catalog_records import CatalogRecord
from shm_metrics.segment.segment import Segment

__all__ = ["Catalog"]

_SWITCHES = L.CATALOG_SWITCHES_OFFSET // L.WORD
_COMMIT = L.CATALOG_COMMIT_OFFSET // L.WORD
_RESERVED = L.CATALOG_RESERVED_OFFSET // L.WORD

_COPIED_AT_ONCE = 256  # records
_WRITTEN = re.compile(rb"[^\0]")


class Catalog:
    """Reads and appends records. lock: of this process' allocator; `poisoned` stops every store. Readers have none."""

    def __init__(self, segment: Segment, lock: CallLock | None = None) -> None:
        lay = segment.layout
        self.segment = segment
        self._lock = lock or CallLock()
        self._regions = [
            segment.bytes[start : start + lay.catalog_bytes] for start in (lay.catalog, lay.catalog + lay.catalog_bytes)
        ]

    @property
    def switches(self) -> int:
        """How often the records were copied to the other region."""
        return self.segment.words[_SWITCHES]

    @property
    def data(self) -> memoryview:
        """The region in use."""
        return self._regions[self.segment.words[_SWITCHES] & 1]

    @property
    def commit(self) -> int:
        """The end of the published records."""
        words = self.segment.words
        return self._commit(words[_SWITCHES] & 1)

    def _commit(self, region: int) -> int:
        words, size = self.segment.words, len(self._regions[region])
        commit = words[_COMMIT + region]
        if commit > words[_RESERVED + region] or commit > size or commit % catalog_records.ALIGN:
            # Damaged. Do not access memory that was never reserved.
            return min(commit, words[_RESERVED + region], size) // catalog_records.ALIGN * catalog_records.ALIGN
        return commit

    def append(self, record: CatalogRecord) -> tuple[int, int]:
        """Write and publish a record. Return where it starts and ends. Raise SegmentFullError."""
        return self._append(record.pack(), self.switches & 1)

    def _append(self, packed: bytes, region: int) -> tuple[int, int]:
        words, data, offset, lock = self.segment.words, self._regions[region], self._commit(region), self._lock
        end = offset + len(packed)
        if end > words[_RESERVED + region] or end > len(data):
            self._reserve(end, region)
        commit, place = _COMMIT + region, slice(offset, end)
        if lock.poisoned:
            raise ForkedCallError
        data[place] = packed
        # The commit goes last: no reader ever sees half a record.
        if lock.poisoned:
            raise ForkedCallError
        words[commit] = end
        return offset, end

    def _reserve(self, end: int, region: int) -> None:
        segment, size = self.segment, len(self._regions[region])
        if end > size:
            raise SegmentFullError(
                f"{segment.place.path}: the catalog of {size} bytes is full; make the segment with more slots"
            )
        reserved = segment.words[_RESERVED + region]
        step = min(-(-end // L.CATALOG_RESERVE_STEP) * L.CATALOG_RESERVE_STEP, size)
        segment.reserve(segment.layout.catalog + region * size + reserved, step - reserved)
        if self._lock.poisoned:
            raise ForkedCallError
        segment.words[_RESERVED + region] = step

    def copy(self, wanted: Callable[[CatalogRecord], bool]) -> None:
        """Copy the records that are `wanted` to the other region, and switch to it. Raise SegmentFullError.

        A kill on the way leaves the region in use as it was. Readers see the switch, and read from the start.
        """
        words, data, lock = self.segment.words, self.data, self._lock
        other = (self.switches + 1) & 1
        if lock.poisoned:
            raise ForkedCallError
        words[_COMMIT + other] = 0
        packed: list[bytes] = []
        for offset, record, following in self.scan(0):
            if record is not None and wanted(record):
                packed.append(bytes(data[offset:following]))
        for start in range(0, len(packed), _COPIED_AT_ONCE):
            self._append(b"".join(packed[start : start + _COPIED_AT_ONCE]), other)
        switches = (self.switches + 1) & L.LARGEST_WORD
        if lock.poisoned:
            raise ForkedCallError
        words[_SWITCHES] = switches

    def read(self, offset: int) -> CatalogRecord:
        """Return the record at `offset`. Raise SegmentFormatError."""
        return catalog_records.unpack(self.data, offset, self.commit)[0]

    def raise_rank(self, offset: int, rank: int) -> None:
        """Raise the rank of the definition at `offset`: a higher rank is newer."""
        place, packed = (
            slice(offset + catalog_records.RANK_OFFSET, offset + catalog_records.RANK_OFFSET + L.WORD),
            rank.to_bytes(8, "little"),
        )
        if self._lock.poisoned:
            raise ForkedCallError
        self.data[place] = packed

    def rank(self, offset: int) -> int:
        return L.word(self.data, offset + catalog_records.RANK_OFFSET)

    def scan(self, start: int) -> Iterator[tuple[int, CatalogRecord | None, int]]:
        """Return the published records from `start` on, as (offset, record, offset of the next).

        A damaged stretch is returned as one None: the scan resumes at the next complete record with a correct
        checksum.
        """
        data, offset, end = self.data, start, self.commit
        while offset < end:
            try:
                record, following = catalog_records.unpack(data, offset, end)
            except SegmentFormatError:
                following = _resynchronise(data, offset + catalog_records.ALIGN, end)
                yield offset, None, following
            else:
                yield offset, record, following
            offset = following


def _resynchronise(data: memoryview, offset: int, end: int) -> int:
    while offset < end:
        try:
            catalog_records.unpack(data, offset, end)
            return offset
        except SegmentFormatError:
            written = _WRITTEN.search(data, offset + catalog_records.ALIGN, end)  # a stretch of zeros may be long
            if written is None:
                return end
            offset = written.start() // catalog_records.ALIGN * catalog_records.ALIGN
    return end
