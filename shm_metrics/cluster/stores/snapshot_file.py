"""The file of the local store: everything that a cache would hold, replaced as a whole.

    +----------+----------------+-------------+-------------------------------+------------------------+
    | SHMSNAP1 | u32 of header  | header JSON | the values, one after another | crc32 of all before it |
    +----------+----------------+-------------+-------------------------------+------------------------+

Read-modify-write holds a lock of its own (a byte of <path>.lock), so that two incarnations of one segment, the old one
about to end, do not overwrite each other's changes. The new content is renamed over the old: a reader sees one of them.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from shm_metrics.errors import SyncError
from shm_metrics.runtime.atomic_file import replace_file
from shm_metrics.runtime.log_once import LogOnce
from shm_metrics.segment.file_locks import FileLocks

__all__ = ["Content", "Kept", "SnapshotFile"]

log = logging.getLogger("shm_metrics")

_MAGIC = b"SHMSNAP1"
_U32 = struct.Struct("<I")
_LOCK = 0

Answer = TypeVar("Answer")


@dataclass
class Kept:
    """number: the sequence of a blob, the version of the retired record; at: unix time of the write."""

    number: int
    token: int
    at: float
    data: bytes


@dataclass
class Content:
    tokens: dict[str, int] = field(default_factory=dict)  # scope -> its last one
    blobs: dict[str, Kept] = field(default_factory=dict)
    tombstones: dict[str, Kept] = field(default_factory=dict)
    retired: Kept | None = None

    def encode(self) -> bytes:
        kinds = {"blobs": self.blobs, "tombs": self.tombstones, "retired": {"": self.retired} if self.retired else {}}
        header = {
            "tokens": self.tokens,
            **{
                kind: {name: [kept.number, kept.token, kept.at, len(kept.data)] for name, kept in values.items()}
                for kind, values in kinds.items()
            },
        }
        text = json.dumps(header).encode()
        values = [kept.data for kind in kinds.values() for kept in kind.values()]
        whole = b"".join([_MAGIC, _U32.pack(len(text)), text, *values])
        return whole + _U32.pack(zlib.crc32(whole))

    @classmethod
    def decode(cls, data: bytes) -> Content:
        """Raises ValueError."""
        start = len(_MAGIC) + _U32.size
        if len(data) < start + _U32.size or not data.startswith(_MAGIC):
            raise ValueError("it is not a snapshot of this version")
        if zlib.crc32(data[: -_U32.size]) != _U32.unpack(data[-_U32.size :])[0]:
            raise ValueError("its checksum is wrong")
        position = start + _U32.unpack_from(data, len(_MAGIC))[0]
        header = json.loads(data[start:position])
        kinds: dict[str, dict[str, Kept]] = {}
        for kind in ("blobs", "tombs", "retired"):
            kinds[kind] = {}
            for name, (number, token, at, length) in header[kind].items():
                kinds[kind][name] = Kept(number, token, at, data[position : position + length])
                position += length
        return cls(header["tokens"], kinds["blobs"], kinds["tombs"], kinds["retired"].get(""))


class SnapshotFile:
    """The file at `path`; None keeps the content in the memory of this process."""

    def __init__(self, path: str | None, timeout: float) -> None:
        self.path = path
        self._timeout = timeout
        self._memory = Content().encode()
        self._log_once = LogOnce(log)

    @property
    def display_name(self) -> str:
        return self.path or "(private memory)"

    def read(self) -> Content:
        """Return the content; empty if the file is missing or damaged, which is logged once. Raise SyncError."""
        data = self._memory
        try:
            if self.path is not None:
                with open(self.path, "rb") as file:
                    data = file.read()
            return Content.decode(data)
        except FileNotFoundError:
            return Content()
        except OSError as error:
            raise SyncError(f"{self.display_name}: cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, struct.error) as error:
            self._log_once.warning(
                "damage", "%s: %s; its content is lost, and it will be replaced", self.display_name, error
            )
            return Content()

    def change(self, change: Callable[[Content], Answer]) -> Answer:
        """Apply `change` to the content and write the result, unless `change` raises. Raise SyncError."""
        if self.path is None:
            content = Content.decode(self._memory)
            answer = change(content)
            self._memory = content.encode()
            return answer
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            locks = FileLocks(os.open(f"{self.path}.lock", flags, 0o600))
            try:
                if not locks.wait_exclusive(_LOCK, self._timeout):
                    raise SyncError(
                        f"{self.display_name}: another process has it locked for more than {self._timeout} s"
                    )
                content = self.read()
                answer = change(content)
                replace_file(self.path, content.encode())
                # Said, not left to close(): a child forked meanwhile has the same description open.
                locks.release(_LOCK)
            finally:
                locks.close()
        except OSError as error:
            raise SyncError(f"{self.display_name}: cannot be written: {error.strerror}") from error
        return answer
