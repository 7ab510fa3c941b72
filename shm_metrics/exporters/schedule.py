"""PushSchedule: a thread in each worker that pushes now and then, if this worker leads its segment.

Lives here: who pushes and when, what happens when it fails, fork. May not: know what is pushed, or where.

All workers of a segment ask; one leads, and that one pushes. With a cache the leader is whoever holds the segment's
lease (sync/agent.py); without, whoever has the segment's leader byte, which the kernel drops when its holder dies.
It is asked again before each push: a worker that no longer leads does not push. Nothing that fails here reaches the
application: it is counted, and logged once until it goes right again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable

from shm_metrics import forks
from shm_metrics import layout as L
from shm_metrics.backend import MetricsBackend  # first: in a child the writer has its own locks before we ask for one
from shm_metrics.errors import ExportError, InvalidMetricError, MetricsError
from shm_metrics.exporters.http_request import check_seconds
from shm_metrics.exporters.registry import Exporter

__all__ = ["PushSchedule"]

log = logging.getLogger("shm_metrics")

_LONGEST_WAIT = 1.0
"""Seconds between two looks at who leads: so soon after a leader's death the next one pushes."""
_STOP_SECONDS = 15.0


class PushSchedule:
    """backend: whose metrics; it must be able to count, for only a worker can lead. exporter: see exporter().

    interval: seconds between two pushes. Make it in every worker, or before the fork; start() begins its thread, and
    in a child of fork the thread begins by itself. Raises InvalidMetricError.
    """

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
        self.pushed = 0
        self.failed = 0
        self.last_error: str | None = None
        self._backend = backend
        self._now = now
        self._told: str | None = None
        self._begin()
        _schedules.add(self)

    def _begin(self) -> None:
        """What a child of fork begins anew."""
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._due = self._now()
        self._has_byte = False

    # -- the thread -----------------------------------------------------------------------------------------------

    def start(self) -> PushSchedule:
        """Begin the thread, if it does not run; with a cache also the one that asks for the lease."""
        self._backend.start_sync()
        self._start()
        return self

    def _start(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._stop = threading.Event()
                arguments = (weakref.ref(self), self._stop)
                self._thread = threading.Thread(target=_run, args=arguments, name="shm_metrics-push", daemon=True)
                self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def stop(self, *, push: bool = False) -> None:
        """End the thread, and lead no more. push: once more before, if this worker leads. Never raises."""
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_STOP_SECONDS)
        if not self._lock.acquire(timeout=_STOP_SECONDS):
            return  # a push that hangs for longer than its time-outs: the byte goes with the process
        try:
            if push:
                self._due = self._now()
                self.step()
            self._give_up()
        finally:
            self._lock.release()

    # -- a step ---------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Push, if it is due and this worker leads; seconds until something may be due again. Never raises."""
        with self._lock:
            try:
                if not self.leads():
                    # The next one to lead pushes at once: nobody knows when the last one did.
                    self._due = self._now()
                    return _LONGEST_WAIT
                if self._now() >= self._due:
                    self._due = self._now() + self.interval
                    self.exporter.export(self._backend)
                    self._success()
            except Exception as error:  # the thread must go on, and the application must not notice
                self._failure(error)
            return max(0.01, min(_LONGEST_WAIT, self._due - self._now()))

    def leads(self) -> bool:
        """Whether this worker is the one that pushes, at this moment; it becomes that if nobody else is."""
        with self._lock:
            if self._backend.closed:
                return False
            if self._backend.has_cache:
                return self._backend.sync_agent.leads
            # Asked anew each time: on one description it is granted again, and after a fork or a close it is not.
            self._has_byte = self._backend._segment.locks.try_exclusive(L.LOCK_LEADER)
            return self._has_byte

    def push_now(self) -> bytes:
        """Push now, due or not; what export() gave. Raises ExportError, also when another worker leads."""
        with self._lock:
            if not self.leads():
                raise ExportError(
                    f"{self._backend.place.path}: another worker leads, and pushes every {self.interval:g} s"
                )
            self._due = self._now() + self.interval
            try:
                sent = self.exporter.export(self._backend)
            except Exception as error:
                self._failure(error)
                raise
            self._success()
            return sent

    def _give_up(self) -> None:
        if not self._has_byte:
            return
        self._has_byte = False
        others = [each for each in list(_schedules) if each is not self and each._has_byte]
        if any(each._backend is self._backend for each in others) or self._backend.leads_by_byte:
            return  # the byte is theirs, too
        try:
            self._backend._segment.locks.release(L.LOCK_LEADER)
        except (OSError, ValueError, MetricsError):
            pass  # closed, and the byte went with it

    def _failure(self, error: Exception) -> None:
        self.failed += 1
        self.last_error = f"{type(error).__name__}: {error}"
        if self._told != type(error).__name__:
            self._told = type(error).__name__
            level = logging.WARNING if isinstance(error, MetricsError) else logging.ERROR
            log.log(level, "shm_metrics: push: %s; it is tried again, and counting goes on", self.last_error)

    def _success(self) -> None:
        self.pushed += 1
        if self._told is not None:
            self._told = None
            log.warning("shm_metrics: push: it works again")

    # -- fork -----------------------------------------------------------------------------------------------------

    def after_fork(self) -> None:
        """The parent's leadership is the parent's; its thread is not here."""
        ran = self._thread is not None
        self.pushed = self.failed = 0
        self._told = self.last_error = None
        self._begin()
        if ran:
            self._start()  # the agent's thread begins by itself


_schedules: weakref.WeakSet[PushSchedule] = weakref.WeakSet()


@forks.in_child
def _after_fork_in_child() -> None:
    for schedule in list(_schedules):
        schedule.after_fork()


def _run(reference: weakref.ref[PushSchedule], stop: threading.Event) -> None:
    pid = os.getpid()
    while os.getpid() == pid:
        schedule = reference()
        if schedule is None:
            return
        wait = schedule.step()
        del schedule  # it may go while nobody else has it
        if stop.wait(wait):
            return
