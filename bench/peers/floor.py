"""The floor: what it costs to call a C method at all. Nothing is counted.

The method is `"".expandtabs()`. CPython calls it as it calls `inc(amount=1)` of a compiled cell: a method of a C type
that takes one optional argument, which is left out (METH_FASTCALL | METH_KEYWORDS). On the empty string it reads
one length and returns the string itself. `[].clear()`, which cannot take an argument (METH_NOARGS), is cheaper by
about a third; a method that can take an amount cannot get there: it is measured too, but no target is set against it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Peer"]


class Peer:
    """Serves the floor's own statements only."""

    Counter: Callable[..., Any] = str
    Gauge: Callable[..., Any] = str
    Histogram: Callable[..., Any] = str

    def render(self) -> bytes:
        """Nothing was counted."""
        return b""

    def close(self) -> None:
        """Nothing is held."""
