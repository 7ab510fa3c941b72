"""The records that the Memcached store compares and swaps, and the names of their keys.

    lease   token (20 digits), renewals, seconds of its term, owner
    fence   the last token of a scope
    head    number (20 digits; the sequence of a blob, the version of the retired record), token (20 digits),
            how many chunks, id of the chunks ("-" and no chunks: nothing was written yet)
    shard   of the directory: an instance a line
    chunk   a part of what a head describes, under the id in the head; written before the head, so that a reader of
            the head finds the chunks unless they were evicted (see codec/chunks.py)

A record that cannot be read counts as missing and is replaced.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from hashlib import blake2b

__all__ = ["DIRECTORY_SHARDS", "Head", "LeaseRecord", "Names", "members", "shard_of"]

DIRECTORY_SHARDS = 16
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,80}")
_ITEM = re.compile(r"[A-Za-z0-9_.:-]{1,90}")


class Names:
    """Keys of one namespace: printable ASCII of at most 191 bytes, whatever the namespace and the item are called."""

    def __init__(self, namespace: str) -> None:
        self.space = namespace if _PLAIN.fullmatch(namespace) else "~" + _hashed(namespace)

    def key(self, kind: str, item: str) -> str:
        return f"shm:{self.space}:{kind}:{item if _ITEM.fullmatch(item) else '~' + _hashed(item)}"


def _hashed(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True)
class LeaseRecord:
    """token 0: taken, and its token still to come."""

    token: int
    renewals: int
    term: float
    owner: str

    def encode(self) -> bytes:
        return f"{self.token:020d} {self.renewals} {self.term!r} {self.owner}".encode()

    @classmethod
    def decode(cls, data: bytes | None) -> LeaseRecord | None:
        try:
            token, renewals, term, owner = (data or b"").decode().split(" ", 3)
            return cls(int(token), int(renewals), float(term), owner)
        except ValueError:
            return None

    def is_of(self, owner: str, token: int) -> bool:
        return self.owner == owner and self.token == token


@dataclass(frozen=True)
class Head:
    number: int
    token: int
    chunks: int = 0
    id: str = "-"

    def encode(self) -> bytes:
        return f"{self.number:020d} {self.token:020d} {self.chunks} {self.id}".encode()

    @classmethod
    def decode(cls, data: bytes | None) -> Head | None:
        try:
            number, token, chunks, id = (data or b"").decode().split(" ")
            return cls(int(number), int(token), int(chunks), id)
        except ValueError:
            return None

    @property
    def written(self) -> bool:
        return self.chunks > 0

    def parts(self) -> list[str]:
        """The items under which its chunks are kept."""
        return [f"{self.id}:{n}" for n in range(self.chunks)]


def shard_of(instance: str) -> str:
    return str(zlib.crc32(instance.encode()) % DIRECTORY_SHARDS)


def members(shard: bytes | None) -> list[str]:
    return (shard or b"").decode("ascii", "replace").split()
