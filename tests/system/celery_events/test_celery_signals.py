"""Celery's tasks as events, in a real worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from shm_metrics.integrations import celery_signals
from tests.support.waiting import PATIENCE_SECONDS, until
from tests.support.watching import environ
from tests.system.jobs.conftest import exporter, required, valkey  # noqa: F401  # fixtures

pytestmark = pytest.mark.slow


@pytest.fixture(params=["prefork", "threads", "solo", "gevent"])
def worker(request, segment_name, valkey, tmp_path, exporter):  # noqa: F811
    """The client of a real worker of two."""
    celery = required("celery")
    client = celery.Celery(broker=valkey, backend=valkey)
    with open(tmp_path / "celery.log", "wb") as log:
        process = subprocess.Popen(
            [
                *[sys.executable, "-m", "celery", "--app", "tests.system.celery_events.celery_app", "worker"],
                *["--pool", request.param, "--concurrency", "2", "--loglevel", "INFO"],
                *["--without-gossip", "--without-mingle", "--without-heartbeat"],
            ],
            env=environ(SHM_METRICS_SEGMENT=segment_name, BROKER=valkey, C_FORCE_ROOT="1"),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    yield client
    # At once, with its children: a warm shutdown takes seconds, and no test looks at what it leaves.
    os.killpg(process.pid, signal.SIGKILL)
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
    assert counters(backend) == {
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


@pytest.mark.parametrize("worker", ["prefork", "gevent"], indirect=True)
def test_a_task_that_is_ended_from_outside_has_one_end(worker, make_backend, tmp_path, request):
    """Its process may tell an end, and so may the worker, which for a hard time limit does it twice."""
    backend = make_backend()
    prefork = request.node.callspec.params["worker"] == "prefork"
    hang, wait = worker.send_task("hang"), worker.send_task("wait")
    until(lambda: value(backend, "task_started_total", handler="wait") == 1, "the task has begun")
    # gevent's greenlet for commands has a connection of its own, and may not listen yet when tasks run: what is told
    # before is lost.
    until(lambda: worker.control.ping(timeout=0.5, limit=1), "the worker listens to commands")
    worker.control.revoke(wait.id, terminate=True)
    with pytest.raises(Exception, match="TimeLimitExceeded"):
        hang.get(PATIENCE_SECONDS, interval=0.02)
    with pytest.raises(Exception, match="terminated"):
        wait.get(PATIENCE_SECONDS, interval=0.02)
    expected = {
        'task_started_total{handler="hang"}': 1.0,
        'task_failed_total{handler="hang",status="error"}': 1.0,
        'task_started_total{handler="wait"}': 1.0,
        'task_cancelled_total{handler="wait",status="revoked"}': 1.0,
        'task_started_total{handler="leave"}': 1.0,
        'task_failed_total{handler="leave",status="error"}': 1.0,
    }
    worker.send_task("leave")
    if prefork:
        overdue = worker.send_task("overdue")
        with pytest.raises(Exception, match="SoftTimeLimitExceeded"):
            overdue.get(PATIENCE_SECONDS, interval=0.02)
        assert worker.send_task("die_once", (str(tmp_path / "died"),)).get(PATIENCE_SECONDS, interval=0.02) == "second"
        expected |= {
            'task_started_total{handler="overdue"}': 1.0,
            'task_failed_total{handler="overdue",status="error"}': 1.0,
            'task_started_total{handler="die_once"}': 2.0,
            'task_completed_total{handler="die_once",status="success"}': 1.0,
        }
    until(lambda: counters(backend).keys() >= expected.keys(), "all is counted")
    # A second end of a task would be there before the tasks that come after it.
    assert worker.send_task("work", (1,)).get(PATIENCE_SECONDS, interval=0.02) == 1
    until(lambda: value(backend, "task_completed_total", handler="work", status="success") == 1, "all is counted")
    found = counters(backend)
    assert {key: number for key, number in found.items() if '"work"' not in key} == expected


@pytest.mark.parametrize("worker", ["prefork", "threads"], indirect=True)
def test_the_parts_of_a_chord_and_a_task_within_a_task_are_tasks(worker, make_backend):
    from celery import chord

    parts = [worker.signature("work", (turn,)) for turn in range(5)]
    assert chord(parts, app=worker)(worker.signature("total")).get(PATIENCE_SECONDS, interval=0.02) == 11
    backend = make_backend()
    until(lambda: value(backend, "task_completed_total", handler="total", status="success") == 1, "all is counted")
    # The last part's result sets the chord's end off before the child that made it counts.
    until(lambda: value(backend, "task_completed_total", handler="work", status="success") == 6, "all is counted")
    assert value(backend, "task_started_total", handler="work") == 6
    assert backend.histogram("task_duration_seconds", handler="total", status="success").count == 1


def test_a_task_that_is_run_where_it_is_called_and_raises_there_failed(make_backend):
    celery = required("celery")
    backend = make_backend()
    disconnect = celery_signals.connect(to=backend)
    app = celery.Celery("eager", set_as_current=False)
    app.conf.update(task_always_eager=True, task_eager_propagates=True)

    @app.task(name="fail")
    def fail():
        raise ValueError("as told")

    with pytest.raises(ValueError, match="as told"):
        fail.delay()
    disconnect()
    assert counters(backend) == {
        'task_started_total{handler="fail"}': 1.0,
        'task_failed_total{handler="fail",status="error"}': 1.0,
    }
    assert backend.histogram("task_duration_seconds", handler="fail", status="error").count == 1


def counters(backend):
    return {key: each["value"] for key, each in backend.all_metrics().items() if each["type"] == "counter"}


def value(backend, name, **labels):
    return backend.snapshot().value(name.removesuffix("_total"), **labels)
