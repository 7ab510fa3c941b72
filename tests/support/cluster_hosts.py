"""Hosts of a cluster in one process: a segment each, an agent each, and clocks that a test moves."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shm_metrics import MetricsBackend
from shm_metrics.cluster.agent import SyncAgent
from shm_metrics.cluster.config import SyncConfig

_numbers = itertools.count()


class Time:
    """A monotonic clock that runs by itself, and jumps when told to."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead

    def jump(self, seconds: float) -> None:
        self.ahead += seconds


class Hosts:
    """host(): one more host, in the cluster of `cache` and `namespace`."""

    def __init__(self, cache: Callable[[], Any], namespace: str, directory: Path) -> None:
        self.cache = cache
        self.namespace = namespace
        self.time = Time()
        self._directory = directory
        self._made: list[Host] = []

    def host(self, path: Path | None = None, **options: Any) -> Host:
        where = path or self._directory / f"host-{next(_numbers)}"
        told = {"namespace": self.namespace, "interval": 30.0, "lease_ttl": 30.0, "retention": 60.0, **options}
        config = SyncConfig(**told)
        self._made.append(Host(where, self.cache(), config, self.time))
        return self._made[-1]

    def close(self) -> None:
        for host in self._made:
            host.end()


class Host:
    def __init__(self, path: Path, cache: Any, config: SyncConfig, now: Time) -> None:
        self.path = path
        self.backend = MetricsBackend(path=path, rows=4, slots=2048, process_metrics=False)
        self.agent = SyncAgent(self.backend, cache, config, now=now)

    def sync(self) -> dict[str, Any]:
        """One round, which must go right."""
        report = self.agent.sync_now()
        assert report["success"], report
        return report

    def step(self) -> None:
        """What its thread would do now, all of it being due."""
        self.agent._publish_due = self.agent._look_due = 0.0
        self.agent.step()

    def total(self, name: str, **labels: str) -> float | None:
        """What the cluster shows."""
        return self.agent.view().value(name, **labels)

    def die(self) -> None:
        """Without a word to the cache, as by SIGKILL."""
        for lease in (self.agent.member.segment_lease, self.agent.member.cluster_lease):
            lease.close()
        self.agent.store.close()
        self.backend.close()

    def end(self) -> None:
        self.agent.stop()
        self.backend.close()
