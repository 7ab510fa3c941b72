"""One look at /metrics."""

from __future__ import annotations

import time

from demo.load import get

__all__ = ["Scrape"]


class Scrape:
    """text: the exposition; seconds: how long it took over HTTP."""

    def __init__(self, port: int) -> None:
        began = time.perf_counter()
        status, body = get(port, "/metrics")
        self.seconds = time.perf_counter() - began
        self.text = body.decode()
        if status != 200:
            raise RuntimeError(f"/metrics answered {status}: {self.text}")
        self._values = {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in self.text.splitlines() if line[:1] not in ("#", ""))
        }

    def value(self, series: str) -> float:
        """The number behind `name{label="value"}`; 0 when there is no such series."""
        return self._values.get(series, 0.0)

    def about(self, beginning: str) -> str:
        """The samples whose names begin so."""
        return "\n".join(line for line in self.text.splitlines() if line.startswith(beginning))
