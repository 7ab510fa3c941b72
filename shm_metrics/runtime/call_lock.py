"""CallLock: a lock between threads that is free as soon as the call that took it ends, however it ends.

A signal handler may raise at any moment, also between the end of a `with` block and the release of its lock. So this
lock does not depend on the release alone: it names the call (its frame) that holds it, and a call that has ended holds
nothing. `frame.clear()` tells whether a call has ended: CPython refuses it for a frame that still runs in any thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import sleep  # at import, like the locks: see file_locks.py, "Under gevent"
from types import FrameType
from typing import TypeVar

__all__ = ["BusyCallError", "CallLock", "ForkedCallError", "NestedCallError", "ReentrantCallLock"]

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 20e-6, 2e-3


class BusyCallError(Exception):
    """The lock is held, and this lock does not wait."""


class NestedCallError(BusyCallError):
    """The lock is held by a call further down on this very stack: waiting for it would never end."""


class ForkedCallError(Exception):
    """This process was forked on top of the call; the parent continues it, and this process must not."""


class CallLock:
    """A lock held by a call.

    holder: the frame that has it. poisoned: that frame belongs to the parent of this forked process; see renew().
    patient: wait while another thread has it, rather than raise BusyCallError.
    """

    __slots__ = ("holder", "patient", "poisoned")

    def __init__(self, *, patient: bool = True) -> None:
        self.holder: FrameType | None = None
        self.patient = patient
        self.poisoned = False

    def run(self, work: Callable[..., T], *args: object) -> T:
        """Return `work(*args)`, called with the lock held. Raise NestedCallError, an impatient one BusyCallError."""
        # Twice: if a signal handler raises in the inner `finally`, the outer one still releases.
        try:
            try:
                self.acquire(sys._getframe())
                return work(*args)
            finally:
                self.release(sys._getframe())
        finally:
            self.release(sys._getframe())

    def acquire(self, frame: FrameType) -> None:
        """Take the lock for the call of `frame`; wait while another thread has it. Raise what run() raises."""
        pause = _FIRST_PAUSE
        # Between a comparison and the store after it CPython switches no thread and runs no handler.
        while True:
            holder = self.holder
            if holder is None:
                self.holder = frame
                return
            if _is_below(holder, frame):
                raise NestedCallError
            if _has_ended(holder):
                if self.holder is holder:
                    self.holder = None
                    self.poisoned = False
                continue
            if not self.patient:
                raise BusyCallError
            del holder  # a reference to a frame keeps alive all that its call refers to
            sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE)

    def release(self, frame: FrameType) -> None:
        """Release the lock, if this call has it."""
        if self.holder is frame:
            self.poisoned = False
            self.holder = None

    def renew(self) -> None:
        """In a forked child: free the lock, unless its holder is on this thread's own stack.

        Then the fork happened on top of that call (in a signal handler, a __del__), and the child is about to return
        into it. It must not go on: the parent does. The lock stays taken, and `poisoned` tells the call to end.
        """
        holder = self.holder
        if holder is None:
            return
        if _is_below(holder, sys._getframe()):
            self.poisoned = True
        else:
            self.holder = None
            self.poisoned = False


class ReentrantCallLock(CallLock):
    """A CallLock that calls on top of its holder pass."""

    __slots__ = ()

    def run(self, work: Callable[..., T], *args: object) -> T:
        """Return `work(*args)`, called with the lock held, by this call or one below it."""
        holder = self.holder
        if holder is not None and _is_below(holder, sys._getframe()):
            return work(*args)
        return super().run(work, *args)


def _is_below(frame: FrameType, top: FrameType) -> bool:
    """Return whether `frame` is `top` or a caller of it."""
    each: FrameType | None = top
    while each is not None:
        if each is frame:
            return True
        each = each.f_back
    return False


def _has_ended(frame: FrameType) -> bool:
    try:
        frame.clear()
    except RuntimeError:
        return False
    return True
