"""What every worker does again and again in a thread of its own, and one of them for all.

The thread has its owner by a weak reference only, so that it ends when nobody wants the owner any more. Nothing that
fails in it reaches the application: it is counted, and logged once until it goes right again.

Fork. The child has the owner, but not the thread, and whatever lock the thread held stays shut there. So the child's
owner begins anew, with locks of its own, and its thread begins when all else in the child has begun anew. Under gevent
a thread is a greenlet, and the child has that too, in the middle of whatever it did: sent on by two processes it would
arrive twice, so it ends there before anything else happens.

The end of the process. At a normal exit whoever leads does its work once more, if it went right the last time, and
gives the lead back, so that nobody has to wait for it. A step that hangs is waited for only so long.
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
"""Seconds between two steps: a process that was stopped and continued finds out soon, and so does a leader's heir."""
_SHORTEST_WAIT = 0.01
_EXIT_SECONDS = 5.0
"""That a process which ends waits for all of its threads together: for a step that is under way, and the last one."""


class _OfTheParent(BaseException):
    """Thrown into what a child of fork has of its parent's greenlet; no `except Exception` on the way may keep it."""


class PeriodicTask(ABC):
    """failed: steps that did, in this process; last_error: what the last of them said.

    A subclass sets its own fields first, and then calls this __init__.
    """

    thread_name: ClassVar[str]
    log_name: ClassVar[str]
    """What the log says has failed."""

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

    # -- what a subclass says ---------------------------------------------------------------------------------------

    @abstractmethod
    def _begin(self) -> None:
        """Set what a child of fork begins anew. The parent's, as it was at the fork, is still there."""

    @abstractmethod
    def _step(self) -> None:
        """Do what is due. May raise anything."""

    @abstractmethod
    def _wait(self) -> float:
        """Seconds until something may be due."""

    @abstractmethod
    def _load(self) -> None:
        """Import what the work needs, also what is imported deep within it only when it is done."""

    def _worth_once_more(self) -> bool:
        """Whether it is to be tried at the end of the process, which waits for it."""
        return self._logged is None

    @abstractmethod
    def _work_once_more(self) -> None:
        """With the lock, at the end: do it whether due or not, if this worker leads. Never raises."""

    @abstractmethod
    def _let_go(self) -> None:
        """With the lock, when all is over: what others wait for. Never raises."""

    # -- a step -----------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Do what is due; seconds until something may be due again. Never raises."""
        with self._lock:
            try:
                self._step()
            except Exception as error:  # the thread must go on, and the application must not notice
                self._failure(error)
            return max(_SHORTEST_WAIT, min(LONGEST_WAIT, self._wait()))

    def _load_once(self) -> None:
        """Before the first work, and not before: a worker that never leads needs no numpy."""
        if not self._loaded:
            with forks.block_forks():
                import encodings.idna  # noqa: F401  # which the first look-up of an address loads

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
        """Errors of one kind are logged once."""
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
        """Begin the thread, if it does not run."""
        _register_at_exit()
        with self._lock:
            if not self.running:
                self._stop = threading.Event()
                arguments = (weakref.ref(self), self._stop, os.getpid())
                self._thread = threading.Thread(target=_run, args=arguments, name=self.thread_name, daemon=True)
                self._thread.start()

    def _end(self, seconds: float) -> bool:
        """End the thread, waiting for it. True: it is over, and the lock is the caller's to release.

        False: a step hangs. The thread lets go of everything when it comes back.
        """
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)
        return self._lock.acquire(timeout=self._patience(seconds))

    def _patience(self, seconds: float) -> float:
        """For how long a step is waited for that somebody else than the thread does."""
        return seconds

    @abstractmethod
    def stop(self) -> None:
        """End the thread, and lead no more. Never raises."""

    def _finish(self, *, let_go: bool = False) -> None:
        """The thread's last act."""
        with self._lock:
            if self._once_more:
                self._work_once_more()
            elif let_go:
                self._let_go()

    # -- fork -------------------------------------------------------------------------------------------------------

    def after_fork(self) -> bool:
        """In a child: begin anew. Whether the thread ran in the parent, and is to begin here, too."""
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
    # pid: also a greenlet that had not begun at the fork is not the child's.
    while os.getpid() == pid:
        owner = reference()
        if owner is None:
            return
        owner._greenlet = _current_greenlet()
        wait = owner.step()
        if stop.is_set():  # in the middle of the step: whoever stopped us may not have waited
            owner._finish(let_go=True)
            return
        del owner  # it may go while nobody else has it
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
        greenlet.parent = _current_greenlet()  # where it goes on when that one has ended
        greenlet.throw(_OfTheParent)
    except Exception:
        pass  # of a real thread, and so it is not here


_living: weakref.WeakSet[PeriodicTask] = weakref.WeakSet()
_to_start: list[PeriodicTask] = []


@forks.in_child(forks.TASKS)
def _after_fork_in_child() -> None:
    _to_start.clear()
    for each in list(_living):
        try:
            if each.after_fork():
                _to_start.append(each)
        except Exception:  # the others have their turn
            log.exception("shm_metrics: %s: after fork", each.log_name)


@forks.in_child(forks.THREADS)
def _start_in_child() -> None:
    while _to_start:
        _to_start.pop()._start()


@cache
def _register_at_exit() -> None:
    """At the first start, when there is a segment: what is registered later is called earlier at exit, on open ones."""
    atexit.register(_at_exit)


def _at_exit() -> None:
    threads = {each: thread for each in list(_living) if (thread := each._thread) is not None and thread.is_alive()}
    for each in threads:
        each._once_more = each._worth_once_more()
        each._stop.set()
    deadline = time.monotonic() + _EXIT_SECONDS
    for thread in threads.values():
        thread.join(max(0.0, deadline - time.monotonic()))
    # When all of them are done, for a push may need the lead that the sync agent has. What hangs goes with the process.
    for each, thread in threads.items():
        if not thread.is_alive():
            each.stop()
