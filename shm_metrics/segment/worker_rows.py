"""Worker rows: claims, inheritance, and which workers are alive.

The steps of a claim, in an order that matters:
    1. lock the claim byte        from here on the row is ours; a dead owner's lock is gone, whatever killed it
    2. repair the row             follow removals; fold, clear and repair what the dead owner left (below)
    3. write the worker table     pid, start, role: for people and for /proc
    4. lock the live byte         only now do readers count this row among the living, so that they never take a dead
                                  worker's live gauges for ours

What a new owner does with the numbers in its row, by the slot map:
    counters, sum and shared gauges      nothing: the totals go on
    histograms                           sequence := count (the dead owner may have died between the two)
    min, max, mostrecent gauges          folded into the ledger row, then cleared; folding twice changes nothing, so
                                         a crash in the middle is harmless
    all and live gauges                  cleared
    what was removed since               zeroed first, as a living owner does; see follow_removals()
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shm_metrics.segment import layout as L
from shm_metrics.segment.file_locks import FileLocks
from shm_metrics.segment.removals import EVERY_SLOT, Removals
from shm_metrics.segment.segment import Segment
from shm_metrics.segment.slot_table import SlotTable
from shm_metrics.segment.slots import SHARED_SLOTS

if TYPE_CHECKING:
    from shm_metrics.model.arrays import UnsignedArray

__all__ = ["RowLease", "WorkerTable", "claim_row", "follow_removals"]

_U64 = struct.Struct("<Q")
_F64 = struct.Struct("<d")

# Patterns in the slot map: a histogram's sequence and its buckets; stamps of gauges that are not inherited.
_HISTOGRAM = re.compile(re.escape(bytes([L.SLOT_SEQUENCE])) + re.escape(bytes([L.SLOT_BUCKET])) + b"+")
_FOLDED = (L.SLOT_STAMP_MIN, L.SLOT_STAMP_MAX, L.SLOT_STAMP_NEWEST)
_WITHOUT_REMOVED = bytes(code & ~L.SLOT_REMOVED & 0xFF for code in range(256))
_BUCKETS = re.compile(re.escape(bytes([L.SLOT_BUCKET])) + b"+")
_NOT_INHERITED = re.compile(
    b"[" + re.escape(bytes([L.SLOT_STAMP_CLEARED, L.SLOT_STAMP_MIN, L.SLOT_STAMP_MAX, L.SLOT_STAMP_NEWEST])) + b"]"
)


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One record of the worker table: the current or last owner of a row."""

    row: int
    pid: int
    start_ticks: int
    claimed_at: float
    claims: int
    generation: int
    role: str


class WorkerTable:
    """Reads the worker table. live() asks the kernel for locks."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        lay = segment.layout
        region = segment.bytes[lay.worker_table : lay.worker_table + lay.matrix_rows * L.WORKER_BYTES]
        words = region.cast("Q")
        self._claims = words[L.WORKER_CLAIMS_OFFSET // L.WORD :: L.WORKER_BYTES // L.WORD]
        self._generations = words[L.WORKER_GENERATION_OFFSET // L.WORD :: L.WORKER_BYTES // L.WORD]

    def generation(self, row: int) -> int:
        """Return the generation up to which the row has followed removals."""
        return self._generations[row]

    def generations(self, rows: Sequence[int]) -> UnsignedArray:
        """Return the generations of many rows: shape (rows,)."""
        import numpy as np

        return np.array([self._generations[row] for row in rows], np.uint64)

    def uses(self, row: int, family: int) -> bool:
        """Return whether the row's worker uses the family with this number; beyond MAX_USED_FAMILIES always True."""
        if not 0 <= family < L.MAX_USED_FAMILIES:
            return True
        at = self.segment.layout.family_use + row * L.FAMILY_USE_BYTES + family // 8
        return bool(self.segment.bytes[at] >> family % 8 & 1)

    def used(self) -> list[int]:
        """Return the rows that ever had a worker."""
        return [row for row, claims in enumerate(self._claims.tolist()) if claims]

    def reaped(self) -> int:
        """Return how often a worker took over the row of a dead one."""
        return sum(claims - 1 for claims in self._claims.tolist() if claims)

    def live(self, used: list[int] | None = None) -> list[int]:
        """Return the rows whose worker is alive, this process' own among them: whose live byte is locked."""
        asked = [L.LOCK_LIVE + row for row in (self.used() if used is None else used)]
        return [byte - L.LOCK_LIVE for byte in self.segment.locks.held_by_others(asked)]

    def read(self, row: int) -> WorkerRecord:
        data, at = self.segment.bytes, self.segment.layout.worker(row)
        pid, start = struct.unpack_from("<QQ", data, at + L.WORKER_PID_OFFSET)
        (claimed_at,) = _F64.unpack_from(data, at + L.WORKER_CLAIMED_AT_OFFSET)
        claims, generation = struct.unpack_from("<QQ", data, at + L.WORKER_CLAIMS_OFFSET)
        role = bytes(data[at + L.WORKER_ROLE_OFFSET : at + L.WORKER_ROLE_OFFSET + L.ROLE_BYTES])
        return WorkerRecord(
            row, pid, start, claimed_at, claims, generation, role.rstrip(b"\0").decode("utf-8", "replace")
        )

    def rowless(self) -> int:
        """Return how many workers count in private memory for want of a row; at most ROWLESS_BYTES."""
        locks = self.segment.locks
        if not locks.held_by_other(L.LOCK_ROWLESS, L.ROWLESS_BYTES):
            return 0
        return len(locks.held_by_others(range(L.LOCK_ROWLESS, L.LOCK_ROWLESS + L.ROWLESS_BYTES)))


class RowLease:
    """A row that this process owns until release(), or until the description that has its locks goes.

    A lease gives its row up when it is collected: an exception after the claim leaves no row claimed.
    """

    def __init__(self, row: int, segment: Segment) -> None:
        self.row = row
        self.segment = segment
        self._locks: FileLocks | None = None

    def take(self) -> bool:
        """Lock the claim byte. Return False when another process has the row."""
        # Noted first: after an exception as soon as the byte is locked, the lease gives it back.
        self._locks = self.segment.locks
        if self._locks.try_exclusive(L.LOCK_CLAIM + self.row):
            return True
        self._locks = None
        return False

    @property
    def held(self) -> bool:
        """Whether the row is still ours: only locks by process are lost while the process lives (ProcessLocks)."""
        return self.segment.locks.holds(L.LOCK_CLAIM + self.row)

    def set_role(self, role: str) -> None:
        """Set the role shown in the worker table; cut to 64 bytes of UTF-8."""
        at = self.segment.layout.worker(self.row) + L.WORKER_ROLE_OFFSET
        text = role.encode()[: L.ROLE_BYTES].decode("utf-8", "ignore").encode()
        self.segment.bytes[at : at + L.ROLE_BYTES] = text.ljust(L.ROLE_BYTES, b"\0")

    def generation(self) -> memoryview:
        """Return one word, the generation up to which this row has followed removals."""
        at = self.segment.layout.worker(self.row) + L.WORKER_GENERATION_OFFSET
        return self.segment.bytes[at : at + L.WORD].cast("Q")

    def use(self, family: int, used: bool = True) -> None:
        """Mark that this worker uses the family with this number, or no longer does."""
        if 0 <= family < L.MAX_USED_FAMILIES:
            at = self.segment.layout.family_use + self.row * L.FAMILY_USE_BYTES + family // 8
            bit = 1 << family % 8
            self.segment.bytes[at] = self.segment.bytes[at] | bit if used else self.segment.bytes[at] & ~bit

    def release(self) -> None:
        """Give the row up; the next owner inherits its totals. A second call does nothing."""
        locks, self._locks = self._locks, None
        if locks is not None and locks is self.segment.locks and locks.fd >= 0:
            locks.release(L.LOCK_LIVE + self.row)
            locks.release(L.LOCK_CLAIM + self.row)

    def forget(self) -> None:
        """Give nothing back: in a forked child the row is the parent's."""
        self._locks = None

    def __del__(self) -> None:
        if hasattr(self, "_locks"):  # unless __init__ failed
            self.release()


def claim_row(
    segment: Segment,
    *,
    pid: int,
    start_ticks: int,
    now: float,
    role: str,
    ledger_lock: Callable[[Callable[[], None]], bool],
    wanted_pages: bytes = b"",
    families: Iterable[int] = (),
) -> RowLease | None:
    """Take the first free row; None when all have living owners.

    ledger_lock: runs a function under the catalog lock; returns False when it cannot take the lock.
    wanted_pages: a byte a page; 1 for pages to reserve at once, because cells there exist already.
    families: the numbers of the families that the worker uses.

    Raise SegmentFullError when the row's memory cannot be reserved.
    """
    locks = segment.locks
    for row in range(L.FIRST_WORKER_ROW, segment.layout.matrix_rows):
        lease = RowLease(row, segment)  # gives the row up if it is dropped on the way out
        if not lease.take():
            continue
        at = segment.layout.worker(row)
        claims = _U64.unpack_from(segment.bytes, at + L.WORKER_CLAIMS_OFFSET)[0]
        lay = segment.layout
        segment.reserve(lay.page_map + row * lay.pages_per_row, lay.pages_per_row)
        segment.reserve(lay.family_use + row * L.FAMILY_USE_BYTES, L.FAMILY_USE_BYTES)
        segment.reserve_slots(row, 0, 1)
        segment.reserve_pages(row, wanted_pages)
        if claims:
            if not _repair_row(segment, lease, ledger_lock):
                lease.release()
                continue
        else:
            lease.generation()[0] = Removals(segment).generation
        used = lay.family_use + row * L.FAMILY_USE_BYTES
        segment.bytes[used : used + L.FAMILY_USE_BYTES] = bytes(L.FAMILY_USE_BYTES)
        for family in families:
            lease.use(family)
        # Word by word: struct.pack_into() writes zeros first, and a kill in between would leave them.
        words = segment.bytes[at : at + L.WORKER_BYTES].cast("Q")
        words[L.WORKER_PID_OFFSET // L.WORD], words[L.WORKER_START_OFFSET // L.WORD] = pid, start_ticks
        segment.bytes[at : at + L.WORKER_BYTES].cast("d")[L.WORKER_CLAIMED_AT_OFFSET // L.WORD] = now
        lease.set_role(role)
        words[L.WORKER_CLAIMS_OFFSET // L.WORD] = min(claims + 1, L.LARGEST_WORD)
        locks.try_exclusive(L.LOCK_LIVE + row)
        return lease
    return None


def follow_removals(
    segment: Segment,
    view: memoryview[float],
    pages: memoryview | None,
    followed: memoryview,
    newest: int,
    start: int | None = None,
    let_go: Callable[[int, bool], None] = lambda slot, carry: None,
    let_all_go: Callable[[int | None], None] = lambda since: None,
    private_ledger: memoryview[float] | None = None,
) -> None:
    """Zero in a row what was removed since the generation in `followed`, up to `newest`. Only for the row's owner.

    view: the row. pages: its part of the page map; None: the whole row may be touched. A handler or another thread may
    come in at any call: a slot is zeroed only while the row has not followed its removal, as one step.
    private_ledger: what private memory keeps beside the row, and goes with it.
    start: the cells have followed up to there. let_go(slot, carry) is called for each series that was removed since;
    carry: its slots were reused, and what the row has there is still the cells'. let_all_go(None) is called where many
    slots were given up at once, and let_all_go(generation) where all that were removed since are to be found.
    """
    begun = followed[0] if start is None else min(start, followed[0])
    removals = Removals(segment).since(begun)
    if removals is not None:
        for generation, slot, reused, reset in removals:
            if generation > newest:
                return
            if slot == EVERY_SLOT:
                let_all_go(None)
                _zero_removed(segment, view, pages, followed, generation, private_ledger)
            else:
                if not reset:
                    let_go(slot, reused and followed[0] < generation)
                _zero(segment, view, pages, followed, slot, generation, private_ledger)
            if followed[0] < generation:
                followed[0] = generation
        return
    let_all_go(begun)
    _zero_removed(segment, view, pages, followed, newest, private_ledger)
    if followed[0] < newest:
        followed[0] = newest


def _zero_removed(
    segment: Segment,
    view: memoryview[float],
    pages: memoryview | None,
    followed: memoryview,
    newest: int,
    private_ledger: memoryview[float] | None,
) -> None:
    """Zero every series whose slot has a generation that the row has not followed."""
    lay, used, begun = segment.layout, segment.slots_used, followed[0]
    table = segment.bytes[lay.slot_table : lay.slot_table + used * L.SLOT_ENTRY_BYTES].cast("Q")
    generations = table[L.SLOT_GENERATION_OFFSET // L.WORD :: L.SLOT_ENTRY_BYTES // L.WORD].tolist()
    for slot, generation in enumerate(generations):
        if generation > begun:
            _zero(segment, view, pages, followed, slot, min(generation, newest), private_ledger)


def _zero(
    segment: Segment,
    view: memoryview[float],
    pages: memoryview | None,
    followed: memoryview,
    slot: int,
    until: int,
    private_ledger: memoryview[float] | None,
) -> None:
    count = _series_slots(segment, slot)
    if slot + count > segment.layout.slots:
        return  # damage
    if pages is not None and not (pages[slot // L.SLOTS_PER_PAGE] and pages[(slot + count - 1) // L.SLOTS_PER_PAGE]):
        return
    place, zeros = slice(slot, slot + count), memoryview(bytes(count * L.WORD)).cast("d")
    # Compared and stored without a call in between: what comes in on top has followed, and counted, or has not begun.
    if private_ledger is not None and followed[0] < until:
        private_ledger[place] = zeros
    if followed[0] < until:
        view[place] = zeros


def _series_slots(segment: Segment, slot: int) -> int:
    """Return how many slots the series that begins at `slot` has, by the slot map."""
    codes = segment.codes
    first = codes[slot] & ~L.SLOT_REMOVED
    if first == L.SLOT_ADDS:
        return 1
    if first == L.SLOT_STAMP_SHARED:
        return SHARED_SLOTS
    if first == L.SLOT_SEQUENCE:
        found = _BUCKETS.match(codes, slot + 1)
        return (found.end() - slot if found else 1) + 2
    return 2


def _repair_row(segment: Segment, lease: RowLease, ledger_lock: Callable[[Callable[[], None]], bool]) -> bool:
    row, newest = lease.row, Removals(segment).generation
    view, pages = segment.row_view(row), segment.row_pages(row)
    follow_removals(segment, view, pages, lease.generation(), newest)
    codes = bytes(segment.codes[: segment.slots_used]).translate(_WITHOUT_REMOVED)
    for found in _HISTOGRAM.finditer(codes):
        _repair_histogram(view, pages, *found.span())
    stamps = [
        found.start()
        for found in _NOT_INHERITED.finditer(codes)
        if pages[found.start() // L.SLOTS_PER_PAGE] and (view[found.start()] or view[found.start() + 1])
    ]
    folded = [slot for slot in stamps if codes[slot] != L.SLOT_STAMP_CLEARED and view[slot]]
    if folded and not ledger_lock(lambda: _fold(segment, codes, view, folded)):
        return False
    for slot in stamps:
        view[slot] = 0.0  # before the value: a reader uses a value only with its stamp
        view[slot + 1] = 0.0
    return True


def _repair_histogram(view: memoryview[float], pages: memoryview, sequence: int, end: int) -> None:
    """Set the sequence to the number of observations in the buckets, which selects one of the two sums."""
    if pages[sequence // L.SLOTS_PER_PAGE] and pages[(end - 1) // L.SLOTS_PER_PAGE] and view[sequence]:
        count = sum(view[sequence + 1 : end])
        if view[sequence] != count:
            view[sequence] = count


def _fold(segment: Segment, codes: bytes, view: memoryview[float], stamps: list[int]) -> None:
    """Fold a dead worker's min, max and mostrecent gauges into the ledger row. Under the catalog lock.

    The ledger row follows removals as every row does: numbers of removed series are dropped first.
    """
    ledger = segment.row_view(L.LEDGER_ROW)
    _follow_in_ledger(segment, ledger)
    for slot in stamps:
        segment.reserve_slots(L.LEDGER_ROW, slot, 2)
        code, stamp, value = codes[slot], view[slot], view[slot + 1]
        old_stamp, old = ledger[slot], ledger[slot + 1]
        if old_stamp == 0.0:
            kept = value
        elif code == L.SLOT_STAMP_MIN:
            kept = min(old, value)
        elif code == L.SLOT_STAMP_MAX:
            kept = max(old, value)
        else:
            kept = value if stamp >= old_stamp else old
        ledger[slot + 1] = kept
        ledger[slot] = max(stamp, old_stamp)


def _follow_in_ledger(segment: Segment, ledger: memoryview[float]) -> None:
    at, removals = segment.layout.worker(L.LEDGER_ROW) + L.WORKER_GENERATION_OFFSET, Removals(segment)
    followed, newest = segment.bytes[at : at + L.WORD].cast("Q"), removals.generation
    if followed[0] == newest:
        return
    table, lay = SlotTable(segment), segment.layout
    known = removals.since(followed[0])
    slots = {removal.slot for removal in known or ()}
    if known is None or EVERY_SLOT in slots:
        slots = {slot for slot in range(segment.slots_used) if table.generation(slot) > followed[0]}
    pages = segment.row_pages(L.LEDGER_ROW)
    for slot in slots:
        # The words of a shared gauge belong to all workers: they stay, and refer to no base of the new series.
        if slot < lay.slots and segment.codes[slot] & ~L.SLOT_REMOVED in _FOLDED and pages[slot // L.SLOTS_PER_PAGE]:
            ledger[slot] = 0.0
            ledger[slot + 1] = 0.0
    followed[0] = newest
