"""Short stretches in which no signal handler runs in this thread."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["DEFERRED", "deferred_signals"]

DEFERRED = set(signal.valid_signals()) - {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
"""All but those that a fault raises, which would end the process without a trace."""


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Block signals meanwhile: they are delivered at the end.

    For a proof that a descriptor is ours and the call that writes through it: a handler in between may close it and
    open a file of the application under the same number.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, DEFERRED)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
