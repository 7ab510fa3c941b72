"""A lock byte of a segment, and who in this process wants it.

The kernel gives the byte to an open file description, which all holders in one process share: the first one to want it
takes it, the last one to let go gives it back. A child of fork has another description, as has a segment that is
reopened, and so another HeldByte, which nobody holds.
"""

from __future__ import annotations

import os
import threading

from shm_metrics.segment.file_locks import FileLocks

__all__ = ["HeldByte", "Hold"]


class HeldByte:
    """locks: of the description that has `byte`, or will."""

    def __init__(self, locks: FileLocks, byte: int) -> None:
        self._locks = locks
        self._byte = byte
        self._holders: set[object] = set()
        self._lock = threading.RLock()  # re-entrant: a Hold may be collected on top of any line below
        self._pid = os.getpid()

    def take(self, holder: object) -> bool:
        """Whether this process has the byte, and keeps it until `holder` gives it up.

        It is asked for each time: to the description that has it the kernel gives it again, and to one that was closed
        meanwhile it does not. Raises OSError when the description may not lock, being read-only.
        """
        if self._pid != os.getpid():
            return False  # a child that has not begun anew yet: the kernel would give it the parent's
        with self._lock:
            # First: should another holder go on top of the next line, it must not be the last one.
            self._holders.add(holder)
            taken = False
            try:
                taken = self._locks.try_exclusive(self._byte)
            finally:
                if not taken:
                    self._holders.discard(holder)
            return taken

    def has(self, holder: object) -> bool:
        """Whether `holder` took it and it was not lost since, by a fork or a close."""
        return holder in self._holders and self._pid == os.getpid() and self._locks.holds(self._byte)

    def give_up(self, holder: object) -> None:
        """Give it back, unless another holder wants it."""
        if self._pid != os.getpid():
            return  # it is the parent's, and so may be the lock
        with self._lock:
            if holder not in self._holders:
                return
            self._holders.discard(holder)
            if not self._holders:
                self._locks.release(self._byte)


class Hold:
    """One holder's part in it: given up when this object goes, as the byte must not stay with whoever was forgotten."""

    def __init__(self) -> None:
        self._byte: HeldByte | None = None
        self._holder = object()

    def take(self, byte: HeldByte) -> bool:
        """Have `byte`, and no other one; whether it is ours then."""
        if byte is not self._byte:
            self.give_up()
        self._byte = byte
        return byte.take(self._holder)

    def has(self, byte: HeldByte) -> bool:
        """Whether take(byte) gave it, and nothing took it away since."""
        return byte is self._byte and byte.has(self._holder)

    def give_up(self) -> None:
        byte, self._byte = self._byte, None
        if byte is not None:
            byte.give_up(self._holder)

    def __del__(self) -> None:
        self.give_up()
