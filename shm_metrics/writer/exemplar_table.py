"""The exemplar table of the row that this process owns.

Only one process writes a table. A kill at any moment leaves at most one entry with an odd sequence, which is not shown,
and which the row's next owner reuses. A write stores:
    sequence = odd      from here on a reader reads again, or leaves it out
    the rest            with its checksum, for processors that reorder stores
    sequence = even     goes last: it marks the entry as complete

A slot has one entry. A full table replaces the entry that was written longest ago. Entries have memory from
the front on, a page at a time, and the worker table says how many; a reader reads no others.
"""

from __future__ import annotations

from collections import OrderedDict

from shm_metrics.errors import SegmentFormatError
from shm_metrics.runtime.call_lock import CallLock, NestedCallError
from shm_metrics.segment import layout as L
from shm_metrics.segment.exemplar_records import BODY_OFFSET, pack_entry, unpack_entry
from shm_metrics.segment.segment import Segment

__all__ = ["ExemplarTable"]

_WORDS = L.EXEMPLAR_BYTES // L.WORD
_NO_MEMORY = memoryview(b"")


class ExemplarTable:
    """The exemplars of one row, which must be this process' own until revoke()."""

    def __init__(self, segment: Segment, row: int) -> None:
        self._segment = segment
        self._row = row
        self._entry_of: OrderedDict[int, int] = OrderedDict()  # slot -> entry, the one written longest ago first
        self._free: list[int] = []  # entries that have memory and hold nothing, the next one last
        self._ready = False
        self._revoked = False
        self._lock = CallLock()

    def _open(self) -> None:
        """Open the table at the first use: most workers never keep an exemplar."""
        lay = self._segment.layout
        self._start = lay.exemplar_table(self._row)
        at = lay.worker(self._row) + L.WORKER_EXEMPLARS_OFFSET
        self._with_memory = self._segment.bytes[at : at + L.WORD].cast("Q")
        self._bytes = self._segment.bytes[self._start : self._start + L.EXEMPLARS_PER_ROW * L.EXEMPLAR_BYTES]
        self._words = self._bytes.cast("Q")
        self._find_entries()
        self._ready = True

    def keep(self, slot: int, value: float, timestamp: float, stamp: float, text: bytes) -> bool:
        """Keep the newest exemplar of a slot; False when it is left out. Raise SegmentFullError.

        It is left out when a signal handler or __del__ interrupts another call of this in the same thread.
        """
        try:
            self._lock.run(self._keep, slot, value, timestamp, stamp, text)
        except NestedCallError:
            return False
        except Exception:
            # Forked or closed by a handler on top of this very call: the table is not ours any more.
            if not self._revoked:
                raise
        return not self._revoked

    def _keep(self, slot: int, value: float, timestamp: float, stamp: float, text: bytes) -> None:
        body = pack_entry(slot, value, timestamp, stamp, text)
        if not self._ready and not self._revoked:
            self._open()
        if self._revoked:
            return
        entry, given_up = self._entry_of.get(slot), None
        new = entry is None
        if entry is None:
            if not self._free:
                self._reserve_page()
            if self._free:
                entry = self._free[-1]
            else:
                given_up, entry = next(iter(self._entry_of.items()))
        self._ready = False  # until all agree: after an exception the next call reads what is written
        self._write(entry, body)
        # After the write, and before it is removed from where it was: an interrupt in between loses no entry.
        self._entry_of[slot] = entry
        self._entry_of.move_to_end(slot)
        if given_up is not None:
            del self._entry_of[given_up]
        elif new:
            self._free.pop()
        self._ready = True

    def _write(self, entry: int, body: bytes) -> None:
        at = entry * L.EXEMPLAR_BYTES + BODY_OFFSET
        odd = self._words[entry * _WORDS] | 1
        self._words[entry * _WORDS] = odd
        self._bytes[at : at + len(body)] = body
        self._words[entry * _WORDS] = odd + 1 if odd < L.LARGEST_WORD else 2

    def _reserve_page(self) -> None:
        """Reserve memory for a few more entries, unless all have it. Raise SegmentFullError."""
        reserved = self._reserved()
        if reserved < L.EXEMPLARS_PER_ROW:
            self._segment.reserve(self._start + reserved * L.EXEMPLAR_BYTES, L.PAGE)
            self._ready = False
            # After the memory is there: the reader trusts this number.
            self._with_memory[0] = reserved + L.EXEMPLARS_PER_PAGE
            self._free = [*range(reserved + L.EXEMPLARS_PER_PAGE - 1, reserved - 1, -1)]
            self._ready = True

    def _reserved(self) -> int:
        entries = min(self._with_memory[0], L.EXEMPLARS_PER_ROW)
        return entries // L.EXEMPLARS_PER_PAGE * L.EXEMPLARS_PER_PAGE

    def _find_entries(self) -> None:
        """Read the entries that earlier owners of the row left: they are replaced like our own."""
        found: list[tuple[float, int, int]] = []
        free: list[int] = []
        for entry in range(self._reserved()):
            at = entry * L.EXEMPLAR_BYTES
            sequence = self._words[entry * _WORDS]
            try:
                if not sequence or sequence % 2:
                    raise SegmentFormatError("exemplar: not complete")
                read = unpack_entry(self._bytes[at : at + L.EXEMPLAR_BYTES])
            except SegmentFormatError:
                free.append(entry)
            else:
                found.append((read.stamp, read.slot, entry))
        entry_of: OrderedDict[int, int] = OrderedDict()
        for _, slot, entry in sorted(found):
            if slot in entry_of:
                free.append(entry_of.pop(slot))
            entry_of[slot] = entry
        free.sort(reverse=True)
        self._entry_of, self._free = entry_of, free

    def revoke(self) -> None:
        """Stop all writes, because the row is no longer ours: also those of an interrupted call."""
        self._revoked = True
        self._bytes = self._words = _NO_MEMORY
