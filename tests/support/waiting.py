"""Waiting for what another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["PATIENCE_SECONDS", "until"]

PATIENCE_SECONDS = 60.0
"""A guard against hangs only: nothing that is tested takes so long."""


def until(condition: Callable[[], object], what: str = "it is so", seconds: float = PATIENCE_SECONDS) -> float:
    """Look until it is so; the seconds it took. A failure when it does not come true within `seconds`."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - began
