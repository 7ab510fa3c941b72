"""Bytes in chunks, for stores with a limit on the size of a value.

    4s magic "SHMC" | u8 version | 3 bytes 0 | 16s digest of the whole | u32 bytes of the whole
    | u32 number | u32 of how many | u32 crc32 of all but itself | the piece

A chunk identifies its blob, so that chunks of two publishes are never joined.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from hashlib import blake2b

from shm_metrics.errors import WireFormatError

__all__ = ["CHUNK_LIMIT", "join", "split"]

MAGIC = b"SHMC"
VERSION = 1
CHUNK_LIMIT = 1_000_000 - 1024  # Memcached's item limit, 1 MiB by default, holds key and overhead too
MAX_BYTES = 512 << 20

_HEAD = struct.Struct("<4sB3x16sIII")
_CRC = struct.Struct("<I")
_PIECE_OFFSET = _HEAD.size + _CRC.size
_DIGEST_SIZE = 16


def split(data: bytes, limit: int = CHUNK_LIMIT) -> list[bytes]:
    """Split `data` into one or more chunks of at most `limit` bytes.

    Raise ValueError for a limit that leaves no room, WireFormatError for more bytes than join() accepts.
    """
    room = limit - _PIECE_OFFSET
    if room < 1:
        raise ValueError(f"limit {limit}: a chunk's own head takes {_PIECE_OFFSET} bytes")
    if len(data) > MAX_BYTES:
        raise WireFormatError(f"{len(data)} bytes: at most {MAX_BYTES} are put together again")
    digest, count = blake2b(data, digest_size=_DIGEST_SIZE).digest(), max(1, -(-len(data) // room))
    chunks = []
    for number in range(count):
        head = _HEAD.pack(MAGIC, VERSION, digest, len(data), number, count)
        piece = data[number * room : (number + 1) * room]
        chunks.append(b"".join((head, _CRC.pack(zlib.crc32(piece, zlib.crc32(head))), piece)))
    return chunks


def join(parts: Iterable[bytes]) -> bytes:
    """Return the argument of split() from its chunks, in any order. Raise WireFormatError for anything else."""
    pieces: dict[int, memoryview] = {}
    whole: tuple[bytes, int, int] | None = None
    for part in parts:
        digest, size, number, count, piece = _read(part)
        if whole not in (None, (digest, size, count)):
            raise WireFormatError("chunks of different blobs: one was published over the other; read them again")
        if number >= count or number in pieces:
            raise WireFormatError(f"chunk {number} of {count} comes twice, or is none of them")
        whole, pieces[number] = (digest, size, count), piece
    if whole is None or len(pieces) != whole[2]:
        raise WireFormatError(f"{len(pieces)} chunks of {whole[2] if whole else 'any'}: the others are missing")
    data = b"".join([pieces[number] for number in range(whole[2])])
    if len(data) != whole[1] or blake2b(data, digest_size=_DIGEST_SIZE).digest() != whole[0]:
        raise WireFormatError(f"chunks that make {len(data)} other bytes than the {whole[1]} that were cut")
    return data


def _read(chunk: bytes) -> tuple[bytes, int, int, int, memoryview]:
    view = memoryview(chunk).cast("B")
    if len(view) < _PIECE_OFFSET or view[:4] != MAGIC:
        raise WireFormatError(f"{len(view)} bytes that are no chunk of anything shm_metrics published")
    _, version, digest, size, number, count = _HEAD.unpack_from(view)
    if version != VERSION:
        raise WireFormatError(f"chunk format {version}, or damage; this version of shm_metrics reads {VERSION}")
    (crc,) = _CRC.unpack_from(view, _HEAD.size)
    if zlib.crc32(view[_PIECE_OFFSET:], zlib.crc32(view[: _HEAD.size])) != crc:
        raise WireFormatError(f"chunk {number} of {count} is damaged: its checksum is wrong")
    return digest, size, number, count, view[_PIECE_OFFSET:]
