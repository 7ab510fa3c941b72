"""The name+labels hash table: key -> offset of its record in the catalog.

Lives here: look-up without a lock, insertion and rebuilding under the catalog lock. May not: create records.

Open addressing with linear probing over pairs (hash, offset + 1) of 64-bit words; a zero hash is an empty place. The
table begins small and doubles inside its region, so that a segment with few series takes few pages. The hash is
blake2b keyed with a random key of the segment's own (RFC 7693): label values chosen by an attacker cannot collide it.
A reader that comes during a rebuild may miss a key; whoever misses looks again under the lock before creating.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

from shm_metrics import layout as L
from shm_metrics import records
from shm_metrics.catalog import Catalog
from shm_metrics.errors import SegmentFullError
from shm_metrics.segment import Segment

__all__ = ["Index"]


class Index:
    def __init__(self, segment: Segment, catalog: Catalog) -> None:
        lay = segment.layout
        self.segment = segment
        self.catalog = catalog
        self.key = segment.header.index_key
        self.entries = segment.bytes[lay.index : lay.index + lay.index_entries * L.INDEX_ENTRY_BYTES]
        self.words = self.entries.cast("Q")

    @property
    def size(self) -> int:
        size = self.segment.get(L.INDEX_SIZE_OFFSET)
        sound = L.INDEX_FIRST_SIZE <= size <= self.segment.layout.index_entries and not size & (size - 1)
        return size if sound else L.INDEX_FIRST_SIZE

    def hash(self, key: bytes) -> int:
        return int.from_bytes(blake2b(key, digest_size=8, key=self.key).digest(), "little") or 1

    def find(self, key: bytes) -> int | None:
        """Offset of the record with this key, or None. Takes no lock: a rebuild may go on meanwhile."""
        for _, offset in self._probe(key, self.hash(key)):
            # Each entry was read once: what the check was made on is what is returned.
            return offset
        return None

    def _probe(self, key: bytes, hash_: int) -> Iterator[tuple[int, int | None]]:
        """(place, offset) of the key; or of the empty place where it would go, with None; nothing in a full table."""
        words, size = self.words, self.size
        place = hash_ & (size - 1)
        for _ in range(size):
            found = words[2 * place]
            if not found:
                yield 2 * place, None
                return
            if found == hash_:
                offset = words[2 * place + 1] - 1
                if self.catalog.key_is(offset, key):
                    yield 2 * place, offset
                    return
            place = (place + 1) & (size - 1)

    def insert(self, key: bytes, offset: int) -> None:
        """Point the key at a record, replacing what it pointed at. Raises SegmentFullError."""
        used = self.segment.get(L.INDEX_USED_OFFSET)
        if 2 * used >= self.size and not self._grow():
            raise SegmentFullError(f"{self.segment.place.path}: the index is full; make the segment with more slots")
        hash_ = self.hash(key)
        place, known = next(self._probe(key, hash_), (-1, None))
        if place < 0:
            raise SegmentFullError(f"{self.segment.place.path}: the index is full; make the segment with more slots")
        self.words[place + 1] = offset + 1
        if known is None:
            # The hash goes last: it is what makes the entry visible.
            self.words[place] = hash_
            self.segment.set(L.INDEX_USED_OFFSET, self.segment.get(L.INDEX_USED_OFFSET) + 1)

    def catch_up(self) -> None:
        """Index what a writer published and did not live to index. Under the catalog lock."""
        indexed, commit = self.segment.get(L.INDEXED_OFFSET), self.catalog.commit
        if indexed == commit:
            return
        if indexed > commit:
            self.rebuild()
            return
        for offset, record, _ in self.catalog.scan(indexed):
            if record is not None and record.kind in (records.FAMILY, records.SERIES):
                self.insert(record.key, offset)
        self.segment.set(L.INDEXED_OFFSET, commit)

    def lost_entries(self) -> bool:
        """Whether the table holds fewer or more entries than were put in. Reads the whole table once."""
        size = self.size
        empty = self.words[: 2 * size : 2].tolist().count(0)
        return size - empty != self.segment.get(L.INDEX_USED_OFFSET)

    def sound_for(self, key: bytes) -> bool:
        """Whether every entry that a look-up of `key` passes is what it says. Under the catalog lock."""
        words, size, hash_ = self.words, self.size, self.hash(key)
        place = hash_ & (size - 1)
        for _ in range(size):
            found = words[2 * place]
            if not found:
                return True
            stored = records.key_at(self.catalog.data, words[2 * place + 1] - 1, self.catalog.commit)
            if stored is None or self.hash(bytes(stored)) != found:
                return False
            if found == hash_ and stored == key:
                return True
            place = (place + 1) & (size - 1)
        return False

    def rebuild(self, size: int = 0) -> None:
        """Make the table anew from the catalog. Under the catalog lock."""
        size = size or self.size
        self.segment.set(L.INDEX_SIZE_OFFSET, size)
        self.segment.set(L.INDEXED_OFFSET, 0)
        self.entries[: size * L.INDEX_ENTRY_BYTES] = bytes(size * L.INDEX_ENTRY_BYTES)
        self.segment.set(L.INDEX_USED_OFFSET, 0)
        self.catch_up()

    def _grow(self) -> bool:
        size = 2 * self.size
        if size > self.segment.layout.index_entries:
            return 4 * self.segment.get(L.INDEX_USED_OFFSET) < 3 * self.size
        self.segment.reserve(self.segment.layout.index, size * L.INDEX_ENTRY_BYTES)
        self.rebuild(size)
        return True
