"""Rows: claiming one, what its new owner inherits, and who is alive.

Lives here: the row leases and the worker table. May not: create series, or write a row this process does not own
(but for the ledger row, under the catalog lock).

Claiming a row, and why each step is where it is:
    1. lock the claim byte        from here on the row is ours; a dead owner's lock is gone, whatever killed it
    2. put the row in order       fold, clear and repair what the dead owner left (below)
    3. write the worker table     pid, start, role: for people and for /proc
    4. lock the live byte         only now do readers count this row among the living, so that they never take a dead
                                  worker's live gauges for ours

What a new owner does with what it finds, by the slot map:
    counters, sum and shared gauges      nothing: the totals go on
    histograms                           sequence := count (the dead owner may have died between the two)
    min, max, mostrecent gauges          folded into the ledger row, then cleared; folding twice changes nothing, so
                                         a crash in the middle is harmless
    all and live gauges                  cleared
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from shm_metrics import layout as L
from shm_metrics.segment import Segment

__all__ = ["RowLease", "WorkerTable", "claim_row"]

_U64 = struct.Struct("<Q")
_F64 = struct.Struct("<d")

# What to look for in the slot map: a histogram's sequence and its buckets; stamps of gauges that are not inherited.
_HISTOGRAM = re.compile(re.escape(bytes([L.SLOT_SEQUENCE])) + re.escape(bytes([L.SLOT_BUCKET])) + b"+")
_NOT_INHERITED = re.compile(
    b"[" + re.escape(bytes([L.SLOT_STAMP_CLEARED, L.SLOT_STAMP_MIN, L.SLOT_STAMP_MAX, L.SLOT_STAMP_NEWEST])) + b"]"
)


@dataclass(frozen=True, slots=True)
class Worker:
    """One row of the worker table: who has it, or had it last."""

    row: int
    pid: int
    start_ticks: int
    claimed_at: float
    claims: int
    lineage: int
    role: str


class WorkerTable:
    """Reads the worker table; `live` asks the kernel."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        lay = segment.layout
        region = segment.bytes[lay.worker_table : lay.worker_table + lay.matrix_rows * L.WORKER_BYTES]
        self._claims = region.cast("Q")[L.WORKER_CLAIMS_OFFSET // L.WORD :: L.WORKER_BYTES // L.WORD]

    def used(self) -> list[int]:
        """The rows that ever had a worker."""
        return [row for row, claims in enumerate(self._claims.tolist()) if claims]

    def reaped(self) -> int:
        """How often a row was taken over from a worker that was gone."""
        return sum(claims - 1 for claims in self._claims.tolist() if claims)

    def live(self, used: list[int] | None = None) -> list[int]:
        """The rows whose worker is alive, this process' own among them: whose live byte is locked."""
        asked = [L.LOCK_LIVE + row for row in (self.used() if used is None else used)]
        return [byte - L.LOCK_LIVE for byte in self.segment.locks.held_by_others(asked)]

    def read(self, row: int) -> Worker:
        data, at = self.segment.bytes, self.segment.layout.worker(row)
        pid, start = struct.unpack_from("<QQ", data, at + L.WORKER_PID_OFFSET)
        (claimed_at,) = _F64.unpack_from(data, at + L.WORKER_CLAIMED_AT_OFFSET)
        claims, lineage = struct.unpack_from("<QQ", data, at + L.WORKER_CLAIMS_OFFSET)
        role = bytes(data[at + L.WORKER_ROLE_OFFSET : at + L.WORKER_ROLE_OFFSET + L.ROLE_BYTES])
        return Worker(row, pid, start, claimed_at, claims, lineage, role.rstrip(b"\0").decode("utf-8", "replace"))

    def rowless(self) -> int:
        """How many workers are counting in private memory because no row was free."""
        locks = self.segment.locks
        if not locks.held_by_other(L.LOCK_ROWLESS, L.ROWLESS_BYTES):
            return 0
        return len(locks.held_by_others(range(L.LOCK_ROWLESS, L.LOCK_ROWLESS + L.ROWLESS_BYTES)))


@dataclass(slots=True)
class RowLease:
    """A row that this process owns for as long as its locks' description is open."""

    row: int
    segment: Segment

    @property
    def held(self) -> bool:
        """Whether the row is still ours: only locks by process are lost while the process lives (ProcessLocks)."""
        return self.segment.locks.holds(L.LOCK_CLAIM + self.row)

    def set_role(self, role: str) -> None:
        """What people should read about this worker; cut to 64 bytes of UTF-8."""
        at = self.segment.layout.worker(self.row) + L.WORKER_ROLE_OFFSET
        text = role.encode()[: L.ROLE_BYTES].decode("utf-8", "ignore").encode()
        self.segment.bytes[at : at + L.ROLE_BYTES] = text.ljust(L.ROLE_BYTES, b"\0")

    def release(self) -> None:
        """Give the row up; its totals stay for the next owner."""
        self.segment.locks.release(L.LOCK_LIVE + self.row)
        self.segment.locks.release(L.LOCK_CLAIM + self.row)


def claim_row(
    segment: Segment,
    *,
    pid: int,
    start_ticks: int,
    now: float,
    lineage: int,
    role: str,
    ledger_lock: Callable[[Callable[[], None]], bool],
    wanted_pages: bytes = b"",
) -> RowLease | None:
    """Take the first free row; None when all have living owners.

    ledger_lock: runs a function under the catalog lock; False when the lock could not be had.
    wanted_pages: a byte a page; 1 for those to reserve at once, because cells that point there exist already.
    Raises SegmentFullError when the row's memory cannot be reserved.
    """
    locks = segment.locks
    for row in range(L.FIRST_WORKER_ROW, segment.layout.matrix_rows):
        if not locks.try_exclusive(L.LOCK_CLAIM + row):
            continue
        try:
            lease = RowLease(row, segment)
            at = segment.layout.worker(row)
            claims = _U64.unpack_from(segment.bytes, at + L.WORKER_CLAIMS_OFFSET)[0]
            lay = segment.layout
            segment.reserve(lay.page_map + row * lay.pages_per_row, lay.pages_per_row)
            segment.reserve_slots(row, 0, 1)
            segment.reserve_pages(row, wanted_pages)
            if claims and not _put_in_order(segment, row, ledger_lock):
                locks.release(L.LOCK_CLAIM + row)
                continue
        except BaseException:
            locks.release(L.LOCK_CLAIM + row)
            raise
        struct.pack_into("<QQ", segment.bytes, at + L.WORKER_PID_OFFSET, pid, start_ticks)
        _F64.pack_into(segment.bytes, at + L.WORKER_CLAIMED_AT_OFFSET, now)
        _U64.pack_into(segment.bytes, at + L.WORKER_LINEAGE_OFFSET, lineage)
        lease.set_role(role)
        _U64.pack_into(segment.bytes, at + L.WORKER_CLAIMS_OFFSET, min(claims + 1, L.LARGEST_WORD))
        locks.try_exclusive(L.LOCK_LIVE + row)
        return lease
    return None


def _put_in_order(segment: Segment, row: int, ledger_lock: Callable[[Callable[[], None]], bool]) -> bool:
    codes = bytes(segment.codes[: segment.slots_used])
    view, pages = segment.row_view(row), segment.row_pages(row)
    for found in _HISTOGRAM.finditer(codes):
        _repair_histogram(view, pages, *found.span())
    stamps = [
        found.start()
        for found in _NOT_INHERITED.finditer(codes)
        if pages[found.start() // L.SLOTS_PER_PAGE] and view[found.start()]
    ]
    folded = [slot for slot in stamps if codes[slot] != L.SLOT_STAMP_CLEARED]
    if folded and not ledger_lock(lambda: _fold(segment, codes, view, folded)):
        return False
    for slot in stamps:
        view[slot] = 0.0  # before the value: a reader takes a value only with its stamp
        view[slot + 1] = 0.0
    return True


def _repair_histogram(view: memoryview[float], pages: memoryview, sequence: int, end: int) -> None:
    """Set the sequence to the number of observations in the buckets, which says which of the two sums is the sum."""
    if pages[sequence // L.SLOTS_PER_PAGE] and pages[(end - 1) // L.SLOTS_PER_PAGE] and view[sequence]:
        count = sum(view[sequence + 1 : end])
        if view[sequence] != count:
            view[sequence] = count


def _fold(segment: Segment, codes: bytes, view: memoryview[float], stamps: list[int]) -> None:
    """Fold a dead worker's min, max and mostrecent gauges into the ledger row. Under the catalog lock."""
    ledger = segment.row_view(L.LEDGER_ROW)
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
