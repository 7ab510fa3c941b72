"""How a backend takes part in a cluster."""

from __future__ import annotations

import math
from dataclasses import dataclass

from shm_metrics.errors import InvalidMetricError

__all__ = ["SyncConfig"]


@dataclass(frozen=True, slots=True)
class SyncConfig:
    """All times are seconds.

    namespace: one for each cluster, the same on all of its hosts.
    interval: between two publishes.
    lease_ttl: how long after its death, or after losing the cache, a leader's place is taken.
    stale_after: an instance that was not published for so long counts as stale: its live gauges count no more.
    retention: one that was not published for so long is folded into the retired totals.
    return_within: one that comes back so long after it was folded is still counted exactly; later it is forgotten, and
        goes on from what its own host remembers to have sent (publish_journal.py).
    timeout: of any single request to the cache.
    export_port, export_addr: where each segment's leader serves its host and the cluster; None: nowhere.
    """

    namespace: str = "shm_metrics"
    interval: float = 15.0
    lease_ttl: float = 15.0
    stale_after: float = 60.0
    retention: float = 600.0
    return_within: float = 7 * 86_400.0
    timeout: float = 2.0
    export_port: int | None = None
    export_addr: str = "127.0.0.1"

    def __post_init__(self) -> None:
        for name in ("interval", "lease_ttl", "stale_after", "retention", "return_within", "timeout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise InvalidMetricError(f"{name}={value!r}: give seconds, more than 0")
        if not isinstance(self.namespace, str) or not self.namespace:
            raise InvalidMetricError(f"namespace={self.namespace!r}: give text, the same on all hosts of the cluster")
        port = self.export_port
        if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 65_536):
            raise InvalidMetricError(f"export_port={port!r}: give a port, 0 for any that is free, or None")
        if self.retention < 2 * self.interval:
            raise InvalidMetricError(
                f"retention={self.retention}: with interval={self.interval} an instance that lives would be taken for "
                "gone; give at least twice the interval"
            )
