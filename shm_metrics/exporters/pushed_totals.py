"""How much of each total was sent: a file beside the segment, because another process may send next.

Nothing is sent twice, whatever dies. So a push holds the lock throughout, and the file records increments as sent
before they are:

    1. the leader A takes the lock, reads the file and computes the increments
    2. A replaces the file: it records all of them as sent
    3. A sends, and is killed                                  the kernel releases the lock
    4. the next leader B reads the file and goes on from it    what A did not send is lost; nothing is sent twice

If A survives and a packet was not taken, A removes the increments of that packet from the file.

The files belong to the owner of the segment, so that a push by root does not lock the workers out.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from shm_metrics.errors import ExportError
from shm_metrics.exporters.classify import LEVEL, SUM, Series
from shm_metrics.runtime import forks
from shm_metrics.runtime.atomic_file import replace_file
from shm_metrics.segment.file_locks import FileLocks

__all__ = ["Change", "Kept", "PushedTotals", "growth"]

_VERSION = 2
_LOCK = 0


class Kept(NamedTuple):
    """When the series was created, and how much was sent. own: the series is in the segment, not a collector's."""

    created: float | None
    sent: float
    own: bool = False


Change = tuple[str, Kept | None, Kept]
"""The key of a total, and its entry in the file before and after."""


def growth(
    series: Series, kept: dict[str, Kept], keys: list[str], *, own: bool = False
) -> Iterator[tuple[int, float, Change]]:
    """Yield (position of the point, increment, change of the file) for each total of a series that grew.

    keys: the key of each point. A series that started from zero again (its `created` changed, or a number other than
    the sum fell) has sent nothing: `kept` is updated at once for all of its totals, so that a push that ends half-way
    leaves none that look like another restart.
    A sum that fell alone, by negative observations, has no increment until it exceeds its earlier value.
    """
    totals = [(place, point) for place, point in enumerate(series.points) if point.meaning != LEVEL]
    for place, point in totals:
        known = kept.get(keys[place])
        if known is not None and (
            known.created != series.created or (point.meaning != SUM and point.value < known.sent)
        ):
            kept.update({keys[each]: Kept(series.created, 0.0, own) for each, _ in totals if keys[each] in kept})
            break
    for place, point in totals:
        known = kept.get(keys[place])
        grown = point.value - (0.0 if known is None else known.sent)
        if 0 < grown < math.inf:
            yield place, grown, (keys[place], known, Kept(series.created, point.value, own))


class PushedTotals:
    """The file at `path`. wait: seconds to wait for the lock. segment: path of the segment whose totals these are.

    shared: whether another segment may be configured to use the same file, which is refused.
    """

    def __init__(self, path: str, wait: float, *, segment: str, shared: bool) -> None:
        self.path = path
        self._wait = wait
        self._segment = segment
        self._shared = shared

    @contextmanager
    def locked(self, incarnation: str) -> Iterator[dict[str, Kept]]:
        """Lock the file and yield what was sent of this incarnation's totals. Raise ExportError."""
        locks = FileLocks(self._open_lock())
        _taken.add(locks)
        try:
            if not locks.wait_exclusive(_LOCK, self._wait):
                raise ExportError(f"{self.path}: another process has been sending for more than {self._wait:g} s")
            yield self._read(incarnation)
            # Explicitly, not by close(): a child forked meanwhile has the same file description open.
            locks.release(_LOCK)
        finally:
            _taken.discard(locks)
            locks.close()

    def _open_lock(self) -> int:
        path = f"{self.path}.lock"
        while True:
            try:
                # Without O_CREAT: in a sticky directory the kernel refuses that flag for files of others, to root too.
                return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise ExportError(f"{path}: cannot be opened: {error.strerror}{_whose(error)}") from error
            try:
                return self._made(path)
            except FileExistsError:
                pass  # another process was quicker
            except OSError as error:
                raise ExportError(f"{path}: cannot be opened: {error.strerror}") from error

    def _made(self, path: str) -> int:
        """Create a file of the segment's owner. It must be new: a file of another user must not be given away."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if os.geteuid() == 0:
            try:
                owner = os.stat(self._segment)
                os.fchown(fd, owner.st_uid, owner.st_gid)
            except OSError:
                pass  # the segment is gone, or this root may not give files away
        return fd

    def _read(self, incarnation: str) -> dict[str, Kept]:
        try:
            with open(self.path, encoding="utf-8") as file:
                document = json.load(file)
            if document["version"] != _VERSION:
                raise ValueError(f"it is of version {document['version']}")
            if self._shared and document["segment"] != self._segment:
                raise ExportError(
                    f"{self.path}: it says what was sent of {document['segment']}, and this is {self._segment}: give "
                    f"each segment a state file of its own, or remove it if that segment is gone"
                )
            if document["incarnation"] != incarnation:
                return {}  # of totals that are gone
            return {
                key: Kept(created, float(sent), bool(own)) for key, (created, sent, own) in document["totals"].items()
            }
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ExportError(
                f"{self.path}: cannot be read: {error.strerror}{_whose(error)}; nothing was sent"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ExportError(
                f"{self.path}: {error!r}; what was sent cannot be known. Remove it to send all totals from 0"
            ) from error

    def write(self, incarnation: str, kept: dict[str, Kept]) -> None:
        """Replace the file as a whole; only with the lock. Raises ExportError."""
        temporary = f"{self.path}.new"  # the same each time, so that killed writers leave one file at most
        document = {"version": _VERSION, "segment": self._segment, "incarnation": incarnation, "totals": kept}
        try:
            _remove(temporary)
            replace_file(self.path, json.dumps(document).encode(), temporary=temporary, create=self._made)
        except OSError as error:
            raise ExportError(f"{self.path}: cannot be written: {error.strerror}{_whose(error)}") from error


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _whose(error: OSError) -> str:
    """Return the owner and mode of the file, for a message about missing permissions."""
    if not isinstance(error, PermissionError):
        return ""
    paths = [os.fsdecode(path) for path in (error.filename2, error.filename) if path is not None]
    for path in [*paths, *(os.path.dirname(each) for each in paths)]:
        try:
            found = os.lstat(path)
        except OSError:
            continue
        return (
            f" ({path} belongs to uid {found.st_uid}, with mode {stat.S_IMODE(found.st_mode):o}, and this process runs "
            f"as uid {os.geteuid()}: let one user push, or give another state file)"
        )
    return ""


_taken: set[FileLocks] = set()


@forks.in_child(forks.STATE)
def _after_fork_in_child() -> None:
    # A thread of the parent may be pushing: if the parent dies, this child would keep its lock.
    for locks in list(_taken):
        locks.close()
    _taken.clear()
