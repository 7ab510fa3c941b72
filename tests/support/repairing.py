"""Waiting for what a worker counts in private memory to find its place."""

from __future__ import annotations

import time
from typing import Any

__all__ = ["repaired"]


def repaired(writer: Any) -> bool:
    """Repair until nothing waits any more; the worker's own thread may be at it at this very moment."""
    deadline = time.monotonic() + 30
    while not writer.repair():
        assert time.monotonic() < deadline, "it still waits"
    return True
