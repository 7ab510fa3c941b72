"""What the workers of these tests do. A module of its own, so that spawned children can import it."""

from __future__ import annotations

import os
import signal

from shm_metrics import Counter, Gauge, Histogram, MetricsBackend

JOBS = Counter("jobs", "Jobs done.", ["queue"])
SECONDS = Histogram("job_seconds", "Time a job took.")
BUSY = Gauge("jobs_busy", "Jobs under way.", multiprocess_mode="livesum")


def one(queue: str = "a") -> int:
    """One job; the pid of who did it."""
    with BUSY.track_inprogress():
        JOBS.labels(queue).inc()
        SECONDS.observe(1)
    return os.getpid()


def many(times: int) -> None:
    for turn in range(times):
        one("ab"[turn % 2])


def many_and_die(times: int) -> None:
    """... by SIGKILL, in the middle of a job."""
    many(times)
    with BUSY.track_inprogress():
        os.kill(os.getpid(), signal.SIGKILL)


def with_backend(backend: MetricsBackend, times: int) -> None:
    """Count in a backend that was handed over."""
    for _ in range(times):
        backend.counter("handed_over_total").increment()
