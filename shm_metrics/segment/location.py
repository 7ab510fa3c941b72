"""The location of a segment: a POSIX shared memory name, or a file path."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import posix_ipc

from shm_metrics.errors import InvalidMetricError, SegmentError

__all__ = ["DEFAULT_NAME", "SEGMENT_VARIABLE", "SegmentLocation", "locate_segment"]

SEGMENT_VARIABLE = "SHM_METRICS_SEGMENT"
DEFAULT_NAME = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
SHM_DIRECTORY = "/dev/shm"
SEGMENT_PREFIX = "shm_metrics-"


@dataclass(frozen=True)
class SegmentLocation:
    """A place for a segment. path: its file. shm: its POSIX name ("/shm_metrics-0-shop"), None for a plain file."""

    path: str
    shm: str | None = None

    @classmethod
    def named(cls, name: str, uid: int) -> SegmentLocation:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidMetricError(
                f"segment name {name!r}: use letters, digits, '_', '-' and '.' (at most 128, the first a letter or "
                "digit), or give a path"
            )
        shm = f"/{SEGMENT_PREFIX}{uid}-{name}"
        return cls(SHM_DIRECTORY + shm, shm)

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> SegmentLocation:
        return cls(os.path.abspath(os.fspath(path)))

    def open(self, *, create: bool, write: bool) -> int:
        """Return a new close-on-exec descriptor. Raise FileNotFoundError, or SegmentError with the reason."""
        if create:
            # Try without O_CREAT first: in a sticky directory the kernel refuses that flag for files of other users
            # (fs.protected_regular), even to root, who may otherwise join a segment of its workers' user.
            try:
                return self.open(create=False, write=write)
            except FileNotFoundError:
                pass
        try:
            if self.shm is not None:
                flags = posix_ipc.O_CREAT if create else 0
                return int(posix_ipc.SharedMemory(self.shm, flags=flags, mode=0o600, read_only=not write).fd)
            access = os.O_RDWR if write else os.O_RDONLY
            return os.open(self.path, access | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
        except (posix_ipc.ExistentialError, FileNotFoundError):
            if create:
                raise SegmentError(
                    f"{self.path}: its directory does not exist; make it, or give another path"
                ) from None
            raise FileNotFoundError(f"no metrics segment at {self.path}: has the application started?") from None
        except (posix_ipc.PermissionsError, PermissionError):
            raise SegmentError(
                f"{self.path}: uid {os.geteuid()} may not {'write' if write else 'read'} it; "
                "run as the user that owns the segment"
            ) from None
        except (posix_ipc.Error, OSError) as error:
            raise SegmentError(f"{self.path}: cannot be opened: {error}") from error

    def is_file(self, file: int | os.stat_result) -> bool:
        """Return whether the path still leads to `file`, a descriptor or status; True if access is denied."""
        try:
            known = os.fstat(file) if isinstance(file, int) else file
            return os.path.samestat(os.stat(self.path), known)
        except FileNotFoundError:
            return False
        except PermissionError:
            return True

    @property
    def sent(self) -> str:
        """The path of the publish journal beside the segment (cluster/publish_journal.py)."""
        return self.path + ".sent"

    def unlink(self) -> None:
        """Remove the name, if it exists; processes that have mapped the segment keep it."""
        try:
            os.unlink(self.sent)
        except OSError:
            pass  # it was in no cluster; a journal of another incarnation is recognised by its content
        try:
            if self.shm is not None:
                posix_ipc.unlink_shared_memory(self.shm)
            else:
                os.unlink(self.path)
        except (posix_ipc.ExistentialError, FileNotFoundError):
            pass


def locate_segment(
    name: str | None = None, path: str | os.PathLike[str] | None = None, *, uid: int | None = None
) -> SegmentLocation:
    """Return the location for a name or path, by default of SHM_METRICS_SEGMENT (a path if it has a slash).

    uid: the user who owns the segment of that name; by default the user of this process.
    """
    if name is not None and path is not None:
        raise InvalidMetricError(f"name {name!r} and path {path!r}: give one of them")
    if path is not None:
        return SegmentLocation.at(path)
    wanted = name if name is not None else os.environ.get(SEGMENT_VARIABLE) or DEFAULT_NAME
    if name is None and "/" in wanted:
        return SegmentLocation.at(wanted)
    try:
        return SegmentLocation.named(wanted, os.geteuid() if uid is None else uid)
    except InvalidMetricError as error:
        raise error if name is not None else InvalidMetricError(f"{SEGMENT_VARIABLE}: {error}") from None
