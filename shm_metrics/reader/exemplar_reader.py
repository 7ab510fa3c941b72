"""Read the exemplar tables of all rows.

A row that keeps no exemplars costs one read of a number. Of a row that does, the sequences are read at once, and only
entries whose sequence changed are parsed. Entries for which the row has no memory are never read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import sleep  # at import, like the locks: see file_locks.py, "Under gevent"

import numpy as np
import numpy.typing as npt

from shm_metrics.errors import SegmentFormatError
from shm_metrics.segment import layout as L
from shm_metrics.segment.exemplar_records import Entry, unpack_entry
from shm_metrics.segment.segment import Segment

__all__ = ["ExemplarScan"]

TRIES = 50  # a writer is in the middle of an entry for a few microseconds; one that was killed there, forever
TRIES_BEFORE_YIELDING = 10
_NONE: Mapping[int, Entry] = {}


class _Table:
    """One row as read. sequences: shape (entries,), uint64, as parsed; entries: None where inconsistent."""

    __slots__ = ("damaged", "entries", "sequences")

    def __init__(self) -> None:
        self.sequences: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self.entries: list[Entry | None] = []
        self.damaged: set[int] = set()


class ExemplarScan:
    """Reads the newest exemplars of one segment, and keeps what it parsed."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        lay = segment.layout
        region = segment.bytes[lay.worker_table : lay.worker_table + lay.matrix_rows * L.WORKER_BYTES]
        self._with_memory = region.cast("Q")[L.WORKER_EXEMPLARS_OFFSET // L.WORD :: L.WORKER_BYTES // L.WORD]
        self._tables: dict[int, _Table] = {}
        self._newest = _NONE
        self._consistent = True  # False: an exception ended a newest() in the middle

    @property
    def damaged(self) -> int:
        """How many entries could not be read last time."""
        return sum(len(table.damaged) for table in self._tables.values()) if self._tables else 0

    def newest(self, rows: Iterable[int]) -> Mapping[int, Entry]:
        """Return slot -> the newest exemplar of any row; the same object while nothing changed."""
        counts, was_consistent = self._with_memory, self._consistent
        self._consistent = False
        if not was_consistent:
            self._tables = {}
        changed = not was_consistent
        for row in rows:
            count = counts[row]
            if count:
                changed |= self._refresh(row, min(count, L.EXEMPLARS_PER_ROW))
        if changed:
            newest: dict[int, Entry] = {}
            for table in self._tables.values():
                for entry in table.entries:
                    if entry is not None:
                        known = newest.get(entry.slot)
                        if known is None or entry.stamp > known.stamp:
                            newest[entry.slot] = entry
            self._newest = newest
        self._consistent = True
        return self._newest

    def _refresh(self, row: int, count: int) -> bool:
        """Read what changed in a row's first `count` entries. Return whether anything did."""
        table = self._tables.get(row)
        if table is None:
            table = self._tables[row] = _Table()
        start = self.segment.layout.exemplar_table(row)
        block = self.segment.bytes[start : start + count * L.EXEMPLAR_BYTES]
        words = np.frombuffer(block, np.uint64)[:: L.EXEMPLAR_BYTES // L.WORD]
        if len(table.sequences) != count:
            more = max(0, count - len(table.sequences))
            table.sequences = np.append(table.sequences[:count], np.zeros(more, np.uint64))
            table.entries = table.entries[:count] + [None] * more
        changed = np.flatnonzero(words != table.sequences).tolist()
        for number in changed:
            table.damaged.discard(number)
            data = block[number * L.EXEMPLAR_BYTES : (number + 1) * L.EXEMPLAR_BYTES]
            try:
                sequence, table.entries[number] = _read_entry(data)
            except SegmentFormatError:
                # It is read again only after it is written again.
                sequence, table.entries[number] = int(words[number]), None
                table.damaged.add(number)
            table.sequences[number] = sequence
        return bool(changed)


def _read_entry(data: memoryview) -> tuple[int, Entry | None]:
    """Return the sequence and its entry; None if there is none, or a writer is still at it.

    Raise SegmentFormatError when it is damaged.
    """
    words = data.cast("Q")
    before = words[0]
    for turn in range(TRIES):
        copy = bytes(data)
        after = words[0]
        if not before:
            return before, None
        if before == after and before % 2 == 0:
            return before, unpack_entry(copy)
        if turn >= TRIES_BEFORE_YIELDING:
            sleep(0)
        before = words[0]
    return before, None
