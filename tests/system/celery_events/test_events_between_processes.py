"""Events from four processes at once: totals are exact, gauges right, zeros shown."""

from __future__ import annotations

import os
import subprocess
import sys

from shm_metrics import EventRule, MetricsBackend
from shm_metrics.events import counts

PROCESSES = 4
TURNS = 500

CODE = """
import sys
from shm_metrics import EventRule, MetricsBackend
from shm_metrics.events import counts

backend = MetricsBackend()
print("ready", flush=True)
sys.stdin.readline()
for turn in range(int(sys.argv[1])):
    taken = [
        backend.handle_event("task.completed", {"duration": 2.5, "status": "success"}),
        backend.handle_event("task.failed", {"duration": 1.2, "status": "error"}),
        backend.handle_event("step.completed", {"duration": 0, "status": "success", "handler_class": "Mailer"}),
        backend.handle_event("workflow.iteration", {"active_task_count": 0, "iteration_duration": 0.5}),
        backend.handle_event("system.health", {"healthy_task_count": 7, "failed_task_count": 0}),
    ]
    assert taken == [True] * 5
print("done", flush=True)
"""


def test_events_from_four_processes_at_once_are_exact(segment_name, make_backend):
    backend: MetricsBackend = make_backend()
    environment = {
        **os.environ,
        "SHM_METRICS_SEGMENT": segment_name,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, str(TURNS)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * PROCESSES
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    assert [worker.communicate(timeout=60)[0] for worker in workers] == ["done\n"] * PROCESSES
    assert [worker.returncode for worker in workers] == [0] * PROCESSES

    many = PROCESSES * TURNS
    found = backend.all_metrics()
    counters = {key: each["value"] for key, each in found.items() if each["type"] == "counter"}
    assert counters == {
        'task_completed_total{status="success"}': many,
        'task_failed_total{status="error"}': many,
        'step_completed_total{handler="Mailer",status="success"}': many,
    }
    gauges = {key: each["value"] for key, each in found.items() if each["type"] == "gauge"}
    assert gauges == {"workflow_active_tasks": 0.0, "system_healthy_tasks": 7.0, "system_failed_tasks": 0.0}
    histograms = {key: (each["count"], each["sum"]) for key, each in found.items() if each["type"] == "histogram"}
    assert histograms.pop('task_duration_seconds{status="error"}')[0] == many
    assert histograms == {
        'task_duration_seconds{status="success"}': (many, many * 2.5),
        'step_duration_seconds{handler="Mailer",status="success"}': (many, 0.0),
        "workflow_iteration_duration_seconds": (many, many * 0.5),
    }
    assert abs(found['task_duration_seconds{status="error"}']["sum"] - many * 1.2) < 1e-6
    text = b"".join(bytes(f"{name}\n", "ascii") for name in found)
    assert b"system_failed_tasks" in text, "a zero is shown"


def test_a_forked_child_counts_events_in_a_row_of_its_own(make_backend):
    backend = make_backend()
    backend.handle_event("task.started", {"status": "a"})
    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            done = all(backend.handle_event("task.started", {"status": "a"}) for _ in range(1_000))
            os._exit(0 if done else 1)
        children.append(pid)
    for _ in range(1_000):
        backend.handle_event("task.started", {"status": "a"})
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 3
    assert backend.counter("task_started_total", status="a").value == 4_001.0


def test_a_child_forked_in_the_middle_of_reading_the_catalog_makes_a_reader_of_its_own(make_backend):
    backend = make_backend()
    backend.event_rules.add(EventRule("user.seen", [counts("seen_total")], ["user"], max_label_values=2))
    backend.handle_event("user.seen", {"user": "a"})
    assert backend._events._cardinality._reading.acquire(False), "as if another thread were reading"
    pid = os.fork()
    if pid == 0:
        done = all(backend.handle_event("user.seen", {"user": user}) for user in "abc")
        os._exit(0 if done else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    seen = {
        each["labels"]["user"]: each["value"] for each in backend.all_metrics().values() if each["name"] == "seen_total"
    }
    assert seen == {"a": 2.0, "b": 1.0, "other": 1.0}
