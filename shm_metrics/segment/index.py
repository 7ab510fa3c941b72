"""The index: a hash table from the key of a family or series to the offset of its record in the catalog.

Open addressing with linear probing over pairs (hash, offset + 1) of 64-bit words; a zero hash marks an empty place. The
table begins small and doubles inside its region, so that a segment with few series takes few pages. The hash is
blake2b keyed with a random key of the segment (RFC 7693), so that chosen label values cannot cause collisions.
A reader may miss a key during a rebuild; a writer that misses a key looks again under the lock before it creates one.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from shm_metrics.errors import SegmentFullError
from shm_metrics.runtime.call_lock import CallLock, ForkedCallError
from shm_metrics.segment import catalog_records
from shm_metrics.segment import layout as L
from shm_metrics.segment.catalog import Catalog
from shm_metrics.segment.segment import Segment

__all__ = ["Index"]

_SIZE = L.INDEX_SIZE_OFFSET // L.WORD
_USED = L.INDEX_USED_OFFSET // L.WORD
_INDEXED = L.INDEXED_OFFSET // L.WORD
_SWITCHES = L.INDEX_SWITCHES_OFFSET // L.WORD


class Probe(NamedTuple):
    """The result of a search.

    place: of the entry, or of the empty place where it would go. commit, size: of the catalog and of the table then.
    switches: of the catalog, before and after. consistent: the table indexed all of that catalog.
    """

    place: int
    offset: int | None
    commit: int
    size: int
    switches: int
    consistent: bool


_NO_PROBE = Probe(0, None, -1, 0, -1, False)


class Index:
    """The hash table of one segment. lock: of this process' allocator; its `poisoned` stops every store."""

    def __init__(self, segment: Segment, catalog: Catalog, lock: CallLock) -> None:
        lay = segment.layout
        self._lock = lock
        self.segment = segment
        self.catalog = catalog
        self.capacity = lay.index_entries
        self.entries = segment.bytes[lay.index : lay.index + self.capacity * L.INDEX_ENTRY_BYTES]
        self.words = self.entries.cast("Q")
        self._keyed = blake2b(digest_size=8, key=segment.header.index_key)
        self._checked = False

    @property
    def size(self) -> int:
        """Entries in use, a power of two."""
        size = self.segment.words[_SIZE]
        sound = L.INDEX_FIRST_SIZE <= size <= self.capacity and not size & (size - 1)
        return size if sound else L.INDEX_FIRST_SIZE

    def hash(self, key: bytes) -> int:
        hasher = self._keyed.copy()
        hasher.update(key)
        return int.from_bytes(hasher.digest(), "little") or 1

    def find(self, key: bytes, hash_: int) -> int | None:
        """Return the offset of the record with this key, or None. Take no lock: a rebuild may run meanwhile."""
        return self.probe(key, hash_).offset

    def probe(self, key: bytes, hash_: int) -> Probe:
        """Return the result of find() together with what locate() needs to reuse it."""
        catalog = self.catalog
        switches = catalog.switches
        commit, size = catalog.commit, self.size
        consistent = self._checked and self.segment.words[_INDEXED] == commit
        found = self._sound_way(key, hash_, commit, size)
        if found is None or catalog.switches != switches:
            return _NO_PROBE
        return Probe(found[0], found[1], commit, size, switches, consistent)

    def peek(self, key: bytes, hash_: int) -> int | None:
        """Work as find() without checking the entries passed; for a lookup at every call that changes nothing.

        It may miss a key of a damaged table.
        """
        words, mask = self.words, self.size - 1
        place = hash_ & mask
        for _ in range(mask + 1):
            found = words[2 * place]
            if not found:
                return None
            if found == hash_:
                offset = words[2 * place + 1] - 1
                return offset if catalog_records.has_key(self.catalog.data, offset, self.catalog.commit, key) else None
            place = (place + 1) & mask
        return None

    # -- under the catalog lock -----------------------------------------------------------------------------------

    def make_ready(self) -> None:
        """Bring the table up to the catalog, and make room for one more entry. Raise SegmentFullError."""
        if self.segment.words[_SWITCHES] != self.catalog.switches:
            self.rebuild()
        if not self._checked:
            self._checked = True
            if self._lost_entries():
                self.rebuild()
        words = self.segment.words
        if words[_INDEXED] != self.catalog.commit:
            self._catch_up()
        if L.INDEX_ENTRIES_PER_KEY * words[_USED] >= self.size:
            self._grow()

    def locate(self, key: bytes, hash_: int, probe: Probe = _NO_PROBE) -> tuple[int, int | None]:
        """Return (place, offset) of the key, or (the empty place where it goes, None); after make_ready().

        probe: the result of probe() before the lock was taken. It still holds if nothing was published since and the
            table was consistent: one that another process brought up to the catalog meanwhile holds more entries.
        Check every entry on the way, and rebuild the table if one is wrong.
        """
        commit, size = self.catalog.commit, self.size
        same = probe.switches == self.catalog.switches and probe.commit == commit
        if probe.consistent and same and probe.size == size:
            return probe.place, probe.offset
        for _ in range(2):
            found = self._sound_way(key, hash_, self.catalog.commit, self.size)
            if found is not None:
                return found
            self.rebuild()
        raise SegmentFullError(f"{self.segment.place.path}: the index is full; make the segment with more slots")

    def _sound_way(self, key: bytes, hash_: int, commit: int, size: int) -> tuple[int, int | None] | None:
        words, data, mask = self.words, self.catalog.data, size - 1
        place = hash_ & mask
        for _ in range(mask + 1):
            found = words[2 * place]
            if not found:
                return place, None
            offset = words[2 * place + 1] - 1
            if catalog_records.hash_at(data, offset, commit) != found:
                return None
            if found == hash_ and catalog_records.has_key(data, offset, commit, key):
                return place, offset
            place = (place + 1) & mask
        return None

    def put(self, place: int, hash_: int, offset: int, following: int) -> None:
        """Point the entry at `place`, as locate() gave it, to the record from `offset` to `following`."""
        words, header, lock = self.words, self.segment.words, self._lock
        if lock.poisoned:
            raise ForkedCallError
        words[2 * place + 1] = offset + 1
        if not words[2 * place]:
            # The hash goes last: it is what makes the entry visible.
            words[2 * place] = hash_
            header[_USED] += 1
        header[_INDEXED] = following

    def rebuild(self) -> None:
        """Rebuild the table from the catalog."""
        switches = self.catalog.switches
        self._wipe(self.size)
        self._catch_up()
        if self._lock.poisoned:
            raise ForkedCallError
        self.segment.words[_SWITCHES] = switches

    def _catch_up(self) -> None:
        """Index the records that a killed writer published but did not index."""
        indexed, commit = self.segment.get(L.INDEXED_OFFSET), self.catalog.commit
        if indexed > commit:
            self._wipe(self.size)
            indexed = 0
        if indexed == commit:
            return
        for offset, record, following in self.catalog.scan(indexed):
            if record is None:
                continue
            if L.INDEX_ENTRIES_PER_KEY * self.segment.get(L.INDEX_USED_OFFSET) >= self.size:
                self._grow()
            found = self._sound_way(record.key, record.hash, commit, self.size)
            if found is not None:
                self.put(found[0], record.hash, offset, following)
        if self._lock.poisoned:
            raise ForkedCallError
        self.segment.words[_INDEXED] = commit

    def _lost_entries(self) -> bool:
        """Return whether the table holds fewer or more entries than were put in. Read all of it."""
        size = self.size
        empty = self.words[: 2 * size : 2].tolist().count(0)
        return size - empty != self.segment.get(L.INDEX_USED_OFFSET)

    def _wipe(self, size: int) -> None:
        # A kill from here until the end leaves a table marked as indexing nothing.
        header, zeros, place = self.segment.words, bytes(size * L.INDEX_ENTRY_BYTES), slice(size * L.INDEX_ENTRY_BYTES)
        if self._lock.poisoned:
            raise ForkedCallError
        header[_INDEXED] = 0
        header[_SIZE] = size
        self.entries[place] = zeros
        header[_USED] = 0

    def _grow(self) -> None:
        """Double the table; a full-sized one may fill up to three quarters. Raise SegmentFullError."""
        size = 2 * self.size
        if size > self.capacity:
            if 4 * self.segment.get(L.INDEX_USED_OFFSET) < 3 * self.size:
                return
            raise SegmentFullError(f"{self.segment.place.path}: the index is full; make the segment with more slots")
        self.segment.reserve(self.segment.layout.index, size * L.INDEX_ENTRY_BYTES)
        indexed, words = self.segment.get(L.INDEXED_OFFSET), self.words
        taken = [
            (hash_, offset)
            for hash_, offset in zip(words[:size:2].tolist(), words[1:size:2].tolist(), strict=True)
            if hash_
        ]
        self._wipe(size)
        lock = self._lock
        for hash_, offset in taken:
            place = hash_ & (size - 1)
            while words[2 * place]:
                place = (place + 1) & (size - 1)
            if lock.poisoned:
                raise ForkedCallError
            words[2 * place + 1] = offset
            words[2 * place] = hash_
        header, used = self.segment.words, len(taken)
        if lock.poisoned:
            raise ForkedCallError
        header[_USED] = used
        header[_INDEXED] = indexed
