"""promrs: prometheus_client's names over Rust; it knows one process only, and needs Python 3.12."""

from __future__ import annotations

import promrs

__all__ = ["Peer"]


class Peer:
    """One process."""

    Counter = promrs.Counter
    Gauge = promrs.Gauge
    Histogram = promrs.Histogram

    def render(self) -> bytes:
        """The text of the default registry."""
        text = promrs.generate_latest()
        return text if isinstance(text, bytes) else text.encode()

    def close(self) -> None:
        """Nothing is shared."""
