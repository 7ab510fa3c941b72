"""The standard library's ways to start a worker: nothing to install, nothing to call, every job counted once."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from pathlib import Path

import pytest

from shm_metrics import MetricsBackend
from tests.system.workers import jobs

METHODS = ("fork", "spawn", "forkserver")
pytestmark = [pytest.mark.slow, pytest.mark.both_builds]


@pytest.fixture(params=METHODS)
def context(request, metrics_backend):
    if request.param == "forkserver":
        # It keeps the environment that it was started with, and with it the segment of an earlier test.
        forkserver._forkserver._stop()
    return multiprocessing.get_context(request.param)


def done(backend: MetricsBackend) -> tuple[float, float | None, float | None]:
    """(jobs, observations, jobs under way), as the parent sees them."""
    snapshot = backend.snapshot()
    found = snapshot.family("jobs")
    total = 0.0 if found is None else float(found.values.sum())
    return total, snapshot.value("job_seconds"), snapshot.value("jobs_busy")


def test_processes_are_counted_exactly(context, metrics_backend):
    workers = [context.Process(target=jobs.many, args=(250,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        worker.close()
    assert done(metrics_backend) == (1000, 1000, 0)


def test_processes_that_are_killed_are_counted_exactly(context, metrics_backend):
    workers = [context.Process(target=jobs.many_and_die, args=(50,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == -signal.SIGKILL
        worker.close()
    assert done(metrics_backend) == (200, 200, 0)


def test_a_pool_that_replaces_its_workers_is_counted_exactly(context, metrics_backend):
    with context.Pool(2, maxtasksperchild=5) as pool:
        pids = pool.map(jobs.one, ["a"] * 40, chunksize=1)
        pool.close()
        pool.join()
    assert len(set(pids)) >= 8
    assert done(metrics_backend) == (40, 40, 0)
    # The parent, two workers, and those whose successor was started while they were leaving.
    assert len(metrics_backend.snapshot().used_rows) <= 1 + 2 * 2


def test_an_executor_is_counted_exactly(context, metrics_backend):
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        list(executor.map(jobs.one, ["a"] * 40))
    assert done(metrics_backend) == (40, 40, 0)


def test_a_backend_goes_to_a_child_as_an_argument(context, segment_name):
    backend = MetricsBackend(segment_name, role="parent")
    worker = context.Process(target=jobs.with_backend, args=(backend, 7))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    worker.close()
    backend.counter("handed_over_total").increment()
    assert backend.counter("handed_over_total").value == 8
    backend.close()


def test_children_of_children_are_counted_exactly(metrics_backend):
    def child(depth: int) -> None:
        jobs.one()
        if depth:
            pid = os.fork()
            if pid == 0:
                child(depth - 1)
                os._exit(0)
            os.waitpid(pid, 0)

    child(5)
    assert done(metrics_backend) == (6, 6, 0)
    assert len(metrics_backend.snapshot().used_rows) == 6


def test_a_child_that_does_one_job_and_dies_leaves_no_byte(metrics_backend):
    path = Path(metrics_backend.place.path)
    around = {each.name for each in path.parent.iterdir() if path.name in each.name}

    def sizes() -> tuple[int, int, int]:
        status = path.stat()
        return status.st_size, status.st_blocks, len(metrics_backend.snapshot().used_rows)

    def child() -> None:
        pid = os.fork()
        if pid == 0:
            jobs.one()
            os._exit(0)
        os.waitpid(pid, 0)

    child()
    before = sizes()
    for _ in range(300):
        child()
    assert sizes() == before
    assert before[2] == 2
    assert {each.name for each in path.parent.iterdir() if path.name in each.name} == around
    assert done(metrics_backend) == (301, 301, 0)
