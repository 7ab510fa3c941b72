"""The catalog as objects: which families and series a segment has, kept up to date by a cursor.

Lives here: following the catalog. May not: read the matrix, write anything.

Each record is parsed once. What can change behind the cursor is the status of a series; the generation in the header
says when to look again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from shm_metrics import layout as L
from shm_metrics import records
from shm_metrics.arrays import FloatArray
from shm_metrics.catalog import Catalog
from shm_metrics.errors import SegmentFormatError
from shm_metrics.families import Family, LabelPairs
from shm_metrics.labels import OVERFLOW_LABELS
from shm_metrics.segment import Segment
from shm_metrics.slots import slot_codes

__all__ = ["FamilyEntry", "Mirror", "SeriesEntry"]

NO_BASELINE: FloatArray = np.empty(0)


@dataclass(slots=True, eq=False)
class SeriesEntry:
    offset: int
    labels: LabelPairs
    payload: LabelPairs
    slot: int
    created: float
    born: float
    baseline: FloatArray = field(default_factory=lambda: NO_BASELINE)
    status: int = records.LIVE
    generation: int = 0  # of its removal
    overflow: bool = False


@dataclass(slots=True, eq=False)
class FamilyEntry:
    offset: int
    family: Family
    series: dict[bytes, SeriesEntry] = field(default_factory=dict)
    overflow: SeriesEntry | None = None


class Mirror:
    """families: name -> its newest definition. older: definitions of the same names that were replaced."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.catalog = Catalog(segment)
        self.families: dict[str, FamilyEntry] = {}
        self.older: list[FamilyEntry] = []
        self.damaged = 0
        self.version = 0  # grows with every change that refresh() found
        self._by_offset: dict[int, FamilyEntry] = {}
        self._series: dict[int, SeriesEntry] = {}
        self._cursor = 0
        self._generation = 0

    def refresh(self) -> None:
        """Take in what was published since the last call."""
        generation = self.segment.get(L.GENERATION_OFFSET)
        start = self._cursor
        for offset, record, following in self.catalog.scan(start):
            try:
                self._take(offset, record)
            except (SegmentFormatError, ValueError, KeyError):
                self.damaged += 1
            self._cursor = following
        if generation != self._generation:
            for series in self._series.values():
                series.status = self.catalog.status(series.offset)
            self._generation = generation
            self.version += 1
        elif self._cursor != start:
            self.version += 1

    def _take(self, offset: int, record: records.Record | None) -> None:
        if record is None:
            raise SegmentFormatError(f"damaged catalog record at {offset}")
        if record.kind == records.FAMILY:
            self._take_family(offset, record)
        elif record.kind == records.SERIES:
            self._take_series(offset, record)
        elif record.kind == records.REVIVE and record.parent in self._by_offset:
            self._show(self._by_offset[record.parent])
        else:
            series = self._series[record.parent]
            if record.kind == records.REMOVE:
                series.baseline = np.frombuffer(record.tail, np.float64)
                series.born, series.generation = record.born, record.count
            else:
                series.created = record.created  # it began anew when somebody asked for it again

    def _take_family(self, offset: int, record: records.Record) -> None:
        entry = FamilyEntry(offset, records.family_of(record))
        self._check_slots(record, entry.family, optional=True)
        if record.count:
            entry.overflow = SeriesEntry(
                offset, OVERFLOW_LABELS, (), record.slot, record.created, record.born, overflow=True
            )
        self._by_offset[offset] = entry
        self._show(entry)

    def _show(self, entry: FamilyEntry) -> None:
        """Of the definitions of one name, this is the newest."""
        before = self.families.get(entry.family.name)
        if before is not None:
            self.older.append(before)
        if entry in self.older:
            self.older.remove(entry)
        self.families[entry.family.name] = entry

    def _take_series(self, offset: int, record: records.Record) -> None:
        family = self._by_offset[record.parent]
        self._check_slots(record, family.family)
        labels, payload = records.labels_of(record)
        series = SeriesEntry(offset, labels, payload, record.slot, record.created, record.born, status=record.status)
        if record.tail:
            series.baseline = np.frombuffer(record.tail, np.float64)
        # The same key a second time: the first one's slots were reused, or its record could not be found any more.
        family.series[record.key] = series
        self._series[offset] = series

    def _check_slots(self, record: records.Record, family: Family, optional: bool = False) -> None:
        if optional and not record.count:
            return
        within = L.FIRST_SERIES_SLOT <= record.slot <= self.segment.layout.slots - record.count
        if record.count != len(slot_codes(family)) or not within:
            raise SegmentFormatError(f"record of {family.name} names slots {record.slot}+{record.count}")
