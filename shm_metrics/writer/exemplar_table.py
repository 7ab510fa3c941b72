"""The exemplar table of the row that this process owns.

One process writes a table, and what a kill at any moment leaves is an entry with an odd sequence, which nobody shows
and which the row's next owner uses again. Writing an entry:
    sequence = odd      from here on a reader looks again, or leaves it out
    the rest            with its checksum, for processors that reorder stores
    sequence = even     goes last: it says that the entry is whole

A slot has one entry. A table that is full gives the entry that was written longest ago to the newcomer. Entries have
memory from the front on, a page at a time, and the worker table says how many; a reader touches no others.
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
    """segment, row: the row must be this process' own until revoke()."""

    def __init__(self, segment: Segment, row: int) -> None:
        self._segment = segment
        self._row = row
        self._entry_of: OrderedDict[int, int] = OrderedDict()  # slot -> entry, the one written longest ago first
        self._free: list[int] = []  # entries that have memory and hold nothing, the next one last
        self._ready = False
        self._revoked = False
        self._lock = CallLock()

    def _open(self) -> None:
        """At the first use: most workers never keep an exemplar."""
        lay = self._segment.layout
        self._start = lay.exemplar_table(self._row)
        told = lay.worker(self._row) + L.WORKER_EXEMPLARS_OFFSET
        self._with_memory = self._segment.bytes[told : told + L.WORD].cast("Q")
        self._bytes = self._segment.bytes[self._start : self._start + L.EXEMPLARS_PER_ROW * L.EXEMPLAR_BYTES]
        self._words = self._bytes.cast("Q")
        self._find_entries()
        self._ready = True

    def keep(self, slot: int, value: float, timestamp: float, stamp: float, text: bytes) -> bool:
        """Keep the newest exemplar of a slot; False when it is left out. Raises SegmentFullError.

        It is left out when this comes in on top of itself in one thread (a signal handler, a __del__).
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
        self._ready = False  # until all agree; an exception on the way has the next call look at what is written
        self._write(entry, body)
        # After the write, and noted before it is taken from where it was: whatever comes in between, no entry is lost.
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
        """Memory for a few more entries, unless all there can be have it. Raises SegmentFullError."""
        reserved = self._reserved()
        if reserved < L.EXEMPLARS_PER_ROW:
            self._segment.reserve(self._start + reserved * L.EXEMPLAR_BYTES, L.PAGE)
            self._ready = False
            # After the memory is there: the reader trusts this number.
            self._with_memory[0] = reserved + L.EXEMPLARS_PER_PAGE
            self._free = [*range(reserved + L.EXEMPLARS_PER_PAGE - 1, reserved - 1, -1)]
            self._ready = True

    def _reserved(self) -> int:
        told = min(self._with_memory[0], L.EXEMPLARS_PER_ROW)
        return told // L.EXEMPLARS_PER_PAGE * L.EXEMPLARS_PER_PAGE

    def _find_entries(self) -> None:
        """What earlier owners of the row left: theirs are replaced like our own, and no entry is lost to us."""
        found: list[tuple[float, int, int]] = []
        free: list[int] = []
        for entry in range(self._reserved()):
            at = entry * L.EXEMPLAR_BYTES
            sequence = self._words[entry * _WORDS]
            try:
                if not sequence or sequence % 2:
                    raise SegmentFormatError("exemplar: not whole")
                whole = unpack_entry(self._bytes[at : at + L.EXEMPLAR_BYTES])
            except SegmentFormatError:
                free.append(entry)
            else:
                found.append((whole.stamp, whole.slot, entry))
        entry_of: OrderedDict[int, int] = OrderedDict()
        for _, slot, entry in sorted(found):
            if slot in entry_of:
                free.append(entry_of.pop(slot))
            entry_of[slot] = entry
        free.sort(reverse=True)
        self._entry_of, self._free = entry_of, free

    def revoke(self) -> None:
        """The row is not ours any more: from here on nothing is written, also by whoever is in the middle of it."""
        self._revoked = True
        self._bytes = self._words = _NO_MEMORY
