"""Blobs and the retired record -> bytes and back, as docs/wire.md draws them.

frame    4s magic "SHMW" | u8 version | u8 kind | u16 parts | u32 length of all | u32 crc32 of all but itself
head     of a blob: 16s instance | u64 sequence | u64 token | f64 created | f64 published | f64 interval
                    | u32 pid | u32 bytes of host | host
         of the retired record: u64 version | u64 token | u64 forgotten | u32 instances
                                | each: 16s instance | u64 sequence | f64 at
part     16s digest of the table | u32 table's bytes, u32 of them compressed | u32 values' bytes, u32 compressed
         | table | values
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import replace
from hashlib import blake2b

import numpy as np

from shm_metrics.cluster.codec.chunks import join, split
from shm_metrics.cluster.codec.table_format import pack_table, unpack_table
from shm_metrics.cluster.model.blob import Blob, Folded, Part, Retired
from shm_metrics.cluster.model.tables import Table
from shm_metrics.errors import WireFormatError
from shm_metrics.model.arrays import FloatArray
from shm_metrics.model.families import LabelPairs

__all__ = ["VERSION", "decode", "decode_retired", "encode", "encode_retired", "join", "split"]

MAGIC = b"SHMW"
VERSION = 1
BLOB, RETIRED = 1, 2
MAX_TABLE_BYTES = 64 << 20
MAX_VALUE_BYTES = 256 << 20
KEPT_SERIES = 1 << 20  # of all decoded tables that are kept for the next blob with the same one

_FRAME = struct.Struct("<4sBBHI")
_CRC = struct.Struct("<I")
_HEAD_OFFSET = _FRAME.size + _CRC.size
_BLOB = struct.Struct("<16sQQdddII")
_RETIRED = struct.Struct("<QQQI")
_FOLDED = struct.Struct("<16sQd")
_PART = struct.Struct("<16sIIII")
_DIGEST_SIZE = 16
_FLOATS = np.dtype("<f8")
_MOST_TIMES = 1_040  # what deflate makes smaller at most, and a little (its format: 258 bytes of 2 bits)
_VALUE_LEVEL = 1  # of zlib: shuffled values gain little from more, and they go out every few seconds

_tables: dict[bytes, Table] = {}
_label_sets: dict[LabelPairs, LabelPairs] = {}  # so that tables which differ by a few series share the others


def encode(blob: Blob) -> bytes:
    """Return the blob's bytes. Raise WireFormatError if they exceed the limits of readers."""
    host = blob.host.encode(errors="replace")
    head = _BLOB.pack(
        bytes.fromhex(blob.instance),
        blob.sequence,
        blob.token,
        blob.created_at,
        blob.published_at,
        blob.interval,
        blob.pid,
        len(host),
    )
    return _frame(BLOB, head + host, blob.parts)


def encode_retired(retired: Retired) -> bytes:
    """Return the record's bytes. Raise WireFormatError if they exceed the limits of readers."""
    head = [_RETIRED.pack(retired.version, retired.token, retired.forgotten, len(retired.folded))]
    for instance, (sequence, at) in retired.folded.items():
        head.append(_FOLDED.pack(bytes.fromhex(instance), sequence, at))
    return _frame(RETIRED, b"".join(head), (retired.part,))


def decode(data: bytes | memoryview) -> Blob:
    """Return the blob in `data`. Raise WireFormatError for anything that encode() does not produce."""
    walk = _Walk(data, BLOB)
    try:
        instance, sequence, token, created, published, interval, pid, size = _BLOB.unpack(walk.take(_BLOB.size))
        host = str(walk.take(size), "utf-8")
    except ValueError as error:
        raise WireFormatError(f"blob of {len(data)} bytes: its host is no text: {error}") from error
    if not all(map(math.isfinite, (created, published, interval))):
        raise WireFormatError(f"blob of {len(data)} bytes: it was made at {created} and published at {published}")
    return Blob(instance.hex(), host, pid, created, published, sequence, token, interval, walk.parts(low=False))


def decode_retired(data: bytes | memoryview) -> Retired:
    """Return the retired record in `data`. Raise WireFormatError for anything else than encode_retired() makes."""
    walk = _Walk(data, RETIRED)
    version, token, forgotten, count = _RETIRED.unpack(walk.take(_RETIRED.size))
    entries = _FOLDED.iter_unpack(walk.take(count * _FOLDED.size))
    folded = {instance.hex(): Folded(sequence, at) for instance, sequence, at in entries}
    parts = walk.parts(low=True)
    if len(parts) != 1 or len(folded) != count:
        raise WireFormatError(
            f"retired record of {len(parts)} parts, and {len(folded)} instances where it says {count}"
        )
    return Retired(version, token, folded, parts[0], forgotten)


# -- writing -----------------------------------------------------------------------------------------------------------


def packed(table: Table) -> Table:
    """Return the table with its bytes encoded, for an encoder to keep while its series do not change."""
    if table.packed is not None:
        return table
    raw = pack_table(table)
    _check_limit("series table", len(raw), MAX_TABLE_BYTES)
    return replace(table, packed=(zlib.compress(raw, 6), blake2b(raw, digest_size=_DIGEST_SIZE).digest(), len(raw)))


def _frame(kind: int, head: bytes, parts: Iterable[Part]) -> bytes:
    pieces = [piece for part in parts for piece in _pack_part(part)]
    body = b"".join([head, *pieces])
    _check_limit("blob", _HEAD_OFFSET + len(body), (1 << 32) - 1)
    start = _FRAME.pack(MAGIC, VERSION, kind, len(pieces) // 3, _HEAD_OFFSET + len(body))
    return b"".join((start, _CRC.pack(zlib.crc32(body, zlib.crc32(start))), body))


def _pack_part(part: Part) -> tuple[bytes, bytes, bytes]:
    found = packed(part.table).packed
    assert found is not None
    table, digest, raw_size = found
    arrays = (part.cells, part.stamps) if part.low is None else (part.cells, part.low, part.stamps)
    values = np.concatenate(arrays).astype(_FLOATS, copy=False)
    _check_limit("values", values.nbytes, MAX_VALUE_BYTES)
    # All first bytes, then all second bytes, ...: similar bytes come together, and whole numbers end in zeros.
    shuffled = zlib.compress(values.view(np.uint8).reshape(-1, 8).T.tobytes(), _VALUE_LEVEL)
    return _PART.pack(digest, raw_size, len(table), values.nbytes, len(shuffled)), table, shuffled


def _check_limit(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise WireFormatError(f"{what} of {size} bytes: at most {limit} are published; use fewer series")


# -- reading -----------------------------------------------------------------------------------------------------------


class _Walk:
    """A walk over a frame whose checksum was verified; every length is checked against the remaining bytes."""

    def __init__(self, data: bytes | memoryview, kind: int) -> None:
        view = memoryview(data).cast("B")
        if len(view) < _HEAD_OFFSET or view[:4] != MAGIC:
            raise WireFormatError(f"{len(view)} bytes that are nothing shm_metrics published")
        _, version, found, self._parts, length = _FRAME.unpack_from(view)
        if version != VERSION:
            raise WireFormatError(f"wire format {version}, or damage; this version of shm_metrics reads {VERSION}")
        if length != len(view):
            raise WireFormatError(f"{len(view)} bytes of the {length} that were published: truncated")
        (crc,) = _CRC.unpack_from(view, _FRAME.size)
        if zlib.crc32(view[_HEAD_OFFSET:], zlib.crc32(view[: _FRAME.size])) != crc:
            raise WireFormatError(f"blob of {length} bytes is damaged: its checksum is wrong")
        if found != kind:
            raise WireFormatError(f"a record of kind {found} where one of kind {kind} is expected")
        self._view = view
        self._at = _HEAD_OFFSET

    def take(self, size: int) -> memoryview:
        if size > len(self._view) - self._at:
            raise WireFormatError(f"{size} bytes in the {len(self._view) - self._at} that are left")
        start = self._at
        self._at += size
        return self._view[start : self._at]

    def parts(self, low: bool) -> tuple[Part, ...]:
        found = tuple(self._part(low) for _ in range(self._parts))
        if self._at != len(self._view):
            raise WireFormatError(f"{len(self._view) - self._at} bytes follow its last part")
        return found

    def _part(self, low: bool) -> Part:
        digest, raw_size, table_size, value_bytes, value_size = _PART.unpack(self.take(_PART.size))
        table = _table(digest, raw_size, self.take(table_size))
        expected = 8 * (table.cells * (1 + low) + table.stamps)
        if value_bytes != expected:
            raise WireFormatError(f"{value_bytes} bytes of values for a table that needs {expected}")
        shuffled = _decompress(self.take(value_size), value_bytes, MAX_VALUE_BYTES)
        values: FloatArray = np.frombuffer(shuffled, np.uint8).reshape(8, -1).T.copy().view(_FLOATS).reshape(-1)
        if not low:
            return Part(table, values[: table.cells], values[table.cells :])
        return Part(table, values[: table.cells], values[2 * table.cells :], values[table.cells : 2 * table.cells])


def _table(digest: bytes, raw_size: int, data: memoryview) -> Table:
    table = _tables.get(digest)
    if table is None:
        raw = _decompress(data, raw_size, MAX_TABLE_BYTES)
        if blake2b(raw, digest_size=_DIGEST_SIZE).digest() != digest:
            raise WireFormatError(f"series table of {raw_size} bytes has not the digest that it says")
        table = Table(unpack_table(raw, _label_sets), (bytes(data), digest, raw_size))
        _keep(digest, table)
    elif table.packed is None or table.packed[2] != raw_size:
        raise WireFormatError(f"series table of {raw_size} bytes, where those with its digest have others")
    return table


def _keep(digest: bytes, table: Table) -> None:
    """Cache the table, and drop the oldest tables beyond KEPT_SERIES series."""
    if len(_label_sets) > KEPT_SERIES:
        _label_sets.clear()
    room = KEPT_SERIES - table.series
    for other, kept in reversed(list(_tables.items())):
        room -= kept.series
        if room < 0:
            _tables.pop(other, None)
    _tables[digest] = table


def _decompress(data: memoryview, size: int, limit: int) -> bytes:
    """Return the `size` bytes that are compressed in `data`, without ever using more memory than that."""
    if size > limit or size > _MOST_TIMES * len(data):
        raise WireFormatError(f"{size} bytes said to be in {len(data)} compressed ones; at most {limit} are read")
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise WireFormatError(f"{len(data)} compressed bytes cannot be read: {error}") from error
    if len(raw) != size or not stream.eof or stream.unused_data:
        raise WireFormatError(f"{len(data)} compressed bytes hold other than the {size} they say")
    return raw
