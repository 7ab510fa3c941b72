"""Servers that spawn their workers, each of which loads the application: nothing to set up."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.load import get, run_clients
from demo.server import Gunicorn
from tests.support.running import state
from tests.support.waiting import until
from tests.support.watching import Exporter, environ
from tests.system.jobs.conftest import required

pytestmark = pytest.mark.slow

WORKERS = 3
CLIENTS = 4


class Hypercorn(Gunicorn):
    """hypercorn in gunicorn's place."""

    name = "hypercorn"

    def command(self, listening: int, app: str, conf: Path) -> list[str]:
        return [sys.executable, "-m", self.name, "--workers", str(WORKERS), "--bind", f"fd://{listening}", app]

    def kill(self) -> None:
        """In good order after all: multiprocessing's semaphores have names, which somebody has to remove."""
        self.close()

    def answers(self) -> bool:
        try:
            return get(self.port, "/metrics")[0] == 200
        except OSError:
            return False

    def pids(self) -> set[int]:
        """The workers, when all of them have answered. asked: how many answers that took."""
        seen: set[int] = set()
        self.asked = 0

        def all_answer() -> bool:
            try:
                seen.add(int(get(self.port, "/")[1]))
                self.asked += 1
            except OSError:
                pass  # it waited for a worker that is dead, which did not come to count it
            return len(seen) == WORKERS

        until(all_answer, "all workers answer")
        return seen


class Granian(Hypercorn):
    """granian in gunicorn's place. It opens its own socket, on a port that is ours for as long as we are there."""

    name = "granian"
    interface = "asgi"

    def command(self, listening: int, app: str, conf: Path) -> list[str]:
        self.held = socket.socket()
        self.held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.held.bind(("127.0.0.1", 0))
        self.port = self.held.getsockname()[1]
        return [
            *[sys.executable, "-m", self.name, "--interface", self.interface, "--workers", str(WORKERS)],
            *[
                "--respawn-failed-workers",
                "--workers-kill-timeout",
                "2",
                "--host",
                "127.0.0.1",
                "--port",
                str(self.port),
                app,
            ],
        ]

    def close(self) -> None:
        super().close()
        self.held.close()


class GranianWsgi(Granian):
    interface = "wsgi"


@pytest.fixture
def start(segment_name: str, tmp_path: Path) -> Iterator[Callable[..., Hypercorn]]:
    """start(kind, app) -> the server; ended after the test."""
    running: list[Hypercorn] = []

    def start(kind: type[Hypercorn], app: str) -> Hypercorn:
        required(kind.name)
        running.append(kind(f"tests.system.jobs.{app}:app", segment_name, tmp_path, environ=environ()))
        until(running[-1].answers, "it answers")
        return running[-1]

    yield start
    for server in running:
        server.kill()


@pytest.mark.parametrize(
    ("kind", "app"),
    [(Hypercorn, "asgi_app"), (Granian, "asgi_app"), (GranianWsgi, "wsgi_app")],
    ids=["hypercorn", "granian", "granian wsgi"],
)
def test_their_workers_are_counted_exactly(start, exporter: Exporter, kind, app):
    server = start(kind, app)
    workers = server.pids()
    done = server.asked
    assert run_clients(server.port, CLIENTS, 200, ["/"]).answered.total() == 200
    done += 200
    assert exporter.jobs() == (done, done, done, 0)
    if kind is not Hypercorn:  # which ends when a worker is killed
        killed = workers.pop()
        os.kill(killed, signal.SIGKILL)
        until(lambda: state(killed) in "ZX", "it is dead")
        assert len(server.pids() - workers) == 1
        done += server.asked
        assert exporter.jobs() == (done, done, done, 0)
    page = get(server.port, "/metrics")[1].decode()
    assert sum(float(value) for value in re.findall(r"^jobs_total\{.*\} (\S+)", page, re.MULTILINE)) == done
    server.close()
    assert exporter.jobs() == (done, done, done, 0)
    assert exporter.rows() == WORKERS
    assert exporter.one_file()
