"""PeriodicTask: work that every worker repeats in a thread of its own, such as a push or a sync.

The thread has only a weak reference to its task, and ends when the task is dropped. Failures never reach the
application: they are counted, and logged once until the task succeeds again.

Fork: the child has the task but not its thread, and a lock that the thread held is never released there. So the child
resets the task, with new locks, and starts its thread after all other hooks have run. Under gevent a thread is a
greenlet, which the child has too, in the middle of its work: two processes would send the same data twice, so the child
ends its copy before anything else runs.

Exit: at a normal exit the leader does its work once more, if it succeeded the last time, and gives the lead back, so
that no other process waits for it. A step that hangs delays the exit for a limited time.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from abc import ABC, abstractmethod
from functools import cache
from typing import Any, ClassVar

from shm_metrics.errors import MetricsError
from shm_metrics.runtime import forks

__all__ = ["LONGEST_WAIT", "PeriodicTask"]

log = logging.getLogger("shm_metrics")

LONGEST_WAIT = 1.0
"""Seconds between two steps: a process that was stopped and continued finds out soon, and so does the next leader."""
_SHORTEST_WAIT = 0.01
_EXIT_SECONDS = 5.0
"""Seconds that an exit waits for all threads together: for a step under way, and the last one."""


class _OfTheParent(BaseException):
    """Ends a child's copy of its parent's greenlet; a BaseException, so that no `except Exception` catches it."""


class PeriodicTask(ABC):
    """Work that is repeated in a thread. A subclass sets its own fields, and then calls this __init__.

    failed: how many steps failed in this process. last_error: the message of the last failure.
    """

    thread_name: ClassVar[str]
    log_name: ClassVar[str]
    """The name of the task in log messages."""

    def __init__(self) -> None:
        self._reset()
        _living.add(self)

    def _reset(self) -> None:
        self.failed = 0
        self.last_error: str | None = None
        self._logged: str | None = None
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._greenlet: Any = None
        self._once_more = False
        self._loaded = False
        self._begin()

    # -- what a subclass defines ------------------------------------------------------------------------------------

    @abstractmethod
    def _begin(self) -> None:
        """Set the fields that a child of fork resets; they still hold the parent's values at the fork."""

    @abstractmethod
    def _step(self) -> None:
        """Do what is due. May raise anything."""

    @abstractmethod
    def _wait(self) -> float:
        """Return the seconds until something may be due."""

    @abstractmethod
    def _load(self) -> None:
        """Import what the work needs, including what it would import late."""

    def _worth_once_more(self) -> bool:
        """Return whether to run once more at exit, which waits for that."""
        return self._logged is None

    @abstractmethod
    def _work_once_more(self) -> None:
        """Do the work, due or not, if this worker leads. Called with the lock, at exit. Never raise."""

    @abstractmethod
    def _let_go(self) -> None:
        """Give up what other processes wait for. Called with the lock, at the end. Never raise."""

    # -- a step -----------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Do what is due. Return the seconds until something may be due again. Never raise."""
        with self._lock:
            try:
                self._step()
            except Exception as error:  # the thread must go on, and the application must not fail
                self._failure(error)
            return max(_SHORTEST_WAIT, min(LONGEST_WAIT, self._wait()))

    def _load_once(self) -> None:
        """Load what the work needs, at the first work: a worker that never leads needs no numpy."""
        if not self._loaded:
            with forks.block_forks():
                import encodings.idna  # noqa: F401  # the first resolution of an address loads it

                self._load()
            self._loaded = True

    def _failure(self, error: Exception) -> None:
        self.failed += 1
        self.last_error = f"{type(error).__name__}: {error}"
        kind = self._kind(error)
        if self._logged != kind:
            self._logged = kind
            level = logging.WARNING if isinstance(error, MetricsError) else logging.ERROR
            message = "shm_metrics: %s: %s; it is tried again, and counting goes on"
            log.log(level, message, self.log_name, self.last_error)

    def _kind(self, error: Exception) -> str:
        """Return the kind of an error; each kind is logged once."""
        return type(error).__name__

    def _success(self) -> None:
        if self._logged is not None:
            self._logged = None
            log.warning("shm_metrics: %s: it works again", self.log_name)

    # -- the thread -------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> None:
        """Start the thread, if it does not run."""
        _register_at_exit()
        with self._lock:
            if not self.running:
                self._stop = threading.Event()
                arguments = (weakref.ref(self), self._stop, os.getpid())
                self._thread = threading.Thread(target=_run, args=arguments, name=self.thread_name, daemon=True)
                self._thread.start()

    def _end(self, seconds: float) -> bool:
        """End the thread, and wait for it. Return True with the lock held, which the caller releases.

        Return False if a step hangs; the thread then gives everything up when the step returns.
        """
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)
        return self._lock.acquire(timeout=self._patience(seconds))

    def _patience(self, seconds: float) -> float:
        """Return how long to wait for a step that another caller than the thread runs."""
        return seconds

    @abstractmethod
    def stop(self) -> None:
        """End the thread, and give up the lead. Never raise."""

    def _finish(self, *, let_go: bool = False) -> None:
        """Finish, as the last thing the thread does."""
        with self._lock:
            if self._once_more:
                self._work_once_more()
            elif let_go:
                self._let_go()

    # -- fork -------------------------------------------------------------------------------------------------------

    def after_fork(self) -> bool:
        """Reset the task in a child. Return whether the thread ran in the parent, and is to start here too."""
        ran = self._thread is not None
        _end_copy(self._greenlet)
        self._reset()
        return ran


def _run(reference: weakref.ref[PeriodicTask], stop: threading.Event, pid: int) -> None:
    try:
        _go_on(reference, stop, pid)
    except _OfTheParent:
        pass


def _go_on(reference: weakref.ref[PeriodicTask], stop: threading.Event, pid: int) -> None:
    # pid: the child must not run a greenlet that had not started at the fork.
    while os.getpid() == pid:
        owner = reference()
        if owner is None:
            return
        owner._greenlet = _current_greenlet()
        wait = owner.step()
        if stop.is_set():  # during the step: the caller of stop() may not have waited
            owner._finish(let_go=True)
            return
        del owner  # without a reference here the owner can be collected
        if stop.wait(wait):
            break
    owner = reference()
    if owner is not None and os.getpid() == pid:
        owner._finish()


def _current_greenlet() -> Any:
    greenlet = sys.modules.get("greenlet")
    return None if greenlet is None else greenlet.getcurrent()


def _end_copy(greenlet: Any) -> None:
    """In a child of fork: end the parent's greenlet, if that is what its thread was."""
    if greenlet is None or greenlet.dead or greenlet is _current_greenlet():
        return
    try:
        greenlet.parent = _current_greenlet()  # where execution continues after it ends
        greenlet.throw(_OfTheParent)
    except Exception:
        pass  # it belongs to a real thread, which the child does not have


_living: weakref.WeakSet[PeriodicTask] = weakref.WeakSet()
_to_start: list[PeriodicTask] = []


@forks.in_child(forks.TASKS)
def _after_fork_in_child() -> None:
    _to_start.clear()
    for each in list(_living):
        try:
            if each.after_fork():
                _to_start.append(each)
        except Exception:  # the other tasks must be reset too
            log.exception("shm_metrics: %s: after fork", each.log_name)


@forks.in_child(forks.THREADS)
def _start_in_child() -> None:
    while _to_start:
        _to_start.pop()._start()


@cache
def _register_at_exit() -> None:
    """Register at the first start, after the segment is open: exit handlers run in reverse order, on open segments."""
    atexit.register(_at_exit)


def _at_exit() -> None:
    threads = {each: thread for each in list(_living) if (thread := each._thread) is not None and thread.is_alive()}
    for each in threads:
        each._once_more = each._worth_once_more()
        each._stop.set()
    deadline = time.monotonic() + _EXIT_SECONDS
    for thread in threads.values():
        thread.join(max(0.0, deadline - time.monotonic()))
    # After all threads ended: a push may need the lead that the sync agent has. A hanging thread ends with the process.
    for each, thread in threads.items():
        if not thread.is_alive():
            each.stop()
