"""The CPU ledger: CPU seconds that outlive their workers.

The CPU seconds of a dead worker are gone; a sum over the living would fall. So each scrape notes what it saw
of each row's process, in the segment if it may write there (under the ledger lock), and in its own memory; when another
process is seen on the row, the last figure of the one before is retired into the row's total. What a worker used after
the last scrape that saw it is not counted: the counter is low by at most one scrape interval's work a worker. Both
notes can only be too low, so the greater one is shown, and it never falls while this process or the segment lives.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from os import getpid
from types import FrameType
from typing import NamedTuple

from shm_metrics.runtime.call_lock import BusyCallError, CallLock
from shm_metrics.runtime.process_usage import ProcessUsage
from shm_metrics.segment import layout as L
from shm_metrics.segment.segment import Segment

__all__ = ["CpuLedger"]

_ENTRY = struct.Struct("<QQdd")


class _Entry(NamedTuple):
    """What is noted of one row. pid, start: the process seen last; last: its CPU seconds; retired: of all before it."""

    pid: int = 0
    start: int = 0
    last: float = 0.0
    retired: float = 0.0

    def of_others(self, usage: ProcessUsage | None) -> float:
        """Return the CPU seconds of all processes of the row but this one."""
        return self.retired if self._is(usage) else self.retired + self.last

    def with_seen(self, usage: ProcessUsage) -> _Entry:
        if self._is(usage):
            return self._replace(last=max(self.last, usage.cpu_seconds))
        return _Entry(usage.pid, usage.start_ticks, usage.cpu_seconds, self.retired + self.last)

    def _is(self, usage: ProcessUsage | None) -> bool:
        return usage is not None and (usage.pid, usage.start_ticks) == (self.pid, self.start)


class _LedgerLock(CallLock):
    """Between the calls of this process, and between processes by the ledger's byte. pid: the process that has it."""

    __slots__ = ("_segment", "pid")

    def __init__(self, segment: Segment) -> None:
        super().__init__(patient=False)
        self._segment = segment
        self.pid = getpid()

    def acquire(self, frame: FrameType) -> None:
        """Acquire as CallLock.acquire() does. Raise BusyCallError."""
        if self.pid != getpid():
            self.renew()
            self.pid = getpid()
        super().acquire(frame)
        if not self._segment.locks.try_exclusive(L.LOCK_LEDGER):
            raise BusyCallError

    def release(self, frame: FrameType) -> None:
        """Release as CallLock.release() does."""
        if self.holder is frame:
            self._segment.locks.release(L.LOCK_LEDGER)
            super().release(frame)


class CpuLedger:
    """One scraper's notes of one segment."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._own: dict[int, _Entry] = {}
        self._lock = _LedgerLock(segment)

    def retired_seconds(self, used_rows: Iterable[int], live: Mapping[int, ProcessUsage]) -> float:
        """Return the CPU seconds of all processes that had a row and are not in `live` (row -> usage)."""
        total = 0.0
        for row in used_rows:
            usage = live.get(row)
            own, shared = self._own.get(row, _Entry()), self._shared(row)
            total += max(own.of_others(usage), shared.of_others(usage))
        return total

    def note(self, live: Mapping[int, ProcessUsage]) -> None:
        """Note what was seen; in the segment too, unless another scraper is writing there."""
        for row, usage in live.items():
            self._own[row] = self._own.get(row, _Entry()).with_seen(usage)
        if self.segment.writable:
            try:
                self._lock.run(self._note_all, live)
            except BusyCallError:
                pass

    def _note_all(self, live: Mapping[int, ProcessUsage]) -> None:
        for row, usage in live.items():
            entry = self._shared(row).with_seen(usage)
            if self._lock.pid != getpid():
                return  # forked on top of this call, which is the parent's
            self._write(row, entry)

    def _shared(self, row: int) -> _Entry:
        at = self._at(row)
        return _Entry(*_ENTRY.unpack_from(self.segment.bytes, self._note(at, L.word(self.segment.bytes, at))))

    def _write(self, row: int, entry: _Entry) -> None:
        """Write the note that does not count yet; then one store selects it. A kill leaves the previous one."""
        at = self._at(row)
        choice = (L.word(self.segment.bytes, at) + 1) & 1
        _ENTRY.pack_into(self.segment.bytes, self._note(at, choice), *entry)
        self.segment.bytes[at : at + L.WORD].cast("Q")[0] = choice

    def _note(self, at: int, choice: int) -> int:
        return at + L.WORD + (choice & 1) * L.CPU_NOTE_BYTES

    def _at(self, row: int) -> int:
        return self.segment.layout.worker(row) + L.WORKER_CPU_CHOICE_OFFSET
