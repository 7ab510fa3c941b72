"""What the applications under test have in common: they count each request, and mark it elsewhere at the same moment.

The marks are numbers in mapped files, one for each thread, in the directory that WITNESS names. Marking is one call
into C that does not let go of the interpreter, and the count is the next instruction: whatever kills a worker, marks
and counts are equal, but for a kill in the fraction of a microsecond between the two.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import threading
import time

from shm_metrics import Counter, Gauge, Histogram

SECONDS = 0.001
NUMBER = struct.Struct("<Q")

REQUESTS = Counter("requests", "Requests that reached the application.", ["path"])
DURATION = Histogram("duration_seconds", "Time to answer.", buckets=[0.001, 0.01, 0.1])
IN_PROGRESS = Gauge("in_progress", "Requests being answered.", multiprocess_mode="livesum")
ONE = Gauge("one", "Moved by every request.")


class _Mark(threading.local):
    """This thread's number, and the process it belongs to: a forked child begins its own."""

    pid = 0
    number = 0
    memory: mmap.mmap


_mark = _Mark()


def count(path: str) -> None:
    """Count a request."""
    if _mark.pid != os.getpid():
        _mark.pid, _mark.number, _mark.memory = os.getpid(), 0, _new_file()
    _mark.number += 1
    memory, number, series = _mark.memory, _mark.number, REQUESTS.labels(path)
    NUMBER.pack_into(memory, 0, number)
    series.inc()


def _new_file() -> mmap.mmap:
    descriptor, _ = tempfile.mkstemp(dir=os.environ["WITNESS"])
    os.truncate(descriptor, NUMBER.size)
    try:
        return mmap.mmap(descriptor, NUMBER.size)
    finally:
        os.close(descriptor)


def work(path: str) -> bytes:
    """One request: counted first, then worked on."""
    with IN_PROGRESS.track_inprogress(), DURATION.time():
        count(path)
        ONE.inc()
        time.sleep(SECONDS)
    return str(os.getpid()).encode()
