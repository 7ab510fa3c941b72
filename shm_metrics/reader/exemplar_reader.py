"""Reading the exemplar tables of all rows.

Where nobody keeps exemplars this costs one look at a number a row. Where somebody does, the sequences of a table are
read at once and only entries with another sequence than last time are parsed. Entries beyond those that the row says to
have memory for are never touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import sleep  # at import, like the locks: see locks.py, "Under gevent"

import numpy as np
import numpy.typing as npt

from shm_metrics.errors import SegmentFormatError
from shm_metrics.segment import layout as L
from shm_metrics.segment.exemplar_records import Entry, unpack_entry
from shm_metrics.segment.segment import Segment

__all__ = ["ExemplarScan"]

TRIES = 50  # a writer is in the middle of an entry for a few microseconds; one that was killed there, forever
TRIES_BEFORE_YIELDING = 10
_NOBODY: Mapping[int, Entry] = {}


class _Table:
    """What was read of one row. sequences: shape (entries,), uint64, as parsed; entries: None where none is whole."""

    __slots__ = ("damaged", "entries", "sequences")

    def __init__(self) -> None:
        self.sequences: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self.entries: list[Entry | None] = []
        self.damaged: set[int] = set()


class ExemplarScan:
    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        lay = segment.layout
        region = segment.bytes[lay.worker_table : lay.worker_table + lay.matrix_rows * L.WORKER_BYTES]
        self._with_memory = region.cast("Q")[L.WORKER_EXEMPLARS_OFFSET // L.WORD :: L.WORKER_BYTES // L.WORD]
        self._tables: dict[int, _Table] = {}
        self._newest = _NOBODY
        self._whole = True  # False: an exception ended a newest() in the middle

    @property
    def damaged(self) -> int:
        """How many entries could not be read at the last look."""
        return sum(len(table.damaged) for table in self._tables.values()) if self._tables else 0

    def newest(self, rows: Iterable[int]) -> Mapping[int, Entry]:
        """slot -> the newest exemplar that anybody kept of it; the same object while nothing changed."""
        told, was_whole = self._with_memory, self._whole
        self._whole = False
        if not was_whole:
            self._tables = {}
        changed = not was_whole
        for row in rows:
            count = told[row]
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
        self._whole = True
        return self._newest

    def _refresh(self, row: int, count: int) -> bool:
        """Read what changed in a row's first `count` entries; whether anything did."""
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
                sequence, table.entries[number] = _whole(data)
            except SegmentFormatError:
                # Not looked at again until it is written again.
                sequence, table.entries[number] = int(words[number]), None
                table.damaged.add(number)
            table.sequences[number] = sequence
        return bool(changed)


def _whole(data: memoryview) -> tuple[int, Entry | None]:
    """The sequence and the entry that belongs to it, or None where there is none, or its writer is not done with it.

    Raises SegmentFormatError when it is damaged.
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
