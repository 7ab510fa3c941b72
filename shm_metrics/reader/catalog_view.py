"""The catalog as objects: the families and series of a segment, kept up to date by a cursor.

Each record is parsed once. Changes behind the cursor are in the slot table and in the ranks of families; the number
of changes in the header says when to look again. After the catalog was copied, it is read from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shm_metrics.errors import SegmentFormatError
from shm_metrics.model.families import Family, LabelPairs
from shm_metrics.model.labels import OVERFLOW_LABELS
from shm_metrics.segment import catalog_records
from shm_metrics.segment import layout as L
from shm_metrics.segment.catalog import Catalog
from shm_metrics.segment.catalog_records import CatalogRecord
from shm_metrics.segment.segment import Segment
from shm_metrics.segment.slot_table import SlotTable
from shm_metrics.segment.slots import slot_codes

__all__ = ["CatalogView", "FamilyEntry", "SeriesEntry"]


@dataclass(slots=True, eq=False)
class SeriesEntry:
    """One series in the catalog; its state is in the slot table. hash: of its key."""

    labels: LabelPairs
    payload: LabelPairs
    slot: int
    hash: int
    overflow: bool = False


@dataclass(slots=True, eq=False)
class FamilyEntry:
    """One definition in the catalog.

    id: the hash of its key. number: its bit in the table of family use. rank: the highest of a name is the newest.
    """

    offset: int
    id: int
    number: int
    family: Family
    rank: int
    series: dict[bytes, SeriesEntry] = field(default_factory=dict)
    overflow: SeriesEntry | None = None


class CatalogView:
    """The families and series of a segment's catalog.

    families: name -> the definition that is shown. older: other definitions of the same names.
    uses: returns which of the families with these numbers a living worker uses.
    """

    def __init__(self, segment: Segment, uses: Callable[[Iterable[int]], set[int]] = set) -> None:
        self.segment = segment
        self.catalog = Catalog(segment)
        self.table = SlotTable(segment)
        self.version = 0  # grows with every change that refresh() found
        self._uses = uses
        self._changes = (0, 0)
        self._consistent = True  # False: an exception ended a refresh() in the middle
        self._forget()

    def _forget(self) -> None:
        self.families: dict[str, FamilyEntry] = {}
        self.older: list[FamilyEntry] = []
        self.damaged = 0
        self._switches = self.catalog.switches
        self._contested: dict[str, list[FamilyEntry]] = {}
        self._by_id: dict[int, FamilyEntry] = {}
        self._orphans: dict[int, list[CatalogRecord]] = {}  # series before their family, by its id
        self._cursor = 0

    def refresh(self) -> None:
        """Read what was published since the last call."""
        was_consistent, self._consistent = self._consistent, False
        if not was_consistent:
            self._forget()
        # The generation too: a removal that an exception or a kill ended there has moved nothing else.
        changes = self.segment.get(L.CHANGES_OFFSET), self.segment.get(L.GENERATION_OFFSET)
        before = self._cursor, self._switches
        self._read_on()
        while self._switches != self.catalog.switches:
            self._forget()  # the catalog was copied, perhaps during this scan
            self._read_on()
        changed = not was_consistent or changes != self._changes or (self._cursor, self._switches) != before
        if self._contested:
            changed |= self._choose(changed)
        if changed:
            self._changes = changes
            self.version += 1
        self._consistent = True

    def _read_on(self) -> None:
        for offset, record, following in self.catalog.scan(self._cursor):
            try:
                self._take(offset, record)
            except (SegmentFormatError, ValueError):
                self.damaged += 1
            self._cursor = following

    def _take(self, offset: int, record: CatalogRecord | None) -> None:
        if record is None:
            raise SegmentFormatError(f"damaged catalog record at {offset}")
        if record.kind == catalog_records.FAMILY:
            self._take_family(offset, record)
        else:
            self._take_series(record)

    def _take_family(self, offset: int, record: CatalogRecord) -> None:
        entry = FamilyEntry(offset, record.hash, record.parent, catalog_records.family_of(record), record.rank)
        self._check_slots(record, entry.family, optional=True)
        if record.count:
            entry.overflow = SeriesEntry(OVERFLOW_LABELS, (), record.slot, record.hash, overflow=True)
        self._by_id[entry.id] = entry
        self._take_orphans(entry.id)
        name = entry.family.name
        shown = self.families.setdefault(name, entry)
        if shown is not entry:
            self._contested.setdefault(name, [shown]).append(entry)

    def _choose(self, look_at_ranks: bool) -> bool:
        """Show the newest definition of each name that a living worker uses. Return whether that changed."""
        changed = False
        used = self._uses(entry.number for entries in self._contested.values() for entry in entries)
        for name, entries in self._contested.items():
            if look_at_ranks:
                for entry in entries:
                    entry.rank = self.catalog.rank(entry.offset)
            by_rank = sorted(entries, key=lambda entry: (entry.rank, entry.number), reverse=True)
            shown = next((entry for entry in by_rank if entry.number in used), by_rank[0])
            changed |= self.families[name] is not shown
            self.families[name] = shown
        shown_now = {id(entry) for entry in self.families.values()}
        self.older = [entry for entries in self._contested.values() for entry in entries if id(entry) not in shown_now]
        return changed

    def _take_series(self, record: CatalogRecord) -> None:
        family = self._by_id.get(record.parent)
        if family is None:
            self._orphans.setdefault(record.parent, []).append(record)
            raise SegmentFormatError(f"series of the family {record.parent:x}, of which there is no record")
        self._check_slots(record, family.family)
        labels, payload = catalog_records.labels_of(record)
        # The same key a second time: the first one's slots were reused, or its record could not be found any more.
        family.series[record.key] = SeriesEntry(labels, payload, record.slot, record.hash)

    def _take_orphans(self, family_id: int) -> None:
        """Attach series that were read before the record of their family, which was damaged and written again."""
        for record in self._orphans.pop(family_id, ()):
            try:
                self._take_series(record)
            except (SegmentFormatError, ValueError):
                continue
            self.damaged -= 1

    def _check_slots(self, record: CatalogRecord, family: Family, optional: bool = False) -> None:
        if optional and not record.count:
            return
        within = L.FIRST_SERIES_SLOT <= record.slot <= self.segment.layout.slots - record.count
        if record.count != len(slot_codes(family)) or not within:
            raise SegmentFormatError(f"record of {family.name} names slots {record.slot}+{record.count}")
