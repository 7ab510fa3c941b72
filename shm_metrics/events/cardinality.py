"""What a segment holds: the names of its families, their numbers of series, the values of their labels.

A process reads this only when an event would create a series that no process has created yet.
"""

from __future__ import annotations

import _thread
from array import array
from collections.abc import Collection

from shm_metrics.errors import SegmentFormatError
from shm_metrics.segment import catalog_records
from shm_metrics.segment import layout as L
from shm_metrics.segment.catalog import Catalog
from shm_metrics.segment.segment import Segment
from shm_metrics.segment.slot_table import LIVE, SlotTable

__all__ = ["Cardinality"]


class _Known:
    """What was read of one family.

    offsets: of the records of its living series. values: label -> its values, in the first `read` of the records.
    """

    __slots__ = ("offsets", "read", "values")

    def __init__(self) -> None:
        self.offsets = array("Q")
        self.values: dict[str, set[str]] = {}
        self.read = 0


class Cardinality:
    """Reads the catalog of `segment` incrementally. A child of fork needs its own: the parent's may be reading."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._catalog = Catalog(segment)
        self._table = SlotTable(segment)
        self._reading = _thread.allocate_lock()
        self._begin(0)

    def _begin(self, changes: int) -> None:
        self._changes = changes
        self._cursor = 0
        self._families: dict[str, _Known] = {}
        self._by_id: dict[int, _Known] = {}

    def names(self) -> Collection[str]:
        """Return the names of all families, of all processes."""
        self._read_on()
        return tuple(self._families)

    def series(self, name: str) -> int:
        """Return the number of living series of the family."""
        self._read_on()
        known = self._families.get(name)
        return 0 if known is None else len(known.offsets)

    def values(self, name: str, label: str) -> Collection[str]:
        """Return the values of the label in the living series of the family."""
        self._read_on(name)
        known = self._families.get(name)
        return () if known is None else known.values.get(label, ())

    def _read_on(self, wanted: str = "") -> None:
        # While another thread reads (or a signal handler runs on top of it), use what is known so far.
        if not self._reading.acquire(False):
            return
        try:
            self._read_catalog()
            if wanted in self._families:
                self._read_values(self._families[wanted])
        finally:
            self._reading.release()

    def _read_catalog(self) -> None:
        changes = self._segment.get(L.CHANGES_OFFSET)
        if changes != self._changes:  # series were removed, or came back
            self._begin(changes)
        for offset, record, following in self._catalog.scan(self._cursor):
            self._cursor = following
            if record is None:
                continue
            if record.kind == catalog_records.FAMILY:
                try:
                    name = catalog_records.family_of(record).name
                except SegmentFormatError:
                    continue
                self._by_id[record.hash] = self._families.setdefault(name, _Known())
            elif record.parent in self._by_id and self._table.state(record.slot, record.hash) == LIVE:
                self._by_id[record.parent].offsets.append(offset)

    def _read_values(self, known: _Known) -> None:
        for offset in known.offsets[known.read :]:
            known.read += 1
            try:
                pairs, _ = catalog_records.labels_of(self._catalog.read(offset))
            except (SegmentFormatError, ValueError):
                continue
            for label, value in pairs:
                known.values.setdefault(label, set()).add(value)
