"""File mappings that hold no descriptor.

`mmap.mmap` duplicates the descriptor, and closes the duplicate with the mapping. If other code has closed that number
(daemons close all they find), it may lead to a file of the application by then, which would be closed.
`trackfd=False` prevents this from Python 3.13 on; libc's mmap() does for all versions.
"""

from __future__ import annotations

import mmap
import os
from functools import lru_cache
from os import getpid
from typing import Any

__all__ = ["Pin", "address_range", "map_file"]

_MADV_DONTFORK = 10
_PROT_NONE = 0
_MAP_FIXED = 0x10


@lru_cache(maxsize=1)
def _libc() -> Any:
    """mmap, munmap and madvise; None where CPython was built without ctypes. Loaded when a file is mapped."""
    try:
        import ctypes
    except ImportError:
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    libc.mmap.restype = pointer
    libc.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_int64]
    libc.munmap.argtypes = [pointer, size]
    libc.madvise.argtypes = [pointer, size, number]
    return libc


def _map(libc: Any, fd: int, length: int, protection: int, flags: int = mmap.MAP_SHARED, there: int = 0) -> int:
    import ctypes

    address = libc.mmap(there or None, length, protection, flags, fd, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(address)


def map_file(fd: int, length: int, *, write: bool) -> memoryview:
    """Return the file's first `length` bytes, shared; unmapped with the last view of them. Raise OSError.

    `fd` may be closed afterwards. A forked child has the mapping, too.
    """
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
    libc = _libc()
    if libc is None:
        return memoryview(mmap.mmap(fd, length, mmap.MAP_SHARED, protection))
    import ctypes

    munmap, address = libc.munmap, _map(libc, fd, length, protection)

    class Mapped(ctypes.c_char * length):  # type: ignore[misc]  # a view of it keeps it, and with it the mapping
        def __del__(self) -> None:
            munmap(address, length)

    view = memoryview(Mapped.from_address(address)).cast("B")
    return view if write else view.toreadonly()


def address_range(view: memoryview) -> str:
    """Return where the whole of map_file() lies, as /proc/self/map_files names it; empty where that is not known."""
    libc = _libc()
    if libc is None or view.obj is None:
        return ""
    import ctypes

    start = ctypes.addressof(view.obj)  # type: ignore[arg-type]
    end = start + -(-view.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    return f"{start:x}-{end:x}"


class Pin:
    """Keeps the open file description behind `fd`, and its locks, until drop(), even when the descriptor is closed.

    It maps one page, which is never accessed. A forked child does not inherit it. Raises OSError.
    """

    __slots__ = ("_address", "_pid")

    def __init__(self, fd: int) -> None:
        self._address, self._pid = 0, getpid()
        libc = _libc()
        if libc is None:
            raise OSError("no ctypes")
        # The place first, and noted: an exception as soon as the file is mapped there leaves nothing that holds locks.
        self._address = _map(libc, -1, mmap.PAGESIZE, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        _map(libc, fd, mmap.PAGESIZE, _PROT_NONE, mmap.MAP_SHARED | _MAP_FIXED, self._address)
        if libc.madvise(self._address, mmap.PAGESIZE, _MADV_DONTFORK) != 0:
            self.drop()
            raise OSError("MADV_DONTFORK is not to be had")

    def drop(self) -> None:
        address, self._address = self._address, 0
        if address and self._pid == getpid():  # in a child, something else may lie there
            _libc().munmap(address, mmap.PAGESIZE)

    def __del__(self) -> None:
        if hasattr(self, "_address"):  # an exception may have come before
            self.drop()
