"""What jobs count, in every kind of process: prometheus_client's metrics, through the drop-in, and one of our own.

May be imported in the processes under test only: importing it installs the drop-in.
"""

from __future__ import annotations

import os

import prometheus_client

import shm_metrics
import shm_metrics.prometheus

shm_metrics.prometheus.install()

JOBS = prometheus_client.Counter("jobs", "Jobs done.", ["queue"])
SECONDS = prometheus_client.Histogram("job_seconds", "Time a job took.", buckets=[0.5, 1, 5])
BUSY = prometheus_client.Gauge("jobs_busy", "Jobs under way.", multiprocess_mode="livesum")
OURS = shm_metrics.Counter("jobs_in_our_own", "Jobs done.", ["queue"])

QUEUES = ("a", "b")
for _queue in QUEUES:
    # At import, so that a worker forked after that has nothing left to do but count.
    JOBS.labels(_queue), OURS.labels(_queue)


def work(turn: int) -> int:
    """One job; the pid of who did it."""
    queue = QUEUES[turn % len(QUEUES)]
    with BUSY.track_inprogress():
        JOBS.labels(queue).inc()
        OURS.labels(queue).inc()
        SECONDS.observe(1)
    return os.getpid()
