"""Celery's tasks as events, in a real worker."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.jobs.conftest import exporter, required, valkey  # noqa: F401  # fixtures
from tests.jobs.watching import environ
from tests.waiting import PATIENCE_SECONDS, until

pytestmark = pytest.mark.slow


@pytest.fixture(params=["prefork", "threads"])
def worker(request, segment_name, valkey, tmp_path, exporter):  # noqa: F811
    """The client of a real worker of two."""
    celery = required("celery")
    client = celery.Celery(broker=valkey, backend=valkey)
    with open(tmp_path / "celery.log", "wb") as log:
        process = subprocess.Popen(
            [
                *[sys.executable, "-m", "celery", "--app", "tests.events.celery_app", "worker"],
                *["--pool", request.param, "--concurrency", "2", "--loglevel", "INFO"],
                *["--without-gossip", "--without-mingle", "--without-heartbeat"],
            ],
            env=environ(SHM_METRICS_SEGMENT=segment_name, BROKER=valkey, C_FORCE_ROOT="1"),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    yield client
    process.terminate()
    try:
        process.wait(PATIENCE_SECONDS)
    finally:
        process.kill()
        process.wait()
        client.close()


def test_tasks_are_events_out_of_the_box(worker, make_backend):
    done = [worker.send_task("work", (turn,)) for turn in range(30)]
    failed = [worker.send_task("fail") for _ in range(5)]
    again = worker.send_task("again")
    ignored = worker.send_task("ignore")
    assert [result.get(PATIENCE_SECONDS, interval=0.02) for result in done] == list(range(30))
    for result in failed:
        with pytest.raises(ValueError, match="as told"):
            result.get(PATIENCE_SECONDS, interval=0.02)
    assert again.get(PATIENCE_SECONDS, interval=0.02) == "second"
    ignored.get(PATIENCE_SECONDS, interval=0.02)

    backend = make_backend()
    # The result is there before the signal that follows it.
    until(lambda: 'task_cancelled_total{handler="ignore",status="ignored"}' in backend.all_metrics(), "all is counted")
    until(lambda: value(backend, "task_completed_total", handler="again", status="success") == 1, "all is counted")
    until(lambda: value(backend, "task_completed_total", handler="work", status="success") == 30, "all is counted")
    until(lambda: value(backend, "task_failed_total", handler="fail", status="error") == 5, "all is counted")
    counters = {key: each["value"] for key, each in backend.all_metrics().items() if each["type"] == "counter"}
    assert counters == {
        'task_started_total{handler="work"}': 30.0,
        'task_started_total{handler="fail"}': 5.0,
        'task_started_total{handler="again"}': 2.0,
        'task_started_total{handler="ignore"}': 1.0,
        'task_completed_total{handler="work",status="success"}': 30.0,
        'task_completed_total{handler="again",status="success"}': 1.0,
        'task_failed_total{handler="fail",status="error"}': 5.0,
        'task_cancelled_total{handler="ignore",status="ignored"}': 1.0,
    }
    assert backend.histogram("task_duration_seconds", handler="work", status="success").count == 30.0
    assert backend.histogram("task_duration_seconds", handler="fail", status="error").count == 5.0
    assert 0 < backend.histogram("task_duration_seconds", handler="work", status="success").sum < 30


@pytest.mark.parametrize("worker", ["prefork"], indirect=True)
def test_a_task_whose_child_is_killed_failed_and_a_revoked_one_is_cancelled(worker, make_backend):
    killed = worker.send_task("die")
    with pytest.raises(Exception, match="SIGKILL"):
        killed.get(PATIENCE_SECONDS, interval=0.02)
    late = worker.send_task("work", (1,), expires=-1)
    with pytest.raises(Exception, match="expired"):
        late.get(PATIENCE_SECONDS, interval=0.02)
    backend = make_backend()
    until(lambda: value(backend, "task_failed_total", handler="die", status="error") == 1, "the failure is counted")
    until(lambda: value(backend, "task_cancelled_total", handler="work", status="revoked") == 1, "so is the other")
    assert value(backend, "task_started_total", handler="die") == 1
    assert value(backend, "task_started_total", handler="work") is None
    assert 'task_duration_seconds{handler="die",status="error"}' not in backend.all_metrics()


def value(backend, name, **labels):
    return backend.snapshot().value(name.removesuffix("_total"), **labels)
