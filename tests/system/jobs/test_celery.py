"""Celery's workers. prefork replaces its children, by its own rule and after a kill; the other pools have none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE_SECONDS, until
from tests.support.watching import Exporter, children, environ
from tests.system.jobs.conftest import required

pytestmark = pytest.mark.slow

TASKS = 30  # it may take celery a second to replace a child
TASKS_PER_CHILD = 5
CONCURRENCY = 2


class Worker:
    """`celery worker`, and a client of it. log: what it says."""

    def __init__(self, client, segment: str, broker: str, log: Path, pool: str, *options: str) -> None:
        self.client = client
        self.log = log
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [
                    *[sys.executable, "-m", "celery", "--app", "tests.system.jobs.celery_app", "worker"],
                    *["--pool", pool, "--concurrency", str(CONCURRENCY), "--loglevel", "INFO"],
                    *["--without-gossip", "--without-mingle", "--without-heartbeat", *options],
                ],
                env=environ(SHM_METRICS_SEGMENT=segment, BROKER=broker, C_FORCE_ROOT="1"),
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def do(self, tasks: int) -> set[int]:
        """Have that many tasks done; the pids of who did them."""
        results = [self.client.send_task("work", (turn,)) for turn in range(tasks)]
        return {result.get(PATIENCE_SECONDS, interval=0.02) for result in results}

    def children(self) -> list[int]:
        return children(self.process.pid)

    def close(self) -> None:
        """A warm shutdown. It takes seconds."""
        self.process.terminate()
        self.process.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        """End it at once, and its children with it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def start(segment_name: str, valkey: str, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """start(pool, *options) -> Worker; ended after the test."""
    celery = required("celery")
    client = celery.Celery(broker=valkey, backend=valkey)
    running: list[Worker] = []

    def start(pool: str, *options: str) -> Worker:
        running.append(Worker(client, segment_name, valkey, tmp_path / "celery.log", pool, *options))
        return running[-1]

    yield start
    for worker in running:
        worker.kill()
    client.close()


def test_children_that_prefork_replaces_are_counted_exactly(start, exporter: Exporter):
    worker = start("prefork", "--max-tasks-per-child", str(TASKS_PER_CHILD))
    pids = worker.do(TASKS)
    assert len(pids) >= TASKS // TASKS_PER_CHILD > CONCURRENCY
    assert exporter.jobs() == (TASKS, TASKS, TASKS, 0)
    worker.close()
    assert exporter.jobs() == (TASKS, TASKS, TASKS, 0)
    # The worker itself, its two children, and those whose successor was started while they were leaving.
    assert exporter.rows() <= 1 + 2 * CONCURRENCY
    assert exporter.one_file()


def test_a_child_that_is_killed_between_tasks_is_counted_exactly(start, exporter: Exporter):
    worker = start("prefork")
    before = worker.do(30)
    killed = worker.children()[0]
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in worker.children() and len(worker.children()) == CONCURRENCY, "another is in its place")
    after = worker.do(30)
    assert before | after == {*before, *after, *worker.children()}
    assert exporter.jobs() == (60, 60, 60, 0)
    assert exporter.rows() == 1 + CONCURRENCY
    assert exporter.one_file()


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_pools_of_one_process_are_counted_exactly(start, exporter: Exporter, pool):
    worker = start(pool)
    assert worker.do(40) == {worker.process.pid}
    assert exporter.jobs() == (40, 40, 40, 0)
    # gevent's subprocess forks in Python, so a child that runs a program has a row until it does.
    assert exporter.rows() <= 2 if pool == "gevent" else exporter.rows() == 1
    assert exporter.one_file()
