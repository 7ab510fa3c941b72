"""PushSchedule: the background task of each worker that pushes periodically while the worker leads its segment.

One worker of a segment leads and pushes. With a cache the leader is the holder of the segment's lease
(cluster/agent.py). Without one it is the holder of the segment's leader lock, which the kernel releases when its
holder dies. Leadership is checked before each push: a worker that no longer leads does not push.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from shm_metrics.errors import ExportError, InvalidMetricError
from shm_metrics.exporters.options import check_seconds
from shm_metrics.exporters.registry import Exporter
from shm_metrics.metrics.default_backend import current_backend
from shm_metrics.runtime.periodic_task import LONGEST_WAIT, PeriodicTask
from shm_metrics.segment.shared_lock import LockHandle

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

__all__ = ["PushSchedule"]

log = logging.getLogger("shm_metrics")

_STOP_SECONDS = 15.0


class PushSchedule(PeriodicTask):
    """Pushes the metrics of a backend periodically, from the leading worker of its segment.

    backend: not read-only, for only a worker can lead. If it is the default backend and configure() replaces it, the
        new default backend is pushed. A closed backend is no longer pushed.
    exporter: see exporter().
    interval: seconds between two pushes.

    Make it in every worker, or before the fork. start() starts the thread; in a child of fork the thread starts by
    itself. It ends when the object is garbage-collected. When the process exits normally, a leader pushes once more.
    Raises InvalidMetricError.
    """

    thread_name = "shm_metrics-push"
    log_name = "push"

    def __init__(
        self,
        backend: MetricsBackend,
        exporter: Exporter,
        interval: float = 15.0,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if backend.read_only:
            raise InvalidMetricError(f"{backend!r}: a schedule needs a worker's backend; or call export() yourself")
        if not callable(getattr(exporter, "export", None)):
            raise InvalidMetricError(f"exporter {exporter!r}: give an object with export(backend)")
        self.interval = check_seconds("interval", interval)
        self.exporter = exporter
        self._backend = backend
        self._follows = backend is current_backend()
        self._now = now
        super().__init__()

    def _begin(self) -> None:
        """Start without leadership: that of a parent stays with the parent."""
        self.pushed = 0
        self._due = self._now()
        self._led = False
        self._partly = False
        self._lock_handle = LockHandle()

    def _load(self) -> None:
        self._backend.collect()

    # -- the thread -----------------------------------------------------------------------------------------------

    def start(self) -> PushSchedule:
        """Start the thread if it is not running; with a cache also the one that contends for the lease."""
        with self._lock:
            self._follow()
            self._backend.start_sync()
        self._start()
        return self

    def stop(self, *, push: bool = False) -> None:
        """End the thread and give up leadership. push: push once more before, if this worker leads. Never raises.

        A push that hangs is waited for at most 15 s; it gives up leadership when it returns.
        """
        if self._end(_STOP_SECONDS):
            try:
                if push:
                    self._work_once_more()
                self._let_go()
            finally:
                self._lock.release()

    def _let_go(self) -> None:
        self._lock_handle.release()

    def _kind(self, error: Exception) -> str:
        """Return the kind of an error: a missing receiver is another kind than a family that it never accepts."""
        return super()._kind(error) + (" in part" if isinstance(error, ExportError) and error.partly else "")

    def _worth_once_more(self) -> bool:
        return self._logged is None or self._partly

    def _work_once_more(self) -> None:
        self._due = self._now()
        self.step()

    # -- a step ---------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        self._led = False
        self._led = self.leads()
        if not self._led:
            # The next leader pushes at once: the time of the last push is unknown.
            self._due = self._now()
        elif self._now() >= self._due:
            try:
                self._push()
            except Exception:
                if not self._backend.closed:  # a backend closed during the push is no error
                    raise

    def _follow(self) -> None:
        """Switch to the current default backend, if the schedule was made for the default one."""
        current = current_backend()
        if not self._follows or current is None or current is self._backend:
            return
        self._lock_handle.release()
        self._backend = current
        self._due = self._now()
        if current.read_only:
            log.warning("shm_metrics: push: %r is the default backend now, and only a worker's can be pushed", current)
        elif self.running:
            current.start_sync()

    def _wait(self) -> float:
        return self._due - self._now() if self._led else LONGEST_WAIT

    def _push(self) -> bytes:
        self._due = self._now() + self.interval
        self._load_once()
        self._partly = False
        try:
            sent = self.exporter.export(self._backend)
        except ExportError as error:
            self._partly = error.partly
            raise
        self.pushed += 1
        self._success()
        return sent

    def leads(self) -> bool:
        """Whether this worker leads now; it becomes the leader if there is none."""
        with self._lock:
            self._follow()
            if self._backend.closed or self._backend.read_only:
                return False
            if self._backend.has_cache:
                return self._backend.sync_agent.leads
            return self._lock_handle.acquire(self._backend.segment.leader)

    def push_now(self) -> bytes:
        """Push now, due or not; return the result of export(). Raise ExportError, also when another worker leads."""
        with self._lock:
            if not self.leads():
                raise ExportError(
                    f"{self._backend.place.path}: another worker leads, and pushes every {self.interval:g} s"
                )
            try:
                return self._push()
            except Exception as error:
                self._failure(error)
                raise
