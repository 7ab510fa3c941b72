"""A real gunicorn with the hook of docs/exporters.md: whoever pushes is killed, and every count arrives once."""

from __future__ import annotations

import json
import os
import signal

import pytest

from demo.load import get
from demo.server import Gunicorn
from shm_metrics.segment.file_locks import FileLocks
from tests.support.running import ROOT, Service, state
from tests.support.waiting import until
from tests.unit.exporters.test_documentation import GUNICORN

pytestmark = pytest.mark.slow

HEIR_SECONDS = 10.0  # one or two, and what a busy machine takes to begin a worker
TOLD = """
# -- the test's: what its application may ask
_documented = post_worker_init

def post_worker_init(worker):
    _documented(worker)
    from tests.system.pushes import pushing_app
    pushing_app.schedule = worker.pushing
"""


class Pushing(Service):
    """directory: with the segment, and what is kept beside it."""

    def __init__(self, server, directory, witness):
        super().__init__(server, str(directory / "segment"), witness)
        self.directory = directory

    def pushing(self):
        """(pid, whether it leads, how often it pushed) of whichever worker answers."""
        status, body = get(self.server.port, "/pushing")
        assert status == 200
        pid, leads, pushed, error = json.loads(body)
        assert error is None
        return pid, leads, pushed

    def leader(self):
        """The pid of the worker that leads and has pushed, once there is one within the seconds that are promised."""
        found = []

        def look():
            pid, leads, pushed = self.pushing()
            if leads and pushed:
                found.append(pid)
            return found

        until(look, "a worker pushes", HEIR_SECONDS)
        return found[0]

    def kill_leader(self):
        self.killed = self.leader()
        self.kill(self.killed)

    def kill(self, pid):
        """SIGKILL, but not within a push: what that had not sent is lost, as the documentation says."""
        (lock,) = self.directory.glob(".segment.statsd-*.lock")
        locks = FileLocks(os.open(lock, os.O_RDWR))
        while True:
            os.kill(pid, signal.SIGSTOP)
            if not locks.held_by_other(0):
                break
            os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGKILL)
        locks.close()


@pytest.fixture
def start(tmp_path, udp):
    """start(hooks, **settings) -> Pushing; ended after the test."""
    running = []

    def begin(hooks="", variables=None, **settings):
        witness = tmp_path / "witness"
        witness.mkdir()
        told = {"workers": 2, "graceful_timeout": 5, "control_socket_disable": True, **settings}
        conf = tmp_path / "gunicorn.conf.py"
        conf.write_text("".join(f"{name} = {value!r}\n" for name, value in told.items()) + hooks)
        environ = {
            **(variables or {}),
            "WITNESS": str(witness),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        server = Gunicorn(
            "tests.system.pushes.pushing_app:app", str(tmp_path / "segment"), tmp_path, conf=conf, environ=environ
        )
        running.append(server)
        return Pushing(server, tmp_path, witness)

    yield begin
    for server in running:
        server.kill()


def documented(tmp_path, udp):
    """The hook as docs/exporters.md has it, on the test's segment and receiver, and hurried up."""
    text = GUNICORN
    for told, meant in {
        '"shop"': repr(str(tmp_path / "segment")),
        "port=8125": f"port={udp.port}",
        "interval=10": "interval=0.05",
    }.items():
        assert text.count(told) == 1, f"{told} is not in the documentation's example"
        text = text.replace(told, meant)
    return text + TOLD


def total(udp):
    udp.receive()
    return sum(value for key, value in udp.counters.items() if key.startswith("requests_total#"))


SETTINGS = {
    "sync": {},
    "sync, preloaded": {"preload_app": True},
    "gthread": {"worker_class": "gthread", "threads": 4},
    "gevent": {"worker_class": "gevent"},
    "gevent, preloaded": {"worker_class": "gevent", "preload_app": True},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_pushing_worker_is_killed_under_load_and_every_count_arrives_once(start, udp, tmp_path, settings):
    service = start(documented(tmp_path, udp), **settings)
    service.load(400, halfway=service.kill_leader)
    first = service.killed
    service.kill_leader()
    assert len({first, service.killed, service.leader()}) == 3
    udp.until(lambda: total(udp) >= service.marks())
    assert total(udp) == service.marks()
    service.load(40)
    service.server.close()  # in good order: what was counted last is pushed at the end
    assert total(udp) == service.marks() > 400
    assert min(udp.deltas) > 0


def test_where_the_application_is_loaded_before_the_fork_the_master_pushes_and_a_worker_when_it_is_killed(start, udp):
    """The master forks while its thread makes the first push."""
    service = start(variables={"PUSH_PORT": str(udp.port)}, preload_app=True)
    service.load(200)
    udp.until(lambda: total(udp) >= service.marks())
    assert total(udp) == service.marks() >= 200
    assert not any(leads for _, leads, _ in (service.pushing() for _ in range(10)))
    workers = service.server.workers()
    service.kill(service.server.pid)
    service.server.process.wait()

    def ended():
        service.load(1)  # the answer is the last of a worker that has no master
        return all(state(pid) in "XZ" for pid in workers)

    until(ended, "the workers end")
    assert total(udp) == service.marks() > 200
    assert min(udp.deltas) > 0
