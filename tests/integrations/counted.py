"""What the applications under test have in common: they count each request, and leave a mark of it elsewhere.

The mark is a byte appended to the file that WITNESS names, written in the instruction before the count: whatever kills
a worker, marks and counts are equal, but for a kill in the fraction of a microsecond between the two.
"""

from __future__ import annotations

import os
import time

from shm_metrics import Counter, Gauge, Histogram

WITNESS = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_APPEND)
SECONDS = 0.001

REQUESTS = Counter("requests", "Requests that reached the application.", ["path"])
DURATION = Histogram("duration_seconds", "Time to answer.", buckets=[0.001, 0.01, 0.1])
IN_PROGRESS = Gauge("in_progress", "Requests being answered.", multiprocess_mode="livesum")
ONE = Gauge("one", "Moved by every request.")


def count(path: str) -> None:
    """Count a request."""
    os.write(WITNESS, b".")
    REQUESTS.labels(path).inc()


def work(path: str) -> bytes:
    """One request: counted first, then worked on."""
    with IN_PROGRESS.track_inprogress(), DURATION.time():
        count(path)
        ONE.inc()
        time.sleep(SECONDS)
    return str(os.getpid()).encode()
