"""Byte-range locks of the kernel, one set per open file description.

Open-file-description locks (fcntl(2), F_OFD_SETLK) are dropped when the last reference to the *description* goes:
a file descriptor inherited by fork is such a reference, and so is a mapping made from it. Hence two rules, kept by
segment.py: the description that holds locks is mapped by its Pin only, which no child inherits, and a forked child
closes it before anything else.

A descriptor is a number, and other code may close it: daemons, sandboxes and test runners close all numbers that they
find. The number is then free, or leads to a file of the application. So each use verifies it: fstat shows the file that
this object opened, and no other object of this module got the number since. If not, the number is forgotten, never
closed, and another description is opened.

    the number        may lead to another file: it is not locked, not grown, not closed
    the locks         stay: the Pin keeps their description; none of them can be released on its own, so all of
                      them are released with the last exclusive one
    new locks         are taken through the new description

Under gevent: a caller that waits here holds a thread lock too (the allocator's). `sleep` is imported with the module,
as the locks are, so that both are gevent's or neither is. Looked up at each call, it might yield to a greenlet that
then waits for the real lock of the one that yielded, and blocks the only thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import weakref
from collections.abc import Callable, Iterable
from functools import lru_cache
from os import getpid
from threading import RLock
from time import monotonic, sleep  # see "Under gevent"

from shm_metrics.errors import SegmentError
from shm_metrics.runtime import forks
from shm_metrics.runtime.signals import deferred_signals
from shm_metrics.segment.mapping import Pin

__all__ = ["Descriptor", "FileLocks", "ProcessLocks"]

_FLOCK = struct.Struct("@hhqqi4x")  # type, whence, start, len, pid: struct flock on 64-bit Linux
_LAST_BYTE = 1 << 62
_REFUSED = (errno.EAGAIN, errno.EACCES)

_lock = RLock()  # guards the replacement of descriptors, and the record locks of this process

_File = tuple[int, int]  # device, inode


@lru_cache(maxsize=64)
def _request(kind: int, byte: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)


class Descriptor:
    """A descriptor that this object owns, while the number leads to the file that it led to at first."""

    __slots__ = ("_number", "file")

    def __init__(self, number: int) -> None:
        status = os.fstat(number)
        self.file: _File = (status.st_dev, status.st_ino)
        self._number = number
        _owners[number] = self  # if another object had this number, other code has closed it

    def number(self) -> int:
        """Return the number if it is verified as ours; -1 when it is closed or no longer ours."""
        number = self._number
        if number < 0:
            return -1
        if _owners.get(number) is self:
            try:
                status = os.fstat(number)
            except OSError:
                pass
            else:
                if (status.st_dev, status.st_ino) == self.file:
                    return number
        self._forget()
        return -1

    def _forget(self) -> None:
        number, self._number = self._number, -1
        if _owners.get(number) is self:
            del _owners[number]

    def close(self) -> None:
        """Close it, if it is ours; later, if closing it would drop the process' record locks of the file."""
        with deferred_signals():  # no handler between proof and use
            number = self.number()
            if number < 0:
                return
            with _lock:
                records = _records.get(self.file)
                if records is not None and records.users:
                    records.waiting.append(self)
                    return
            self._forget()
            os.close(number)


_owners: dict[int, Descriptor] = {}


class FileLocks:
    """The locks of one open file description, which this object owns. After close() it takes no lock and sees none."""

    __slots__ = ("__weakref__", "_closed", "_descriptor", "_held", "_left", "_pid", "_pin", "_reopen")

    _set_command = fcntl.F_OFD_SETLK
    _get_command = fcntl.F_OFD_GETLK

    def __init__(self, fd: int) -> None:
        self._closed = True  # nothing to close if __init__ fails
        self._pid = getpid()
        self._held: dict[int, bool] = {}  # byte -> whether exclusively
        self._pin: Pin | None = None
        self._left: list[tuple[Pin, set[int]]] = []  # descriptions without a number, and their exclusive locks
        self._reopen: Callable[[], int] | None = None
        self._descriptor = Descriptor(fd)
        self._closed = False

    @property
    def fd(self) -> int:
        """The verified descriptor, reopened if other code closed it; -1 when closed, or if that fails."""
        number = self._descriptor.number()
        return number if number >= 0 or self._closed else self._open_again()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def file(self) -> tuple[int, int]:
        """Device and inode."""
        return self._descriptor.file

    def inherited_fd(self) -> int:
        """Return the descriptor without reopening it: for a child that is about to open a description of its own."""
        return self._descriptor.number()

    def keep(self, reopen: Callable[[], int] | None) -> None:
        """Keep the locks when other code closes the descriptor, and continue with another one, which `reopen` opens.

        reopen: raises OSError or SegmentError on failure. It must not refer to this object.
        The locks belong to the calling process: its parent may have opened the description for it.
        """
        self._pid = getpid()
        self._reopen = reopen
        self._pin_down()

    def _pin_down(self) -> None:
        number = self._descriptor.number()
        if number < 0 or self._pin is not None:
            return
        try:
            self._pin = Pin(number)
        except OSError:
            pass  # no address space for a page: the locks depend on the number

    def _open_again(self) -> int:
        with _lock:
            number = self._descriptor.number()
            if number >= 0 or self._closed:
                return number
            self._leave()
            if self._reopen is None:
                return -1
            try:
                self._descriptor = Descriptor(self._reopen())
            except (OSError, SegmentError):
                return -1
            number = self._descriptor.number()
            for byte, exclusive in list(self._held.items()):
                if not exclusive and not self._set(number, fcntl.F_RDLCK, byte):
                    del self._held[byte]
            self._drop_pins()
            self._pin_down()
            return number

    def _leave(self) -> None:
        """Record which locks the description still has, after its number was lost."""
        pin, self._pin = self._pin, None
        if self._pid != getpid():
            self._held.clear()  # the locks and the pin are the parent's
            return
        lost = {byte for byte, exclusive in self._held.items() if exclusive and not self._left_with(byte)}
        if pin is not None:
            self._left.append((pin, lost))
        else:
            for byte in lost:
                del self._held[byte]

    def _left_with(self, byte: int) -> bool:
        """Return whether a description without a number has the byte locked exclusively."""
        return any(byte in bytes_ for _, bytes_ in self._left)

    def _drop_pins(self) -> None:
        """Drop descriptions without an exclusive lock in use; the new description has the shared locks."""
        kept = []
        for pin, bytes_ in self._left:
            if any(byte in self._held for byte in bytes_):
                kept.append((pin, bytes_))
            else:
                pin.drop()
        self._left = kept

    def _call(self, number: int, command: int, request: bytes) -> bytes | None:
        """Return what fcntl() answers; None when the descriptor is lost and cannot be opened again.

        Code of others may close the number after its proof; and the child of a fork on top of this call has another
        description. A number that is still ours and gives EBADF is open for reading only: that is raised.
        """
        while True:
            try:
                return fcntl.fcntl(number, command, request)
            except OSError as error:
                if error.errno != errno.EBADF or self._descriptor.number() == number:
                    raise
                number = self.fd
                if number < 0:
                    return None

    def _set(self, number: int, kind: int, byte: int) -> bool:
        try:
            return self._call(number, self._set_command, _request(kind, byte)) is not None
        except OSError as error:
            if error.errno in _REFUSED or self._closed:  # closed: by a fork on top of this very call
                return False
            raise

    def _take(self, byte: int, exclusive: bool) -> bool:
        number = self.fd
        if self._left and self._left_with(byte):
            self._held[byte] = exclusive
            return True
        if number < 0 or not self._set(number, fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK, byte):
            return False
        self._held[byte] = exclusive
        return True

    def try_exclusive(self, byte: int) -> bool:
        return self._take(byte, True)

    def try_shared(self, byte: int) -> bool:
        return self._take(byte, False)

    def release(self, byte: int) -> None:
        """Release the byte. If its description has lost its number, the last exclusive lock there releases all."""
        number = self.fd
        self._held.pop(byte, None)
        if self._left and (number >= 0 or not self._held):
            self._drop_pins()
        if number >= 0:
            self._set(number, fcntl.F_UNLCK, byte)

    def holds(self, byte: int) -> bool:
        """Return whether a lock that was taken through this object is still held."""
        if self._pin is not None and self._pid == getpid():
            return byte in self._held  # also if other code closes the descriptor
        return byte in self._held and (self.fd >= 0 or self._left_with(byte)) and byte in self._held

    def wait_exclusive(self, byte: int, seconds: float) -> bool:
        """Take the byte, waiting at most `seconds`. It polls, because a blocking wait has no timeout."""
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
        """Return whether another description holds a lock on any of `count` bytes from `byte`."""
        number = self.fd
        return number >= 0 and self._probe(number, byte, count)

    def held_by_others(self, bytes_: Iterable[int]) -> list[int]:
        """Return those of `bytes_` that another description has locked; check our descriptor once for all of them."""
        number = self.fd
        ask = self._probe if self._left else self._asks
        return [byte for byte in bytes_ if ask(number, byte, 1)] if number >= 0 else []

    def _probe(self, number: int, byte: int, count: int) -> bool:
        if self._left:
            # Locks of our own other descriptions do not count as others'.
            for own in sorted(own for _, bytes_ in self._left for own in bytes_ if byte <= own < byte + count):
                if own > byte and self._asks(number, byte, own - byte):
                    return True
                byte, count = own + 1, byte + count - own - 1
        return count > 0 and self._asks(number, byte, count)

    def _asks(self, number: int, byte: int, count: int) -> bool:
        answer = self._call(number, self._get_command, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, count, 0))
        return answer is not None and bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        number = self._descriptor.number()
        if number >= 0 and self._pid == getpid() and _records.get(self._descriptor.file):
            # The number may have to stay open, but not the locks. In a child they are the parent's, and stay.
            fcntl.fcntl(number, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
        self._descriptor.close()
        self._held = {}
        pins, self._pin, self._left = [self._pin, *(pin for pin, _ in self._left)], None, []
        for pin in pins:
            if pin is not None:
                pin.drop()

    def __del__(self) -> None:
        # A backend that was dropped without close() must not hold its row while the process lives.
        if hasattr(self, "_closed"):  # unless __init__ failed
            self.close()


class _Records:
    """The record locks of this process on one file: the kernel knows the process, not the objects that use them."""

    def __init__(self) -> None:
        self.users: weakref.WeakSet[ProcessLocks] = weakref.WeakSet()
        self.waiting: list[Descriptor] = []  # closing any descriptor of the file would drop all these locks


_records: dict[_File, _Records] = {}


class ProcessLocks(FileLocks):
    """Locks by process, through a descriptor inherited from the parent: for a child that cannot open one.

    Record locks (F_SETLK) belong to the process, not to the description: the parent's locks on the same description
    belong to another process, our children inherit none, and closing any descriptor of the file drops them all. So no
    descriptor is closed while these locks are in use, and the parent's locks stay until then, too.

    inherited: its descriptor moves to this object.
    """

    __slots__ = ()

    _set_command = fcntl.F_SETLK
    _get_command = fcntl.F_GETLK

    def __init__(self, inherited: FileLocks) -> None:
        self._closed = True
        self._descriptor = inherited._descriptor
        self._pid = getpid()
        self._held = {}
        self._pin, self._left, self._reopen = None, [], None
        inherited._closed = True
        self._closed = False
        with _lock:
            _records.setdefault(self._descriptor.file, _Records()).users.add(self)

    def keep(self, reopen: Callable[[], int] | None) -> None:
        """Do nothing: these locks cannot survive a close of the descriptor by other code."""

    def _others(self) -> list[ProcessLocks]:
        records = _records.get(self._descriptor.file)
        return [] if records is None else [user for user in records.users if user is not self]

    def _leave(self) -> None:
        for user in (self, *self._others()):
            user._held.clear()

    def _take(self, byte: int, exclusive: bool) -> bool:
        with _lock:
            number = self.fd
            if any(exclusive or user._held[byte] for user in self._others() if byte in user._held):
                return False  # the kernel would grant it: it sees one process
            return super()._take(byte, exclusive) if number >= 0 else False

    def release(self, byte: int) -> None:
        with _lock:
            if self._closed:
                return
            if any(byte in user._held for user in self._others()):
                self._held.pop(byte, None)
            else:
                super().release(byte)

    def _asks(self, number: int, byte: int, count: int) -> bool:
        with _lock:
            if any(byte <= held < byte + count for user in self._others() for held in user._held):
                return True
        return super()._asks(number, byte, count)

    def close(self) -> None:
        if self._closed:
            return
        with _lock:
            for byte in list(self._held):
                self.release(byte)
            self._closed = True
            file = self._descriptor.file
            records = _records.get(file)
            if records is not None:
                records.users.discard(self)
            self._descriptor.close()
            if records is not None and not records.users:
                del _records[file]
                for descriptor in records.waiting:
                    descriptor.close()


@forks.in_child(forks.LOCKS)
def _after_fork_in_child() -> None:
    global _lock
    _lock = RLock()  # another thread of the parent may have had it
    # The record locks stayed with the parent. Close what waited there to be closed.
    for records in list(_records.values()):
        waiting, records.waiting = records.waiting, []
        records.users = weakref.WeakSet()
        for descriptor in waiting:
            descriptor.close()
    _records.clear()
