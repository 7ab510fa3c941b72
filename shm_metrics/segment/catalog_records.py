"""Catalog records: pack and unpack.

    +--------+-------+------+------+---------+---------+------+--------+------+-------+---------+-----+------+
    | length | crc32 | rank | kind | padding | key len | hash | parent | slot | count | created | key | tail |
    | u32    | u32   | u64  | u16  | u16     | u32     | u64  | u64    | u64  | u64   | f64     |     |      |
    +--------+-------+------+------+---------+---------+------+--------+------+-------+---------+-----+------+

length counts the whole record with the padding at its end, to a multiple of 8 bytes. The checksum covers the length
and all from `kind` on: not `rank`, the one word that changes in place (under the catalog lock). hash: of the
key, by which the index finds it. No field is an offset, so a record can be copied unchanged. The fields:

    FAMILY  key: "F" + JSON of the definition without its documentation; tail: the documentation;
            parent: its number, counted from 1; slot, count: the overflow series' slots (0 = none); rank: of two
            definitions of one name the higher one is the newer
    SERIES  parent: the hash of its family; key: "S" + parent + labels; slot, count: its slots; created: when the
            record was made. The slot table holds what changes in a series' life.

Labels are joined with 0xFF, which UTF-8 never contains; an info's own labels and its payload are separated by 0xFE.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass

from shm_metrics.errors import InvalidMetricError, SegmentFormatError
from shm_metrics.model.families import Family, LabelPairs
from shm_metrics.segment import layout as L

FAMILY, SERIES = L.RECORD_FAMILY, L.RECORD_SERIES
KINDS = (FAMILY, SERIES)

_START = struct.Struct(L.RECORD_START)
_HEAD = struct.Struct(L.RECORD_HEAD)  # what the checksum covers, up to the key
RANK_OFFSET = _START.size - 8
KIND_OFFSET = _START.size
KEY_LENGTH_OFFSET = KIND_OFFSET + 4
HASH_OFFSET = KEY_LENGTH_OFFSET + 4
HEAD_BYTES = _START.size + _HEAD.size
MAX_RECORD_BYTES = 1 << 16
ALIGN = L.RECORD_ALIGN

KEY_LENGTH = struct.Struct("<I")
_HASH = struct.Struct("<Q")

__all__ = ["CatalogRecord"]


@dataclass(slots=True)
class CatalogRecord:
    kind: int
    key: bytes = b""
    parent: int = 0
    slot: int = 0
    count: int = 0
    created: float = 0.0
    tail: bytes = b""
    rank: int = 0
    hash: int = 0

    def pack(self) -> bytes:
        """Return the record's bytes. Raise InvalidMetricError when they are more than MAX_RECORD_BYTES."""
        key, tail = self.key, self.tail
        check_size(len(key) + len(tail))
        length = HEAD_BYTES + len(key) + len(tail)
        padding = -length % ALIGN
        length += padding
        head = _HEAD.pack(self.kind, padding, len(key), self.hash, self.parent, self.slot, self.count, self.created)
        body = b"".join((head, key, tail, bytes(padding)))
        return _START.pack(length, zlib.crc32(body, length), self.rank) + body


def check_size(size: int) -> None:
    """Raise InvalidMetricError if key and tail of `size` bytes are more than a record holds."""
    if HEAD_BYTES + size + ALIGN > MAX_RECORD_BYTES:
        raise InvalidMetricError(
            f"labels, buckets or documentation of {size} bytes: a series or family may take {MAX_RECORD_BYTES} in all"
        )


def unpack(data: memoryview, offset: int, end: int) -> tuple[CatalogRecord, int]:
    """Return the record at `offset` and the offset of the next one.

    Raise SegmentFormatError when the bytes up to `end` hold no complete, undamaged record there.
    """
    if offset < 0 or offset % ALIGN or offset + HEAD_BYTES > end:
        raise SegmentFormatError(f"no catalog record at {offset}")
    length, crc, rank = _START.unpack_from(data, offset)
    if not HEAD_BYTES <= length <= min(MAX_RECORD_BYTES, end - offset) or length % ALIGN:
        raise SegmentFormatError(f"catalog record at {offset} is damaged: length {length}")
    body = data[offset + KIND_OFFSET : offset + length]
    kind, padding, key_length, hash_, parent, slot, count, created = _HEAD.unpack_from(body)
    key_end = _HEAD.size + key_length
    if zlib.crc32(body, length) != crc or kind not in KINDS or key_end + padding > len(body):
        raise SegmentFormatError(f"catalog record at {offset} is damaged: its checksum is wrong")
    key, tail = bytes(body[_HEAD.size : key_end]), bytes(body[key_end : len(body) - padding])
    return CatalogRecord(kind, key, parent, slot, count, created, tail, rank, hash_), offset + length


def has_key(data: memoryview, offset: int, end: int, key: bytes) -> bool:
    """Return whether the record at `offset`, unchecked but within bounds, has this key."""
    start = offset + HEAD_BYTES
    if offset % ALIGN or start > end:
        return False
    (length,) = KEY_LENGTH.unpack_from(data, offset + KEY_LENGTH_OFFSET)
    return bool(length == len(key) and start + length <= end and data[start : start + length] == key)


def hash_at(data: memoryview, offset: int, end: int) -> int:
    """Return the hash in the record at `offset`, unchecked but within bounds; 0, which no key has, out of bounds."""
    if offset % ALIGN or offset + HEAD_BYTES > end:
        return 0
    return int(_HASH.unpack_from(data, offset + HASH_OFFSET)[0])


# -- keys --------------------------------------------------------------------------------------------------------------


def family_key(family: Family) -> bytes:
    """Return the key of a definition: everything in it but the documentation."""
    fields = [family.name, family.type, family.unit, family.mode, list(family.bounds), list(family.states)]
    return b"F" + json.dumps(fields, separators=(",", ":")).encode()


def family_of(record: CatalogRecord) -> Family:
    """Return the definition in a FAMILY record."""
    try:
        name, type_, unit, mode, bounds, states = json.loads(record.key[1:])
        return Family(name, type_, record.tail.decode(), unit, tuple(bounds), mode, tuple(states))
    except (ValueError, TypeError) as error:
        raise SegmentFormatError(f"family record cannot be read: {error}") from error


def name_of(record: CatalogRecord) -> str:
    """Return the name in a FAMILY record; empty when it cannot be read."""
    try:
        return family_of(record).name
    except SegmentFormatError:
        return ""


def series_key(family_id: int, labels: LabelPairs, payload: LabelPairs = ()) -> bytes:
    """Return the key of a series; `payload` holds an info's own pairs beside its labels."""
    try:
        text = b"\xff".join([part.encode() for pair in labels for part in pair])
        if payload:
            text += b"\xfe" + b"\xff".join([part.encode() for pair in payload for part in pair])
    except UnicodeEncodeError as error:
        raise InvalidMetricError(
            f"label {error.object!r} holds a lone surrogate and cannot be UTF-8; decode it first"
        ) from None
    return b"S" + family_id.to_bytes(8, "little") + text


def labels_of(record: CatalogRecord) -> tuple[LabelPairs, LabelPairs]:
    """Return the labels and the payload in a SERIES record."""
    labels, _, payload = record.key[9:].partition(b"\xfe")
    return _pairs(labels), _pairs(payload)


def _pairs(text: bytes) -> LabelPairs:
    if not text:
        return ()
    parts = [part.decode() for part in text.split(b"\xff")]
    return tuple(zip(parts[::2], parts[1::2], strict=True))
