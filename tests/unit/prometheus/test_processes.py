"""The drop-in in several processes: fork, spawn, SIGKILL, and workers told apart in one process."""

from __future__ import annotations

import os
import signal

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead


def in_child(work):
    """Run `work` in a forked child, which ends without cleaning up; its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.fixture
def multiprocess(installed):
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return registry


def test_children_of_fork_add_up_and_lose_nothing_when_killed(installed):
    counter = Counter("c", "", ["a"], registry=None)
    histogram = Histogram("h", "", registry=None)
    counter.labels("x").inc()

    def work():
        for _ in range(10):
            counter.labels("x").inc()
            counter.labels("new in the child").inc()
            histogram.observe(1)
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(3):
        assert in_child(work) == -signal.SIGKILL
    found = installed.snapshot()
    assert found.value("c", a="x") == 31
    assert found.value("c", a="new in the child") == 30
    assert found.value("h") == 30


def test_a_dead_worker_takes_its_live_gauges_along(installed, multiprocess):
    gauge = Gauge("g", "", multiprocess_mode="livesum", registry=None)
    gauge.set(1)
    assert in_child(lambda: gauge.set(5)) == 0
    assert multiprocess.get_sample_value("g") == 1


def test_nobody_has_to_say_that_a_process_died(installed, multiprocess, monkeypatch):
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    counter = Counter("c", "", registry=None)
    counter.inc()
    mark_process_dead(os.getpid())
    mark_process_dead(12345, None)
    counter.inc()
    assert multiprocess.get_sample_value("c_total") == 2


@pytest.mark.parametrize("identifiers", [(123, 456), ("left", "right")])
def test_workers_told_apart_by_an_identifier_have_rows_of_their_own(installed, multiprocess, identifiers):
    now = [identifiers[0]]
    values.ValueClass = values.MultiProcessValue(lambda: now[0])
    counter = Counter("c", "", registry=None)
    gauge = Gauge("g", "", multiprocess_mode="livesum", registry=None)
    summary = Summary("s", "", registry=None)
    counter.inc(2)
    gauge.set(10)
    summary.observe(1)
    now[0] = identifiers[1]
    counter.inc(3)
    gauge.set(1)
    summary.observe(4)
    assert counter._value.get() == 3
    assert multiprocess.get_sample_value("c_total") == 5
    assert multiprocess.get_sample_value("g") == 11
    assert multiprocess.get_sample_value("s_sum") == 5
    mark_process_dead(identifiers[0])
    assert multiprocess.get_sample_value("c_total") == 5
    assert multiprocess.get_sample_value("g") == 1


FORKED_BEFORE = """
import os, sys
import prometheus_client
counted = prometheus_client.Counter("counted", "", registry=None)
counted.inc(100)
gauge = prometheus_client.Gauge("gauge", "", registry=None)
idle = prometheus_client.Counter("idle", "", registry=None)
import time
deadline = time.monotonic() + 0.05   # the kernel counts the starts of processes in hundredths of a second
while time.monotonic() < deadline:
    pass
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        import logging
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        import shm_metrics.prometheus
        shm_metrics.prometheus.install()
        counted.inc()
        idle.inc()
        gauge.set(7)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)
"""


def test_installed_after_the_fork_the_parents_counts_are_left_to_the_parent_and_it_says_so(
    segment_name, make_backend, python
):
    backend = make_backend()
    printed = python(FORKED_BEFORE, SHM_METRICS_SEGMENT=segment_name)
    found = backend.snapshot()
    assert found.value("counted") == 2
    assert found.value("idle") == 2
    assert found.value("gauge") == 7
    assert printed.count("install() in a forked process") == 2
    assert "left out of counted;" in printed


SPAWNED = """
import multiprocessing, sys
import prometheus_client
import shm_metrics.prometheus
shm_metrics.prometheus.install()
jobs = prometheus_client.Counter("jobs", "", ["kind"])

def work(n):
    for _ in range(n):
        jobs.labels("a").inc()

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    work(1)
    with context.Pool(2) as pool:
        pool.map(work, [10] * 6)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_every_start_method_adds_up(segment_name, make_backend, tmp_path, method):
    import subprocess
    import sys

    backend = make_backend()
    script = tmp_path / "spawned.py"
    script.write_text(SPAWNED)
    env = {**os.environ, "SHM_METRICS_SEGMENT": segment_name, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, str(script), method], env=env, check=True, timeout=60)
    assert backend.snapshot().value("jobs", kind="a") == 61


def test_locks_of_metrics_are_renewed_in_a_child(installed):
    counter = Counter("c", "", ["a"], registry=None)
    with counter._lock:  # as another thread of the parent may hold it at the fork
        assert in_child(lambda: counter.labels("x").inc()) == 0
    assert installed.snapshot().value("c", a="x") == 1
