"""The private memory of a process, as the kernel counts it."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable

__all__ = ["private_bytes", "private_bytes_of_forked"]


def private_bytes() -> int:
    """Bytes mapped by this process and by no other: the Private_* lines of /proc/self/smaps_rollup.

    A page of a shared file that only this process has touched is among them: it is paid for by this process, too.
    """
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def private_bytes_of_forked(work: Callable[[], object]) -> int:
    """The private memory of a child of fork after `work`: what it copied of its parent, and what is its own."""
    readable, writable = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            gc.disable()  # a collection would copy pages for its own marks: the interpreter's cost, not a peer's
            work()
            os.write(writable, str(private_bytes()).encode())
        finally:
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as told:
        answer = told.read()
    os.waitpid(pid, 0)
    return int(answer)
