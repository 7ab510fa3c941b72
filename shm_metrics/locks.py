"""The kernel's byte-range locks, one set per open file description.

Lives here: taking, dropping and probing single bytes. May not: know what a byte means (see layout.LOCK_*).

Open-file-description locks (fcntl(2), F_OFD_SETLK) are dropped when the last reference to the *description* goes:
a file descriptor inherited by fork is such a reference, and so is a mapping made from it. Hence two rules, kept by
segment.py: the description that holds locks is never mapped, and a forked child closes it before anything else.

Under gevent: whoever waits here holds a thread's lock too (the allocator's). `sleep` is taken at import, as the locks
are, so that both are gevent's or neither is. Looked up at each call, it might yield to a greenlet that then waits for
the real lock of the one that yielded, and stops the only thread there is.
"""

from __future__ import annotations

import fcntl
import os
import struct
from functools import lru_cache
from time import monotonic, sleep  # see "Under gevent"

__all__ = ["FileLocks"]

_FLOCK = struct.Struct("@hhqqi4x")  # type, whence, start, len, pid: struct flock on 64-bit Linux


@lru_cache(maxsize=64)
def _request(kind: int, byte: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)


class FileLocks:
    """Locks of one open file description, which this object owns and closes; closed, it takes and sees nothing."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def try_exclusive(self, byte: int) -> bool:
        try:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _request(fcntl.F_WRLCK, byte))
        except (BlockingIOError, PermissionError, ValueError):  # EAGAIN or EACCES: somebody has it; or we are closed
            return False
        return True

    def try_shared(self, byte: int) -> bool:
        try:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _request(fcntl.F_RDLCK, byte))
        except (BlockingIOError, PermissionError, ValueError):
            return False
        return True

    def release(self, byte: int) -> None:
        if self.fd < 0:
            return  # closed, and with that all locks are gone
        fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _request(fcntl.F_UNLCK, byte))

    def wait_exclusive(self, byte: int, seconds: float) -> bool:
        """Take the byte, waiting at most `seconds`. Polls: a blocking wait could not be given an end."""
        if self.try_exclusive(byte):
            return True
        if self.fd < 0:
            return False
        pause, deadline = 20e-6, monotonic() + seconds
        while monotonic() < deadline:
            sleep(pause)
            if self.try_exclusive(byte):
                return True
            pause = min(pause * 1.5, 2e-3)
        return False

    def held_by_other(self, byte: int, count: int = 1) -> bool:
        """Whether another description holds a lock on any of `count` bytes from `byte`."""
        if self.fd < 0:
            return False
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, count, 0)
        answer = fcntl.fcntl(self.fd, fcntl.F_OFD_GETLK, asked)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        # A backend that was forgotten, and not closed, must not hold its row for as long as the process lives.
        self.close()
