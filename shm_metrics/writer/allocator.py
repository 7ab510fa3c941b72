"""The allocator: creates, removes and reuses families and series. It alone writes the catalog.

What remains after a kill, an exception or a fork between any two steps:
    creation    slot map, slots used      slots without an owner; never served
                slot table                the same
                record, then commit       nothing (the record is not there before the commit)
                index, then indexed       a record that the next holder of the lock indexes first
    removal,    ring                      nothing (the generation says how far the ring counts)
    reset
                generation                the removal: one store. The rest is done by the next holder of the lock
    reuse       ring, generation          a removed series whose slots wait for another one
                slot table                the same; the record of the removed series is dead
                record, commit, index     as above; the new series is REMOVED until the slot map says that it is not
    copying     the other catalog region  nothing (the number of switches says which region is in use)
                switches                  an index that says of itself which region it was made for

Each store checks the lock first: a child of fork that returns into its parent's call must not continue it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from shm_metrics.errors import SegmentError, SegmentFormatError, SegmentFullError
from shm_metrics.model.families import Family, LabelPairs
from shm_metrics.runtime.call_lock import CallLock, ForkedCallError, NestedCallError
from shm_metrics.segment import catalog_records
from shm_metrics.segment import layout as L
from shm_metrics.segment.catalog import Catalog
from shm_metrics.segment.catalog_records import CatalogRecord
from shm_metrics.segment.index import Index
from shm_metrics.segment.removals import EVERY_SLOT, Removals
from shm_metrics.segment.segment import Segment
from shm_metrics.segment.slot_table import FREE, LIVE, REMOVED, SlotTable
from shm_metrics.segment.slots import slot_codes
from shm_metrics.segment.worker_rows import WorkerTable

if TYPE_CHECKING:
    from shm_metrics.reader.reader import Reader

__all__ = ["Allocator", "CatalogBusyError", "FamilyPlace", "SeriesPlace"]

CATALOG_SECONDS = 2.0
IMPATIENT_SECONDS = 5.0  # after a wait that timed out: new series must not stop the application for two seconds each
MOST_CANDIDATES = 8  # removed series that are looked at for slots to reuse, in one creation

# Series whose ledger row is written: shared gauges, and what dead min, max and mostrecent gauges left.
_FOLDED_STAMPS = (L.SLOT_STAMP_MIN, L.SLOT_STAMP_MAX, L.SLOT_STAMP_NEWEST)
_LEDGER_STAMPS = (L.SLOT_STAMP_SHARED, *_FOLDED_STAMPS)

_GENERATION = L.GENERATION_OFFSET // L.WORD
_CHANGES = L.CHANGES_OFFSET // L.WORD
_FAMILIES = L.FAMILIES_OFFSET // L.WORD
_DEAD = L.DEAD_RECORDS_OFFSET // L.WORD
_SLOTS_USED = L.SLOTS_USED_OFFSET // L.WORD
_ENTRY_WORDS = L.SLOT_ENTRY_BYTES // L.WORD

T = TypeVar("T")


class CatalogBusyError(SegmentError):
    """The catalog lock was not available: this thread holds it already, or another process keeps it."""


class FamilyPlace(NamedTuple):
    """A family in the catalog. id: the hash of its key. number: counted from 1, its bit in the table of family use.

    overflow: the first slot of its overflow series, or None.
    """

    id: int
    number: int
    overflow: int | None


class SeriesPlace(NamedTuple):
    """A series in the catalog. hash: of its key. slot: the first slot. slots: how many."""

    hash: int
    slot: int
    slots: int


class _CatalogLock(CallLock):
    """The catalog lock: between threads a CallLock, between processes the catalog's byte."""

    __slots__ = ("_patient_from", "segment")

    def __init__(self, segment: Segment) -> None:
        super().__init__()
        self.segment = segment
        self._patient_from = 0.0

    def acquire(self, frame: FrameType) -> None:
        """Acquire as CallLock.acquire() does. Raise CatalogBusyError.

        It refuses a signal handler or __del__ that interrupts a creation in the same thread, which could neither wait
        for that creation nor go on in the middle of it.
        """
        try:
            super().acquire(frame)
        except NestedCallError:
            raise CatalogBusyError("called from within a creation in the same thread") from None
        if not self.segment.locks.try_exclusive(L.LOCK_CATALOG):
            self._wait()

    def _wait(self) -> None:
        """Wait for the byte; if another process has kept it that long before, not again, for a while."""
        if self.segment.locks.closed:
            raise CatalogBusyError("this process has closed the segment")
        seconds = CATALOG_SECONDS if monotonic() >= self._patient_from else 0.0
        if not self.segment.locks.wait_exclusive(L.LOCK_CATALOG, seconds):
            self._patient_from = monotonic() + IMPATIENT_SECONDS
            raise CatalogBusyError(f"the catalog has been locked for {CATALOG_SECONDS:.0f} s")

    def release(self, frame: FrameType) -> None:
        """Release as CallLock.release() does."""
        if self.holder is frame:
            self.segment.locks.release(L.LOCK_CATALOG)
            super().release(frame)


def _locked(method: Callable[..., T]) -> Callable[..., T]:
    """Decorator: run the method under the catalog lock; rerun it in a child that was forked during the call."""

    @wraps(method)
    def locked(self: Allocator, *args: Any) -> T:
        try:
            return self.lock.run(method, self, *args)
        except ForkedCallError:
            return self.lock.run(method, self, *args)

    return locked


class Allocator:
    """Creates and removes series in one segment. reader: returns a Reader of it; called only to copy the catalog."""

    def __init__(self, segment: Segment, reader: Callable[[], Reader]) -> None:
        self.segment = segment
        self._reader = reader
        self.lock = _CatalogLock(segment)
        self.catalog = Catalog(segment, self.lock)
        self.index = Index(segment, self.catalog, self.lock)
        self.table = SlotTable(segment)
        self.removals = Removals(segment)
        self._workers = WorkerTable(segment)
        self._full: dict[bytes, tuple[int, int]] = {}  # shape -> the changes and used slots at which none was left
        self._search_from: dict[bytes, int] = {}
        self._no_gain_at = -1

    def renew(self) -> None:
        """Replace a lock that another thread held, in a forked child."""
        self.lock.renew()

    @_locked
    def run_locked(self, work: Callable[[], T]) -> T:
        """Return `work()`, called under the catalog lock. Raise CatalogBusyError."""
        return work()

    def _prepare(self) -> None:
        """Complete what a killed process left; every holder of the lock does this first."""
        newest = self.removals.newest()
        if newest is not None and newest.slot != EVERY_SLOT and newest.slot < self.segment.layout.slots:
            entry = newest.slot * _ENTRY_WORDS
            if self.table.words[entry] < newest.generation:
                self._complete(newest.slot, newest.generation, hide=not newest.reset)
        catalog, words = self.catalog, self.segment.words
        nearly_full = 8 * catalog.commit > 7 * self.segment.layout.catalog_bytes
        if words[_DEAD] == L.LARGEST_WORD or (nearly_full and self._no_gain_at != words[_CHANGES]):
            self._make_room()
        self.index.make_ready()

    # -- families -------------------------------------------------------------------------------------------------

    def family(self, family: Family, labelled: bool, now: float) -> FamilyPlace:
        """Return the family's record, made at first use; `labelled` ones get slots for their overflow series too.

        Raise CatalogBusyError, or SegmentFullError when the catalog is full.
        """
        found = self.find_family(family)
        return self._make_family(family, labelled, now) if found is None else found

    @_locked
    def _make_family(self, family: Family, labelled: bool, now: float) -> FamilyPlace:
        self._prepare()
        key = catalog_records.family_key(family)
        hash_ = self.index.hash(key)
        place, offset = self.index.locate(key, hash_)
        known = self._read_family(offset, key)
        if known is not None:
            return known
        words, lock = self.segment.words, self.lock
        number, rank = min(words[_FAMILIES] + 1, L.LARGEST_WORD), min(words[_CHANGES] + 1, L.LARGEST_WORD)
        record = CatalogRecord(
            catalog_records.FAMILY, key, number, 0, 0, now, family.documentation.encode(), rank, hash_
        )
        catalog_records.check_size(len(key) + len(record.tail))
        if lock.poisoned:
            raise ForkedCallError
        words[_FAMILIES] = number
        codes = slot_codes(family)
        slot = self._new_slots(codes) if labelled else None
        if slot is not None:
            record.slot, record.count = slot, len(codes)
            self._own(slot, hash_, now, 0.0)
        self._publish(record, place)
        self._changed()
        return FamilyPlace(hash_, number, slot)

    @_locked
    def show(self, family: Family) -> None:
        """Make this definition the newest one of its name. Do nothing when it is not recorded."""
        self._prepare()
        key = catalog_records.family_key(family)
        _, offset = self.index.locate(key, self.index.hash(key))
        if offset is not None:
            self.catalog.raise_rank(offset, min(self.segment.words[_CHANGES] + 1, L.LARGEST_WORD))
            self._changed()

    def _changed(self) -> None:
        words = self.segment.words
        changes = min(words[_CHANGES] + 1, L.LARGEST_WORD)
        if self.lock.poisoned:
            raise ForkedCallError
        words[_CHANGES] = changes

    def _read_family(self, offset: int | None, key: bytes) -> FamilyPlace | None:
        record = self._record(offset, key)
        if record is None:
            return None
        return FamilyPlace(record.hash, record.parent, record.slot if record.count else None)

    def _record(self, offset: int | None, key: bytes) -> CatalogRecord | None:
        """Return the record at `offset`; None where there is none, or it is damaged, or another's.

        Without the lock, the catalog may have been copied since the offset was found: then another record is there.
        """
        if offset is None:
            return None
        try:
            record = self.catalog.read(offset)
        except SegmentFormatError:
            return None
        return record if record.key == key else None

    # -- series ---------------------------------------------------------------------------------------------------

    def find_family(self, family: Family) -> FamilyPlace | None:
        """Return the family's record if it is there. Takes no lock."""
        key = catalog_records.family_key(family)
        return self._read_family(self.index.find(key, self.index.hash(key)), key)

    def find_overflow(self, family: Family) -> SeriesPlace | None:
        """Return the overflow series of a family that is there and has one. Takes no lock."""
        place = self.find_family(family)
        if place is None or place.overflow is None:
            return None
        return SeriesPlace(self.table.owner(place.overflow), place.overflow, len(slot_codes(family)))

    def find(self, family: FamilyPlace, labels: LabelPairs, payload: LabelPairs = ()) -> SeriesPlace | None:
        """Return the series if it is there, and alive or in use since it was removed. Takes no lock."""
        key = catalog_records.series_key(family.id, labels, payload)
        record = self._record(self.index.find(key, self.index.hash(key)), key)
        if record is None or not self._within(record) or not self.shows(record.slot, record.count, record.hash):
            return None
        return SeriesPlace(record.hash, record.slot, record.count)

    def shows(self, slot: int, count: int, hash_: int) -> bool:
        """Return whether the series is alive, or was used since it was removed."""
        state = self.table.state(slot, hash_)
        return state == LIVE or (state == REMOVED and self._in_use(slot, count, self._workers.used()))

    def series(
        self, definition: Family, family: FamilyPlace, labels: LabelPairs, payload: LabelPairs, now: float, stamp: float
    ) -> SeriesPlace:
        """Return the series, made or revived at first use. now: Unix seconds; stamp: CLOCK_MONOTONIC seconds.

        Raise CatalogBusyError, or SegmentFullError when there is no slot, index entry or catalog space left.
        """
        key = catalog_records.series_key(family.id, labels, payload)
        hash_ = self.index.hash(key)
        probe = self.index.probe(key, hash_)
        known = self._living(probe.offset, key)
        if known is not None:
            return known
        return self._make_series(slot_codes(definition), key, hash_, probe, family.id, now, stamp)

    def lacks_room(self, definition: Family, family: FamilyPlace, labels: LabelPairs, payload: LabelPairs = ()) -> bool:
        """Return whether the series is not there and, as far as is known, no slot is left for it.

        True only while nothing changed since a search found none.
        """
        if not self._full or self._full.get(slot_codes(definition)) != self.fullness():
            return False
        key = catalog_records.series_key(family.id, labels, payload)
        return self.index.peek(key, self.index.hash(key)) is None

    @_locked
    def _make_series(
        self, codes: bytes, key: bytes, hash_: int, probe: Any, family_id: int, now: float, stamp: float
    ) -> SeriesPlace:
        self._prepare()
        place, offset = self.index.locate(key, hash_, probe)
        found = self._record(offset, key)
        if found is not None and self._within(found):
            state = self.table.state(found.slot, hash_)
            if state == REMOVED:
                self._revive(found.slot, now)
            if state != FREE:
                return SeriesPlace(hash_, found.slot, found.count)
        catalog_records.check_size(len(key))
        record = CatalogRecord(catalog_records.SERIES, key, family_id, 0, len(codes), now, hash=hash_)
        slot = self._new_slots(codes)
        reused = slot is None
        if slot is None:
            slot = self._reuse(codes)
        record.slot = slot
        self._own(slot, hash_, now, stamp if reused else 0.0)
        self._publish(record, place)
        if reused:
            segment, lock, there = self.segment, self.lock, slice(slot, slot + len(codes))
            self._changed()  # as in _revive()
            if lock.poisoned:
                raise ForkedCallError
            segment.codes[there] = codes
            self._changed()
        return SeriesPlace(hash_, slot, len(codes))

    def _publish(self, record: CatalogRecord, place: int) -> None:
        offset, following = self.catalog.append(record)
        self.index.put(place, record.hash, offset, following)

    def _own(self, slot: int, hash_: int, now: float, born: float) -> None:
        """Assign the slot to the series with this hash."""
        words, doubles, entry, lock = self.table.words, self.table.doubles, slot * _ENTRY_WORDS, self.lock
        if lock.poisoned:
            raise ForkedCallError
        doubles[entry + L.SLOT_CREATED_OFFSET // L.WORD] = now
        doubles[entry + L.SLOT_BORN_OFFSET // L.WORD] = born
        words[entry + L.SLOT_OWNER_OFFSET // L.WORD] = hash_

    def _revive(self, slot: int, now: float) -> None:
        segment, doubles, at = self.segment, self.table.doubles, slot * _ENTRY_WORDS + L.SLOT_CREATED_OFFSET // L.WORD
        code = segment.codes[slot] & ~L.SLOT_REMOVED
        self._changed()  # if this ends before the last line, readers after it find the series alive
        if self.lock.poisoned:
            raise ForkedCallError
        doubles[at] = now
        segment.codes[slot] = code
        self._changed()

    def _living(self, offset: int | None, key: bytes) -> SeriesPlace | None:
        record = self._record(offset, key)
        if record is None or not self._within(record) or self.table.state(record.slot, record.hash) != LIVE:
            return None
        return SeriesPlace(record.hash, record.slot, record.count)

    def _within(self, record: CatalogRecord) -> bool:
        return L.FIRST_SERIES_SLOT <= record.slot <= self.segment.layout.slots - record.count

    # -- removal --------------------------------------------------------------------------------------------------

    @_locked
    def remove(self, place: SeriesPlace, stamp: float) -> None:
        """Hide the series from the next scrape on, in every process, without writing to any other row.

        It shows again, counting from 0, when a process adds to it or requests it.
        """
        self._prepare()
        if not self.shows(place.slot, place.slots, place.hash):
            return
        self._own(place.slot, place.hash, self.table.created(place.slot), stamp)
        generation = self._give_up(place.slot, 0)
        self._complete(place.slot, generation)

    @_locked
    def reset(self, place: SeriesPlace, now: float, stamp: float) -> None:
        """Reset the series to 0, created `now`; it stays visible."""
        self._prepare()
        state = self.table.state(place.slot, place.hash)
        if state == REMOVED:
            self._revive(place.slot, now)
        if state != FREE:
            self._own(place.slot, place.hash, now, stamp)
            generation = self._give_up(place.slot, L.RESET)
            self._complete(place.slot, generation, hide=False)

    def _give_up(self, slot: int, flags: int) -> int:
        """Store a new generation: rows that have not followed it no longer count for `slot`. Return the generation."""
        words, lock = self.segment.words, self.lock
        generation = min(words[_GENERATION] + 1, L.LARGEST_WORD)
        if lock.poisoned:
            raise ForkedCallError
        self.removals.note(generation, slot, flags)
        # One store: before it the series is as it was, after it no process counts what was there.
        if lock.poisoned:
            raise ForkedCallError
        words[_GENERATION] = generation
        return generation

    def _complete(self, slot: int, generation: int, hide: bool = True) -> None:
        """Copy the removal from the ring to the slot table; the generation goes last, to mark it as done."""
        segment, words, entry, lock = self.segment, self.table.words, slot * _ENTRY_WORDS, self.lock
        code = segment.codes[slot] | (L.SLOT_REMOVED if hide else 0)
        if lock.poisoned:
            raise ForkedCallError
        segment.codes[slot] = code
        words[entry + L.SLOT_GENERATION_OFFSET // L.WORD] = generation
        self._changed()

    # -- slots ----------------------------------------------------------------------------------------------------

    def _new_slots(self, codes: bytes) -> int | None:
        """Return slots that no series had before, or None when there are none left."""
        segment, first, count = self.segment, self.segment.slots_used, len(codes)
        lay = segment.layout
        if first + count > lay.slots:
            return None
        map_at, table_at = lay.slot_map + first, lay.slot_table + first * L.SLOT_ENTRY_BYTES
        if map_at // L.PAGE != (map_at + count - 1) // L.PAGE or not map_at % L.PAGE:
            segment.reserve(map_at, count)
        if table_at // L.PAGE != (table_at + count * L.SLOT_ENTRY_BYTES - 1) // L.PAGE or not table_at % L.PAGE:
            segment.reserve(table_at, count * L.SLOT_ENTRY_BYTES)
        if codes[0] in _LEDGER_STAMPS:
            segment.reserve_slots(L.LEDGER_ROW, first, count)
        place, words, used = slice(first, first + count), segment.words, first + count
        if self.lock.poisoned:
            raise ForkedCallError
        segment.codes[place] = codes
        words[_SLOTS_USED] = used
        return first

    def fullness(self) -> tuple[int, int]:
        """Return what changes whenever a series is removed, or takes slots."""
        return self.segment.words[_CHANGES], self.segment.words[_SLOTS_USED]

    def no_slots(self) -> SegmentFullError:
        return SegmentFullError(
            f"{self.segment.place.path}: all {self.segment.layout.slots} slots are used; "
            "make the segment with more slots, or use fewer label values"
        )

    def _reuse(self, codes: bytes) -> int:
        """Return slots of a removed series of the same shape, which no row uses any more. Raise SegmentFullError."""
        wanted = bytes([codes[0] | L.SLOT_REMOVED]) + codes[1:]
        map_ = bytes(self.segment.codes[: self.segment.slots_used])
        at, rows = self._search_from.get(codes, 0), self._workers.used()
        for _ in range(MOST_CANDIDATES):
            slot = map_.find(wanted, at)
            if slot < 0 and at:
                slot = map_.find(wanted)
            if slot < 0:
                self._full[codes] = self.fullness()
                break
            at = slot + len(codes)
            self._search_from[codes] = at
            if not self._in_use(slot, len(codes), rows):
                generation = self._give_up(slot, L.REUSED)
                self._complete(slot, generation)
                self._clear_ledger(slot, codes)
                words = self.segment.words
                dead = min(words[_DEAD] + 1, L.LARGEST_WORD - 1)
                if self.lock.poisoned:
                    raise ForkedCallError
                words[_DEAD] = dead
                return slot
        raise self.no_slots()

    def _in_use(self, slot: int, count: int, rows: list[int]) -> bool:
        """Return whether a row has something in these slots since the series was removed."""
        segment, generation = self.segment, self.table.generation(slot)
        first, last = slot // L.SLOTS_PER_PAGE, (slot + count - 1) // L.SLOTS_PER_PAGE
        for row in rows:
            pages = segment.row_pages(row)
            if pages[first] and pages[last] and self._workers.generation(row) >= generation:
                start = row * segment.layout.slots + slot
                if segment.doubles[start : start + count].tobytes().strip(b"\0"):
                    return True
        return False

    def _clear_ledger(self, slot: int, codes: bytes) -> None:
        if codes[0] not in _LEDGER_STAMPS:
            return
        self.segment.reserve_slots(L.LEDGER_ROW, slot, len(codes))
        ledger, lock = self.segment.row_view(L.LEDGER_ROW), self.lock
        for each in range(slot, slot + len(codes)):
            if lock.poisoned:
                raise ForkedCallError
            ledger[each] = 0.0

    # -- room in the catalog --------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Copy the catalog without dead records, if that frees enough; drop removed series that no row uses, too.

        Workers that hold cells of those follow: after the removal of EVERY_SLOT they look at the slot table.
        """
        segment, words, table = self.segment, self.segment.words, self.table
        codes = bytes(segment.codes[: segment.slots_used])
        removed = [slot for slot, code in enumerate(codes) if code & L.SLOT_REMOVED]
        if 8 * (words[_DEAD] + len(removed)) < words[L.INDEX_USED_OFFSET // L.WORD]:
            self._no_gain_at = words[_CHANGES]
            return
        unused = self._reader().unused(removed)
        generation, lock = min(words[_GENERATION] + 1, L.LARGEST_WORD), self.lock
        if lock.poisoned:
            raise ForkedCallError
        words[_DEAD] = L.LARGEST_WORD  # after a kill from here on, the next holder of the lock starts again
        for slot in unused:
            if lock.poisoned:
                raise ForkedCallError
            table.words[slot * _ENTRY_WORDS + L.SLOT_OWNER_OFFSET // L.WORD] = 0
            table.words[slot * _ENTRY_WORDS + L.SLOT_GENERATION_OFFSET // L.WORD] = generation
        self._give_up(EVERY_SLOT, L.REUSED)
        known: set[tuple[int, int]] = set()

        def lives(record: CatalogRecord) -> bool:
            if record.kind == catalog_records.FAMILY:
                return True
            again = (record.slot, record.hash) in known
            known.add((record.slot, record.hash))
            return not again and self._within(record) and table.owner(record.slot) == record.hash

        self.catalog.copy(lives)
        if lock.poisoned:
            raise ForkedCallError
        words[_DEAD] = 0
        self._changed()
        self._no_gain_at = words[_CHANGES]
