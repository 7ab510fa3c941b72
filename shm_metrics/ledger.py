"""CPU seconds that outlive their workers.

Lives here: what scrapers note down of /proc in the worker table. May not: read /proc (the figures come in).

A worker that is gone takes its CPU seconds with it; a sum over the living would fall. So each scrape that may write
notes, under the ledger lock, what it saw of each row's process; when another process is seen on the row, the last
figure of the one before is retired into the row's total. What a worker used after the last scrape that saw it is not
counted: the counter is low by at most one scrape interval's work a worker, and never falls.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from shm_metrics import layout as L
from shm_metrics.process.usage import ProcessUsage
from shm_metrics.segment import Segment

__all__ = ["CpuLedger"]

_ENTRY = struct.Struct("<QQdd")  # pid and start ticks of the process seen last, its CPU seconds, those of all before it


class CpuLedger:
    def __init__(self, segment: Segment) -> None:
        self.segment = segment

    def retired_seconds(self, used_rows: tuple[int, ...], live: Mapping[int, ProcessUsage]) -> float:
        """CPU seconds of all processes that had a row and are not the ones in `live` (row -> usage)."""
        total = 0.0
        for row in used_rows:
            pid, start, last, retired = _ENTRY.unpack_from(self.segment.bytes, self._at(row))
            usage = live.get(row)
            seen = usage is not None and (usage.pid, usage.start_ticks) == (pid, start)
            total += retired if seen else retired + last
        return total

    def note(self, live: Mapping[int, ProcessUsage]) -> None:
        """Write down what was seen, unless somebody else is at it."""
        locks = self.segment.locks
        if not self.segment.writable or not locks.try_exclusive(L.LOCK_LEDGER):
            return
        try:
            for row, usage in live.items():
                self._note(row, usage)
        finally:
            locks.release(L.LOCK_LEDGER)

    def _note(self, row: int, usage: ProcessUsage) -> None:
        at, data = self._at(row), self.segment.bytes
        pid, start, last, retired = _ENTRY.unpack_from(data, at)
        if (usage.pid, usage.start_ticks) == (pid, start):
            last = max(last, usage.cpu_seconds)
        else:
            retired, last = retired + last, usage.cpu_seconds
        _ENTRY.pack_into(data, at, usage.pid, usage.start_ticks, last, retired)

    def _at(self, row: int) -> int:
        return self.segment.layout.worker(row) + L.WORKER_SEEN_PID_OFFSET
