"""Creating families and series: the catalog's only author.

Lives here: what happens under the catalog lock. May not: touch a worker's row, know about forks or threads of the
application (the writer does).

One creation, and what a kill between any two steps leaves:
    slot map, slots used      slots that nobody has; never served
    record, then commit       nothing (the record is not there before the commit)
    index, then indexed       a record that the next holder of the lock indexes first
"""

from __future__ import annotations

import math
from collections.abc import Callable
from threading import RLock
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from shm_metrics import layout as L
from shm_metrics import records
from shm_metrics.catalog import Catalog
from shm_metrics.errors import SegmentError, SegmentFormatError, SegmentFullError
from shm_metrics.families import Family, LabelPairs
from shm_metrics.gauge_modes import MODES, SHARED
from shm_metrics.index import Index
from shm_metrics.records import Record
from shm_metrics.segment import Segment
from shm_metrics.slots import slot_codes

if TYPE_CHECKING:
    from shm_metrics.mirror import SeriesEntry
    from shm_metrics.reader import Reader

__all__ = ["Allocator", "CatalogBusyError", "FamilyPlace", "SeriesPlace"]

CATALOG_SECONDS = 2.0
IMPATIENT_SECONDS = 5.0  # after a wait in vain: new series must not stop the application for two seconds each
SEARCH_SECONDS = 1.0  # between two searches for slots to reuse in a full segment

# Stamps whose ledger row is written: flags of shared gauges, and what dead min, max and mostrecent gauges left.
_LEDGER_STAMPS = (L.SLOT_STAMP_INHERITED, L.SLOT_STAMP_MIN, L.SLOT_STAMP_MAX, L.SLOT_STAMP_NEWEST)


class CatalogBusyError(SegmentError):
    """The catalog lock could not be had: this thread holds it already, or another process does not let go."""


class FamilyPlace(NamedTuple):
    """offset: of its record. overflow: first slot of its overflow series, or None."""

    offset: int
    overflow: int | None


class SeriesPlace(NamedTuple):
    """offset: of its record. slot, slots: its first slot, how many. born: stamps up to it are of an earlier life."""

    offset: int
    slot: int
    slots: int
    born: float


class _CatalogLock:
    """Allocator.locked(). A class, not a generator: it is entered for every new series."""

    __slots__ = ("allocator",)

    def __init__(self, allocator: Allocator) -> None:
        self.allocator = allocator

    def __enter__(self) -> None:
        allocator = self.allocator
        allocator._thread_lock.acquire()
        if allocator._inside:
            allocator._thread_lock.release()
            raise CatalogBusyError("called from within a creation in the same thread")
        allocator._inside = True
        try:
            if not allocator.segment.locks.try_exclusive(L.LOCK_CATALOG):
                allocator._wait_for_catalog()
        except BaseException:
            allocator._inside = False
            allocator._thread_lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        allocator = self.allocator
        allocator.segment.locks.release(L.LOCK_CATALOG)
        allocator._inside = False
        allocator._thread_lock.release()


class Allocator:
    """reader: gives a Reader of the segment; asked only when something is removed or reused."""

    def __init__(self, segment: Segment, reader: Callable[[], Reader]) -> None:
        self.segment = segment
        self._reader = reader
        self.catalog = Catalog(segment)
        self.index = Index(segment, self.catalog)
        self._thread_lock = RLock()
        self._inside = False
        self._catalog_lock = _CatalogLock(self)
        self._search_again = 0.0
        self._patient_from = 0.0
        self._reusable: dict[bytes, list[SeriesEntry]] = {}

    def renew(self) -> None:
        """Forget locks that other threads held when this process was forked."""
        self._thread_lock = RLock()
        self._inside = False

    def locked(self) -> _CatalogLock:
        """A context that holds the catalog lock. Entering it raises CatalogBusyError.

        A signal handler or __del__ that comes in on top of a creation in the same thread is refused, as it could
        neither wait for what it interrupted nor go on in the middle of it.
        """
        return self._catalog_lock

    def _wait_for_catalog(self) -> None:
        """Wait for the catalog lock; if somebody has kept it that long before, not again, for a while."""
        seconds = CATALOG_SECONDS if monotonic() >= self._patient_from else 0.0
        if not self.segment.locks.wait_exclusive(L.LOCK_CATALOG, seconds):
            self._patient_from = monotonic() + IMPATIENT_SECONDS
            raise CatalogBusyError(f"the catalog has been locked for {CATALOG_SECONDS:.0f} s")

    # -- families -------------------------------------------------------------------------------------------------

    def family(self, family: Family, labelled: bool, now: float) -> FamilyPlace:
        """The family's record, made at first use; `labelled` ones get slots for their overflow series too.

        Raises CatalogBusyError, or SegmentFullError when the catalog is full.
        """
        key = records.family_key(family)
        hash_ = self.index.hash(key)
        look = self.index.look(key, hash_)
        known = self._read(look.offset)
        if known is not None:
            return known
        with self.locked():
            self.index.make_ready()
            place, offset = self.index.locate(key, hash_, look)
            known = self._read(offset)
            if known is not None:
                return known
            record = Record(records.FAMILY, key, created=now, tail=family.documentation.encode(), hash=hash_)
            records.check_size(len(key) + len(record.tail))
            codes = slot_codes(family)
            slot = self._new_slots(codes) if labelled else None
            if slot is not None:
                record.slot, record.count = slot, len(codes)
            offset = self._publish(record, place)
            return FamilyPlace(offset, slot)

    def show(self, family: Family, place: FamilyPlace, now: float) -> None:
        """Have the definition at `place` be the newest one of its name, unless it is. Reads the whole catalog."""
        with self.locked():
            self.index.make_ready()
            newest, offsets = place.offset, set()
            for offset, record, _ in self.catalog.scan(0):
                if record is None:
                    continue
                if record.kind == records.FAMILY and records.name_of(record) == family.name:
                    offsets.add(offset)
                    newest = offset
                elif record.kind == records.REVIVE and record.parent in offsets:
                    newest = record.parent
            if newest != place.offset:
                self.catalog.append(Record(records.REVIVE, parent=place.offset, created=now))
                self.segment.set(L.INDEXED_OFFSET, self.catalog.commit)

    def _read(self, offset: int | None) -> FamilyPlace | None:
        record = self._record(offset)
        if offset is None or record is None:
            return None
        return FamilyPlace(offset, record.slot if record.count else None)

    def _record(self, offset: int | None) -> Record | None:
        """The record at `offset`; None where there is none, or it is damaged."""
        if offset is None:
            return None
        try:
            return self.catalog.read(offset)
        except SegmentFormatError:
            return None

    # -- series ---------------------------------------------------------------------------------------------------

    def find_family(self, family: Family) -> FamilyPlace | None:
        """The family's record if it is there. Takes no lock."""
        key = records.family_key(family)
        return self._read(self.index.find(key, self.index.hash(key)))

    def find(self, family: FamilyPlace, labels: LabelPairs, payload: LabelPairs = ()) -> SeriesPlace | None:
        """The series if it is there and alive. Takes no lock."""
        key = records.series_key(family.offset, labels, payload)
        return self._living(self.index.find(key, self.index.hash(key)))

    def series(
        self, definition: Family, family: FamilyPlace, labels: LabelPairs, payload: LabelPairs, now: float, stamp: float
    ) -> SeriesPlace:
        """The series, made or revived at first use. now: Unix seconds; stamp: CLOCK_MONOTONIC seconds.

        Raises CatalogBusyError, or SegmentFullError when there is no slot, index entry or catalog space left.
        """
        key = records.series_key(family.offset, labels, payload)
        hash_ = self.index.hash(key)
        look = self.index.look(key, hash_)
        known = self._living(look.offset)
        if known is not None:
            return known
        with self.locked():
            self.index.make_ready()
            place, offset = self.index.locate(key, hash_, look)
            known = self._living(offset)
            if known is not None:
                return known
            found = self._record(offset)
            if offset is not None and found is not None and found.status == records.REMOVED:
                return self._revive(offset, now)
            codes = slot_codes(definition)
            records.check_size(len(key) + L.WORD * len(codes))  # the baseline has a word a slot, at most
            record = Record(records.SERIES, key, family.offset, 0, len(codes), now, hash=hash_)
            slot = self._new_slots(codes)
            if slot is None:
                slot = self._old_slots(codes, definition, record, stamp)
            record.slot = slot
            return SeriesPlace(self._publish(record, place), slot, len(codes), record.born)

    def _old_slots(self, codes: bytes, definition: Family, record: Record, stamp: float) -> int:
        """Slots that a removed series had; the record is told what they hold. Raises SegmentFullError."""
        slot = self._reuse(codes, stamp).slot
        record.born = stamp
        record.tail = self._reader().column_totals(definition, slot).tobytes()
        self.segment.codes[slot : slot + len(codes)] = codes
        if codes[0] in _LEDGER_STAMPS:
            ledger = self.segment.row_view(L.LEDGER_ROW)
            for each in range(slot, slot + len(codes)):
                ledger[each] = 0.0
        return slot

    def _publish(self, record: Record, place: int) -> int:
        offset, following = self.catalog.append(record)
        self.index.put(place, record.hash, offset, following)
        return offset

    def _revive(self, offset: int, now: float) -> SeriesPlace:
        self.catalog.append(Record(records.REVIVE, parent=offset, created=now))
        self.segment.set(L.INDEXED_OFFSET, self.catalog.commit)
        self.catalog.set_status(offset, records.LIVE)
        self._bump()
        place = self._living(offset)
        assert place is not None
        return place

    def _living(self, offset: int | None) -> SeriesPlace | None:
        record = self._record(offset)
        if offset is None or record is None:
            return None
        within = L.FIRST_SERIES_SLOT <= record.slot <= self.segment.layout.slots - record.count
        if record.status != records.LIVE or not within:
            return None
        return SeriesPlace(offset, record.slot, record.count, record.born)

    def _bump(self) -> int:
        generation = min(self.segment.get(L.GENERATION_OFFSET) + 1, L.LARGEST_WORD)
        self.segment.set(L.GENERATION_OFFSET, generation)
        return generation

    # -- removal --------------------------------------------------------------------------------------------------

    def remove(self, definition: Family, place: SeriesPlace, stamp: float) -> None:
        """Hide the series from the next scrape on, in every process; no other's row is touched.

        Its totals become its baseline: it shows again, counting from 0, when somebody adds to it or asks for it.
        """
        with self.locked():
            if self._living(place.offset) is None:
                return
            baseline = self._reader().column_totals(definition, place.slot)
            generation = min(self.segment.get(L.GENERATION_OFFSET) + 1, L.LARGEST_WORD)
            self.catalog.append(
                Record(records.REMOVE, parent=place.offset, count=generation, born=stamp, tail=baseline.tobytes())
            )
            self.segment.set(L.INDEXED_OFFSET, self.catalog.commit)
            self.catalog.set_status(place.offset, records.REMOVED)
            if definition.mode == SHARED:
                # No stamp is that new: the next set() asks the clock, and so comes after the removal.
                self.segment.row_view(L.LEDGER_ROW)[place.slot] = math.inf
            self._bump()

    # -- slots ----------------------------------------------------------------------------------------------------

    def _new_slots(self, codes: bytes) -> int | None:
        """Slots that nobody had before, or None when there are none left."""
        segment, first, count = self.segment, self.segment.slots_used, len(codes)
        if first + count > segment.layout.slots:
            return None
        map_at = segment.layout.slot_map + first
        if map_at // L.PAGE != (map_at + count - 1) // L.PAGE or not map_at % L.PAGE:
            segment.reserve(map_at, count)
        if codes[0] in _LEDGER_STAMPS:
            segment.reserve_slots(L.LEDGER_ROW, first, count)
        segment.bytes[map_at : map_at + count] = codes
        segment.set(L.SLOTS_USED_OFFSET, first + count)
        return first

    def _reuse(self, codes: bytes, stamp: float) -> SeriesEntry:
        """A removed series of the same shape whose slots no living worker can still write to; it becomes FREE.

        Raises SegmentFullError when there is none.
        """
        if stamp >= self._search_again:
            self._search_again = stamp + SEARCH_SECONDS
            self._search_reusable()
        found = self._reusable.get(codes)
        while found:
            entry = found.pop()
            if self.catalog.status(entry.offset) == records.REMOVED:
                # FREE comes before the new record: killed in between, the slots are lost, but never served twice.
                self.catalog.set_status(entry.offset, records.FREE)
                self._bump()
                return entry
        raise SegmentFullError(
            f"{self.segment.place.path}: all {self.segment.layout.slots} slots are used; "
            "make the segment with more slots, or use fewer label values"
        )

    def _search_reusable(self) -> None:
        """Collect the removed series that every living worker's lineage is younger than.

        A worker whose first ancestor attached after the removal, and that did not ask for the series since (it would
        be LIVE), can have no cell of it.
        """
        from shm_metrics.mirror import Mirror

        reader = self._reader()
        lineages = [reader.workers.read(row).lineage for row in reader.live_rows()]
        oldest = min(lineages, default=self.segment.get(L.GENERATION_OFFSET))
        self._reusable = {}
        mirror = Mirror(self.segment)
        mirror.refresh()
        for family in (*mirror.families.values(), *mirror.older):
            codes = slot_codes(family.family)
            if codes[:1] == bytes([L.SLOT_STAMP_INHERITED]) and len(codes) == MODES["sum"].slots:
                continue  # a worker inherits these with its row, and could not tell them from an earlier life's
            for entry in family.series.values():
                if entry.status == records.REMOVED and 0 < entry.generation <= oldest:
                    self._reusable.setdefault(codes, []).append(entry)
