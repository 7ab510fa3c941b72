"""Segments and processes that a test leaves no trace of."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shm_metrics import MetricsBackend
from tests.support.processes import Child


@pytest.fixture
def path() -> Iterator[str]:
    """Where a segment may be made: a file in shared memory, under a name that nobody else has."""
    told = f"/dev/shm/shm_metrics-test-{os.getpid()}-{uuid.uuid4().hex}"
    yield told
    Path(told).unlink(missing_ok=True)


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a segment that nobody else has; names that begin with it are the test's own too."""
    told = f"test-{os.getpid()}-{uuid.uuid4().hex}"
    yield told
    for left in Path("/dev/shm").glob(f"shm_metrics-{os.geteuid()}-{told}*"):
        left.unlink(missing_ok=True)


@pytest.fixture
def attach(path: str) -> Iterator[Callable[..., MetricsBackend]]:
    """Make backends, on `path` unless told otherwise; closed after the test."""
    made: list[MetricsBackend] = []

    def make(*args: Any, **options: Any) -> MetricsBackend:
        if not args:
            options.setdefault("path", path)
        backend = MetricsBackend(*args, **{"rows": 16, "slots": 4096, "process_metrics": False, **options})
        made.append(backend)
        return backend

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def fork() -> Iterator[Callable[..., Child]]:
    """fork(work, *args) -> Child; whoever is still alive after the test is killed."""
    made: list[Child] = []

    def make(work: Callable[..., Any], *args: Any) -> Child:
        child = Child(work, args)
        made.append(child)
        return child

    yield make
    for child in made:
        child.kill()
