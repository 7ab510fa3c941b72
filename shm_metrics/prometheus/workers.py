"""The worker that counts: this process, or one of several in it that prometheus_client's process_identifier names.

`MultiProcessValue(process_identifier=uwsgi.worker_id)` names workers by other ids than the pid, and a test may name two
of them in one process. Each name is then a worker with its own row in the segment.
"""

from __future__ import annotations

from collections.abc import Callable

from shm_metrics.backend import MetricsBackend

__all__ = ["IdentifiedWorker", "Worker", "close_identified", "mark_dead"]

_identified: dict[object, MetricsBackend] = {}


class Worker:
    """This process. backend: where its metrics count."""

    identified = False

    def __init__(self, backend: MetricsBackend) -> None:
        self.backend = backend

    @property
    def living(self) -> MetricsBackend | None:
        """The backend, if the worker has begun and was not ended."""
        return None if self.backend.writer.closed else self.backend


class IdentifiedWorker:
    """The worker that `identify()` names, which is called at each update."""

    identified = True

    def __init__(self, main: MetricsBackend, identify: Callable[[], object]) -> None:
        self._main = main
        self._identify = identify

    @property
    def backend(self) -> MetricsBackend:
        name = self._identify()
        found = _identified.get(name)
        if found is None:
            pid = name if isinstance(name, int) else None
            found = _identified[name] = self._main.another_worker(pid=pid, role=f"worker {name}")
        return found

    @property
    def living(self) -> MetricsBackend | None:
        """The backend, if the worker has begun and was not ended."""
        return _identified.get(self._identify())


def mark_dead(identifier: object) -> None:
    """End the worker of this name, if it is in this process. The kernel detects the end of other processes."""
    for name in [name for name in _identified if str(name) == str(identifier)]:
        _identified.pop(name).close()


def close_identified() -> None:
    """End them all."""
    for name in list(_identified):
        mark_dead(name)
