"""README.md's examples run as a newcomer types them in, but on the test's segment, port and cache."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from demo.load import get
from demo.server import Gunicorn
from shm_metrics import MetricsBackend
from tests.support.cache_servers import RedisServer, free_port
from tests.support.running import ROOT
from tests.support.waiting import PATIENCE_SECONDS, until
from tests.system.jobs.conftest import required

pytestmark = pytest.mark.slow

BLOCKS = re.findall(r"^```python\n((?s:.*?))^```", (ROOT / "README.md").read_text(), re.MULTILINE)
DECLARED, BY_NAME, DROP_IN, HOOKS, APPLICATION, MULTIPROCESSING, EVENTS, CLUSTER = BLOCKS
SAYS = "\nfrom shm_metrics import get_backend\nprint(*get_backend().all_metrics())\n"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            DECLARED + SAYS,
            'http_requests_total{method="GET",path="/orders"} http_request_seconds{path="/orders"} '
            "http_requests_in_progress\n",
        ),
        (BY_NAME + "print(backend.counter('orders_total', shop='berlin').value)", "1.0\n"),
        (DROP_IN + "from prometheus_client import Counter\nCounter('x', '').inc()" + SAYS, "x_total\n"),
        (EVENTS + SAYS, 'task_completed_total{status="success"} task_duration_seconds{status="success"}\n'),
    ],
    ids=["declared", "by name", "drop-in", "events"],
)
def test_an_example_does_what_is_said_of_it(python, segment_name, code, told):
    required("celery")
    said = python(code.replace('"shop"', repr(segment_name)), SHM_METRICS_SEGMENT=segment_name)
    assert re.sub(r"python_\S+ ", "", said) == told


def test_children_of_multiprocessing_count_in_one_segment(segment_name, tmp_path):
    assert "9464" in MULTIPROCESSING
    (tmp_path / "example.py").write_text(MULTIPROCESSING.replace("9464", "0") + "    print(JOBS.value)\n")
    done = subprocess.run(
        [sys.executable, tmp_path / "example.py"],
        env={**os.environ, "SHM_METRICS_SEGMENT": segment_name, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "1000.0\n"), done.stderr


def start(conf: str, segment: str, directory: Path) -> Gunicorn:
    (directory / "gunicorn.conf.py").write_text("workers = 2\ncontrol_socket_disable = True\n" + conf)
    (directory / "app.py").write_text(APPLICATION)
    path = os.pathsep.join([str(directory), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return Gunicorn("app:app", segment, directory, conf=directory / "gunicorn.conf.py", environ={"PYTHONPATH": path})


def test_the_two_files_for_gunicorn_are_enough(segment_name, tmp_path):
    server = start(HOOKS.replace('"shop"', repr(segment_name)), segment_name, tmp_path)
    try:
        for _ in range(20):
            assert get(server.port, "/") == (200, b"hello\n")
        assert b'\nhttp_requests_total{method="GET"} 20.0\n' in get(server.port, "/metrics")[1]
        backend = MetricsBackend(segment_name, read_only=True, per_worker=True)
        assert b"gunicorn worker" in backend.export_as("text")
        backend.close()
    finally:
        server.close()


def test_a_host_of_a_cluster_is_three_lines(segment_name, tmp_path):
    (tmp_path / "cache").mkdir()
    cache, port = RedisServer("valkey", tmp_path / "cache"), free_port()
    conf = CLUSTER
    for told, meant in {"redis://cache.internal/0": cache.url, "9464": str(port), '"shop"': repr(segment_name)}.items():
        assert told in conf
        conf = conf.replace(told, meant)
    server = start(conf, segment_name, tmp_path)

    def served() -> bool:
        try:
            status, page = get(port, "/cluster/metrics")
        except OSError:
            return False
        return status == 200 and b"\ncluster:shm_metrics_instances 1.0\n" in page

    try:
        until(served, "the leader serves the cluster")
    finally:
        server.close()
        cache.stop()
