"""A SIGKILL whose consequences are known exactly."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from pathlib import Path

from demo.load import TIMEOUT_SECONDS
from demo.scrape import Scrape

__all__ = ["Killer"]


class Killer:
    """Kills the worker that is in the middle of answering a request of ours, once `when` requests are done.

    The first line of that answer has come, so the request is counted, and the client knows it: there is nothing to
    guess afterwards. A sync worker answers one request at a time, so no other client's request dies with it.
    """

    def __init__(self, port: int, when: int) -> None:
        self.port = port
        self.when = when
        self.killed: list[int] = []
        self.error: Exception | None = None
        self._thread: threading.Thread | None = None

    def look(self, done: int) -> None:
        if done >= self.when and self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def finish(self) -> None:
        self.look(self.when)
        assert self._thread is not None
        self._thread.join(TIMEOUT_SECONDS)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            self._kill()
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            self.error = error

    def _kill(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        connection.request("GET", "/hold?until=/nowhere")
        response = connection.getresponse()
        pid = int(response.readline())
        in_progress = Scrape(self.port).value("shop_requests_in_progress")
        os.kill(pid, signal.SIGKILL)
        try:
            rest = response.read()
        except (OSError, http.client.HTTPException):
            rest = b""
        connection.close()
        _wait_until_dead(pid)
        if b"done" in rest or in_progress < 1:
            raise RuntimeError(f"worker {pid} was not in the middle of an answer when it was killed")
        self.killed.append(pid)


def _wait_until_dead(pid: int) -> None:
    """A dying process closes its files one by one: its client may know of its death before it has let go of its row.

    A zombie is not enough: the main thread is one while the others (numpy has some) still hold the files. Gunicorn can
    reap it only when the last of them is gone.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
