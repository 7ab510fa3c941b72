"""uWSGI: it forks in C, after the application is loaded or before, and by default tells CPython nothing of it."""

from __future__ import annotations

import ast
import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.load import get, run_clients
from demo.server import Gunicorn
from shm_metrics import MetricsBackend, generate_latest
from tests.support.running import state
from tests.support.waiting import PATIENCE_SECONDS, until
from tests.support.watching import Exporter, environ
from tests.system.jobs.conftest import missing

pytestmark = pytest.mark.slow

PROCESSES = 3
CLIENTS = 4
SPAWNED = re.compile(rb"[Ss]pawned uWSGI worker \d+ \((?:new )?pid: (\d+)")
SHARED_IMPORT = "from shm_metrics.integrations import uwsgi as metrics\nmetrics.setup()\n"


class Uwsgi(Gunicorn):
    """uWSGI in gunicorn's place, on a port of its own choice. options: on top of the usual ones."""

    options: tuple[str, ...] = ()

    def command(self, listening: int, app: str, conf: Path) -> list[str]:
        return [
            *[str(conf), "--http-socket", "127.0.0.1:0", "--master", "--processes", str(PROCESSES), "--die-on-term"],
            *[
                "--reload-mercy",
                "1",
                "--worker-reload-mercy",
                "1",
                "--need-app",
                "--disable-logging",
                "--module",
                app,
                *self.options,
            ],
        ]

    def wait_for_port(self) -> None:
        def told() -> bool:
            found = re.search(r"bound to TCP address 127.0.0.1:(\d+)", self.log.read_text(errors="replace"))
            self.port = int(found[1]) if found else 0
            return found is not None

        until(told, "uWSGI listens")

    def booted(self) -> list[int]:
        return [int(pid) for pid in SPAWNED.findall(self.log.read_bytes())]

    def ask(self, page: str) -> bytes:
        status, body = get(self.port, page)
        assert status == 200, body
        return body

    def pages(self) -> dict[int, str]:
        """pid -> what the worker says of the jobs, of at least two."""
        seen: dict[int, str] = {}

        def two() -> bool:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
            connection.request("GET", "/metrics", headers={"Connection": "close"})
            response = connection.getresponse()
            lines = response.read().decode().splitlines()
            connection.close()
            seen[int(response.headers["X-Pid"])] = "\n".join(line for line in lines if line.startswith("job"))
            return len(seen) > 1

        until(two, "two different workers answer")
        return seen

    def kill_all_workers(self) -> None:
        """SIGKILL, while the master stands still, so that no new one comes up in between."""
        self.signal(signal.SIGSTOP)
        until(lambda: state(self.pid) == "T", "the master is stopped")
        workers = self.workers()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        until(lambda: all(state(pid) in "ZX" for pid in workers), "all workers are dead")
        self.signal(signal.SIGCONT)

    def close(self) -> None:
        # A SIGTERM that comes before the master waits for one is lost.
        for _ in range(10):
            if self.process.poll() is None:
                self.process.terminate()
                try:
                    self.process.wait(1)
                except subprocess.TimeoutExpired:
                    continue
        super().close()


@pytest.fixture
def uwsgi(segment_name: str, tmp_path: Path) -> Iterator[Callable[..., Uwsgi]]:
    """uwsgi(*options) -> Uwsgi; ended after the test."""
    program = Path(sys.executable).with_name("uwsgi")
    if not program.exists():
        missing("uWSGI")
    running: list[Uwsgi] = []

    def start(*options: str) -> Uwsgi:
        kind = type("Uwsgi", (Uwsgi,), {"options": options})
        env = environ()
        env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])
        server = kind("tests.system.jobs.uwsgi_app:app", segment_name, tmp_path, conf=program, environ=env)
        running.append(server)
        server.wait_for_port()
        return server

    yield start
    for server in running:
        server.kill()


MODES = {
    "preloaded": (),
    "loaded by each worker": ("--lazy-apps",),
    "CPython is told of everything": ("--py-call-uwsgi-fork-hooks",),
}
if sys.version_info < (3, 13):  # from there on, uWSGI 2.0.31 with this option answers no request of any application
    MODES["CPython is told"] = ("--py-call-osafterfork",)


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_its_workers_are_counted_exactly_though_some_are_killed(uwsgi, exporter: Exporter, options):
    server = uwsgi(*options)

    def one_dies() -> None:
        with pytest.raises((OSError, http.client.HTTPException)):
            get(server.port, "/die")

    waiting = [one_dies]

    def halfway(done: int) -> None:
        if waiting and done >= 100:
            waiting.pop()()

    assert run_clients(server.port, CLIENTS, 200, ["/work"], progress=halfway).answered.total() == 200
    assert not waiting
    assert exporter.jobs() == (201, 201, 201, 0)
    os.kill(next(iter(server.pages())), signal.SIGKILL)
    assert run_clients(server.port, CLIENTS, 100, ["/work"]).answered.total() == 100
    until(lambda: len(server.booted()) == PROCESSES + 2, "two others are in the place of those killed")
    assert exporter.jobs() == (301, 301, 301, 0)
    pages = server.pages()
    assert len(set(pages.values())) == 1
    assert {"jobs_total", "jobs_in_our_own_total", "job_seconds_count"} <= set(
        re.findall(r"^\w+", pages.popitem()[1], re.MULTILINE)
    )
    assert exporter.rows() == PROCESSES + ("--lazy-apps" not in options)
    server.close()
    assert exporter.jobs() == (301, 301, 301, 0)
    assert exporter.one_file()


def test_a_hook_that_the_application_assigns_later_is_called_too(uwsgi):
    server = uwsgi()
    told = ast.literal_eval(server.ask("/told").decode())
    assert len(told) == 1
    until(lambda: told[0] in server.booted(), "the master says that it forked the worker that was told")


@pytest.mark.parametrize("lazy", [False, True], ids=["preloaded", "loaded by each worker"])
def test_all_workers_may_die_at_once_under_a_living_master(uwsgi, segment_name, tmp_path, lazy):
    (tmp_path / "metrics_conf.py").write_text(SHARED_IMPORT)
    server = uwsgi(*(["--lazy-apps", "--shared-import", "metrics_conf"] if lazy else []))
    run_clients(server.port, CLIENTS, 30, ["/work"])
    backend = MetricsBackend(segment_name, read_only=True, per_worker=True)
    before = backend.instance_id
    server.kill_all_workers()
    run_clients(server.port, CLIENTS, 30, ["/work"])
    assert backend.instance_id == before
    assert backend.snapshot().family("jobs").values.sum() == 60
    if lazy:
        wanted = {f"uwsgi worker {number}" for number in range(1, PROCESSES + 1)}

        def roles() -> set[str]:
            return set(re.findall(r'shm_metrics_worker_threads\{.*role="(.*?)"', generate_latest(backend).decode()))

        until(lambda: roles() == wanted, "all workers have loaded the application")
    backend.close()
