"""A place for a segment, of which a test leaves no trace."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def path() -> Iterator[str]:
    """Where a file may be made in shared memory, under a name that is in no other use."""
    name = f"/dev/shm/shm_metrics-test-{os.getpid()}-{uuid.uuid4().hex}"
    yield name
    Path(name).unlink(missing_ok=True)
