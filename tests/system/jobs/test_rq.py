"""RQ forks a child for each job, and the child ends without Python's exit handlers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.waiting import PATIENCE_SECONDS
from tests.support.watching import Exporter, environ
from tests.system.jobs.conftest import required

pytestmark = pytest.mark.slow

JOBS = 6


@pytest.mark.parametrize("kind", ["Worker", "SpawnWorker", "SimpleWorker"])
def test_a_child_for_each_job_is_counted_exactly(exporter: Exporter, valkey: str, kind):
    rq, redis = required("rq"), required("redis")
    url = valkey.replace("redis+socket", "unix")
    connection = redis.Redis.from_url(url)
    queue = rq.Queue(connection=connection, name=kind)
    jobs = [queue.enqueue("tests.system.jobs.rq_jobs.work", turn) for turn in range(JOBS)]
    if kind != "SimpleWorker":  # which does its jobs itself
        queue.enqueue("tests.system.jobs.rq_jobs.work_and_die", JOBS, at_front=True)
        queue.enqueue("tests.system.jobs.rq_jobs.work_and_die", JOBS + 1)
    done = subprocess.run(
        [*[sys.executable, "-m", "rq.cli", "worker", kind, "--burst", "--url", url], "-w", f"rq.worker.{kind}"],
        env=environ(SHM_METRICS_SEGMENT=exporter.segment_name),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pids = {job.return_value() for job in jobs}
    connection.close()
    expected = JOBS if kind == "SimpleWorker" else JOBS + 2
    assert len(pids) == (1 if kind == "SimpleWorker" else JOBS)
    assert exporter.jobs() == (expected, expected, expected, 0)
    # However many children there were; the worker itself does not count, and has none.
    assert exporter.rows() == 1
    assert exporter.one_file()
