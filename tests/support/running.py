"""A running server, as a test sees it from outside."""

from __future__ import annotations

import http.client
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from demo.load import Tally, run_clients
from demo.server import Gunicorn
from shm_metrics import MetricsBackend, Snapshot
from tests.support.waiting import PATIENCE_SECONDS, until

ROOT = Path(__file__).parents[2]
CLIENTS = 4
HOOKS = "from shm_metrics.integrations import gunicorn as metrics\nmetrics.setup(globals())\n"
PATHS = ("/a", "/b", "/c")
APPLICATION_LINES = re.compile(r"^(requests|duration_seconds|one|in_progress)", re.MULTILINE)


class Uvicorn(Gunicorn):
    """uvicorn in gunicorn's place; its workers are spawned, not forked."""

    def command(self, listening: int, app: str, conf: Path) -> list[str]:
        return [sys.executable, "-m", "uvicorn", "--fd", str(listening), app]

    def kill(self) -> None:
        """In good order after all: multiprocessing's semaphores have names, which somebody has to remove."""
        self.close()


class BindingGunicorn(Gunicorn):
    """gunicorn that opens its own socket: one that was handed to it, it cannot hand on to a new binary (USR2)."""

    def command(self, listening: int, app: str, conf: Path) -> list[str]:
        return [
            each if not each.startswith("fd://") else "127.0.0.1:0" for each in super().command(listening, app, conf)
        ]

    def wait_for_port(self) -> None:
        def told() -> bool:
            found = re.search(r"Listening at: http://127.0.0.1:(\d+)", self.log.read_text())
            self.port = int(found[1]) if found else 0
            return found is not None

        until(told, "gunicorn listens")


def state(pid: int) -> str:
    """The process state letter of /proc; X when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


class Service:
    """server: real, and with several workers. segment_name: where they count. witness: what they count, elsewhere."""

    def __init__(self, server: Gunicorn, segment_name: str, witness: Path) -> None:
        self.server = server
        self.segment_name = segment_name
        self.witness = witness

    def load(self, requests: int, halfway: Callable[[], None] | None = None) -> Tally:
        """Send that many requests from several threads; halfway: done once, while the load goes on."""
        waiting = [halfway] if halfway else []

        def progress(done: int) -> None:
            if waiting and done >= requests // 2:
                waiting.pop()()

        tally = run_clients(self.server.port, CLIENTS, requests, PATHS, progress=progress)
        assert not waiting, "the load was over before anything could happen halfway"
        return tally

    def pid(self) -> int:
        """The pid of whichever worker answers."""
        return self.scrape()[0]

    def kill_one(self) -> None:
        """SIGKILL to a worker at work."""
        os.kill(self.pid(), signal.SIGKILL)

    def scrape(self) -> tuple[int, str]:
        """(pid of the worker that answered, what it says of the application)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE_SECONDS)
        connection.request("GET", "/metrics", headers={"Connection": "close"})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        assert response.status == 200, text
        lines = [line for line in text.splitlines() if APPLICATION_LINES.match(line)]
        return int(response.headers["X-Pid"]), "\n".join(lines)

    def scrape_from_several(self) -> set[str]:
        """What at least two different workers say of the application at rest: one element if all say the same."""
        seen: dict[int, str] = {}

        def two() -> bool:
            pid, text = self.scrape()
            seen[pid] = text
            return len(seen) > 1

        until(two, "two different workers answer")
        return set(seen.values())

    def backend(self, **options: bool) -> MetricsBackend:
        return MetricsBackend(self.segment_name, read_only=True, **options)

    def snapshot(self) -> Snapshot:
        backend = self.backend()
        try:
            return backend.snapshot()
        finally:
            backend.close()

    def counted(self) -> int:
        """What the counter says, over all paths."""
        found = self.snapshot().family("requests")
        return 0 if found is None else int(found.values.sum())

    def observed(self) -> int:
        """How many observations the histogram has."""
        return int(self.snapshot().value("duration_seconds") or 0)

    def marks(self) -> int:
        """How many requests the witness saw."""
        numbers = [path.read_bytes() for path in self.witness.iterdir()]
        return sum(int.from_bytes(number, "little") for number in numbers)
