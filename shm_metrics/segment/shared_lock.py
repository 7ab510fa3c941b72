"""A lock byte of a segment that several holders in one process share.

The kernel grants the byte to an open file description, which all holders in one process share. The first holder that
acquires the lock takes the byte, and the last one that releases the lock gives the byte back. A child of fork and a
reopened segment have another description, and so another SharedLock, which has no holders yet.
"""

from __future__ import annotations

import os
import threading

from shm_metrics.segment.file_locks import FileLocks

__all__ = ["LockHandle", "SharedLock"]


class SharedLock:
    """A lock byte of one open file description. locks: the locks of that description."""

    def __init__(self, locks: FileLocks, byte: int) -> None:
        self._locks = locks
        self._byte = byte
        self._holders: set[object] = set()
        self._lock = threading.RLock()  # re-entrant: a LockHandle may be collected on top of any line below
        self._pid = os.getpid()

    def acquire(self, holder: object) -> bool:
        """Return whether this process has the byte; it keeps the byte until `holder` releases the lock.

        Each call asks the kernel: it grants the byte again to the description that has it, and refuses one that was
        closed meanwhile. Raise OSError when the description is read-only and so may not lock.
        """
        if self._pid != os.getpid():
            return False  # a child whose fork hook has not run yet: the kernel would grant it the parent's byte
        with self._lock:
            # First: if another holder releases on top of the next line, it must not be the last one.
            self._holders.add(holder)
            acquired = False
            try:
                acquired = self._locks.try_exclusive(self._byte)
            finally:
                if not acquired:
                    self._holders.discard(holder)
            return acquired

    def held_by(self, holder: object) -> bool:
        """Return whether `holder` acquired the lock and neither a fork nor a close has taken it away since."""
        return holder in self._holders and self._pid == os.getpid() and self._locks.holds(self._byte)

    def release(self, holder: object) -> None:
        """Drop `holder`, and give the byte back if it was the last one."""
        if self._pid != os.getpid():
            return  # the parent's lock, which the parent may hold at this moment
        with self._lock:
            if holder not in self._holders:
                return
            self._holders.discard(holder)
            if not self._holders:
                self._locks.release(self._byte)


class LockHandle:
    """One holder of at most one SharedLock; releases it when collected, so that no forgotten holder keeps the byte."""

    def __init__(self) -> None:
        self._acquired: SharedLock | None = None
        self._holder = object()

    def acquire(self, lock: SharedLock) -> bool:
        """Release any other lock and acquire `lock`. Return whether this handle holds it now."""
        if lock is not self._acquired:
            self.release()
        self._acquired = lock
        return lock.acquire(self._holder)

    def holds(self, lock: SharedLock) -> bool:
        """Return whether this handle acquired `lock` and has not lost it since."""
        return lock is self._acquired and lock.held_by(self._holder)

    def release(self) -> None:
        lock, self._acquired = self._acquired, None
        if lock is not None:
            lock.release(self._holder)

    def __del__(self) -> None:
        self.release()
