"""How much of each total was sent already: a file beside the segment, because the next to send is another process.

Lives here: the file, its lock, and the difference to what a scan finds. May not: know where the differences go.

The rule is that nothing is sent twice, whatever dies. So the lock is held for the whole of a push, and the file says
that something was sent before it is:

    1. the leader A takes the lock, reads the file, makes the differences
    2. A replaces the file: all of that is sent
    3. A sends, and is killed in the middle                    the kernel drops the lock
    4. the next leader B reads the file, and goes on from it   what A did not get to is lost, nothing is sent twice

When A lives and is told that a packet was not taken, it takes that packet's differences back out of the file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

from shm_metrics import forks
from shm_metrics.errors import ExportError
from shm_metrics.exporters.flow import LEVEL, SUM, Series
from shm_metrics.locks import FileLocks

__all__ = ["Change", "Kept", "PushedTotals", "growth"]

_VERSION = 1
_LOCK = 0

Kept = tuple[float | None, float]
"""When the series began, and how much was sent."""

Change = tuple[str, Kept | None, Kept]
"""The key of a total, and what the file says of it before and after."""


def growth(series: Series, kept: dict[str, Kept], keys: list[str]) -> Iterator[tuple[int, float, Change]]:
    """(place of the point, how much it grew, what to keep once that is sent) for each total of a series that grew.

    keys: the key of each point. A series that began anew, which its `created` tells or any of its numbers but the sum
    that fell, has been sent to nobody: `kept` says so at once, for all of its totals together, lest a push that ends in
    the middle leave some that look as if it began anew again.
    A sum that fell alone, of observations below 0, has not grown until it is above what it was.
    """
    totals = [(place, point) for place, point in enumerate(series.points) if point.meaning != LEVEL]
    for place, point in totals:
        known = kept.get(keys[place])
        if known is not None and (known[0] != series.created or (point.meaning != SUM and point.value < known[1])):
            kept.update({keys[each]: (series.created, 0.0) for each, _ in totals if keys[each] in kept})
            break
    for place, point in totals:
        known = kept.get(keys[place])
        grown = point.value - (0.0 if known is None else known[1])
        if 0 < grown < math.inf:
            yield place, grown, (keys[place], known, (series.created, point.value))


class PushedTotals:
    """path: of the file. wait: seconds for the lock."""

    def __init__(self, path: str, wait: float) -> None:
        self.path = path
        self._wait = wait

    @contextmanager
    def locked(self, incarnation: str) -> Iterator[dict[str, Kept]]:
        """What was sent of this incarnation's totals; nobody else sends meanwhile. Raises ExportError."""
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            locks = FileLocks(os.open(f"{self.path}.lock", flags, 0o600))
        except OSError as error:
            raise ExportError(f"{self.path}.lock: cannot be opened: {error.strerror}") from error
        _taken.add(locks)
        try:
            if not locks.wait_exclusive(_LOCK, self._wait):
                raise ExportError(f"{self.path}: another process has been sending for more than {self._wait:g} s")
            yield self._read(incarnation)
            # Said, not left to close(): a child forked meanwhile has the same description open.
            locks.release(_LOCK)
        finally:
            _taken.discard(locks)
            locks.close()

    def _read(self, incarnation: str) -> dict[str, Kept]:
        try:
            with open(self.path, encoding="utf-8") as file:
                document = json.load(file)
            if document["version"] != _VERSION:
                raise ValueError(f"it is of version {document['version']}")
            if document["incarnation"] != incarnation:
                return {}  # of totals that are gone
            return {key: (created, float(value)) for key, (created, value) in document["totals"].items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ExportError(f"{self.path}: cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ExportError(
                f"{self.path}: {error!r}; what was sent cannot be known. Remove it to send all totals from 0"
            ) from error

    def write(self, incarnation: str, kept: dict[str, Kept]) -> None:
        """Replace the file as a whole. Raises ExportError."""
        beside = f"{self.path}.{os.getpid()}.new"
        document = {"version": _VERSION, "incarnation": incarnation, "totals": kept}
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(fd, "w", encoding="utf-8") as file:
                file.write(json.dumps(document))
            os.rename(beside, self.path)
        except OSError as error:
            try:
                os.unlink(beside)
            except OSError:
                pass
            raise ExportError(f"{self.path}: cannot be written: {error.strerror}; nothing was sent") from error


_taken: set[FileLocks] = set()


@forks.in_child
def _after_fork_in_child() -> None:
    # A thread of the parent may be in the middle of a push: with the parent dead, this child would hold its lock on.
    for locks in list(_taken):
        locks.close()
    _taken.clear()
