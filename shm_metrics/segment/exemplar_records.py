"""Exemplars: their validity, and the bytes of an entry in a row's exemplar table.

The rules are OpenMetrics' (1.0, section Exemplars): names and values have at most 128 characters together. A name may
be any text that does not begin with two underscores, as in prometheus_client; a page shows an underscore for each
character that its format does not know.

In an entry the labels are joined with 0xFF, which UTF-8 never contains. The longest possible text is 128 names of one
character of four bytes with no values: 767 bytes, which fit into an entry.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from shm_metrics.errors import InvalidMetricError, SegmentFormatError
from shm_metrics.model.families import Exemplar
from shm_metrics.model.labels import label_text
from shm_metrics.segment import layout as L

__all__ = ["MAX_CHARACTERS", "Entry", "exemplar_text", "pack_entry", "unpack_entry"]

MAX_CHARACTERS = 128

_NUMBERS = struct.Struct("<QdddI")  # slot, value, timestamp, stamp, text length
_CHECKSUM = struct.Struct("<I")
BODY_OFFSET = L.EXEMPLAR_SLOT_OFFSET
assert BODY_OFFSET + _NUMBERS.size == L.EXEMPLAR_CHECKSUM_OFFSET
assert L.EXEMPLAR_TEXT_BYTES >= 4 * MAX_CHARACTERS + 2 * MAX_CHARACTERS - 1
assert L.PAGE % L.EXEMPLAR_BYTES == 0


class Entry(NamedTuple):
    """One exemplar in a table. slot: of the counter or bucket. stamp: CLOCK_MONOTONIC seconds when it was written."""

    slot: int
    stamp: float
    exemplar: Exemplar


def exemplar_text(labels: object, name: str = "") -> bytes:
    """Return the labels of an exemplar as the text of an entry. Raise InvalidMetricError, naming the metric `name`."""
    if not isinstance(labels, Mapping):
        raise InvalidMetricError(f"{name}: exemplar {labels!r}: give a mapping of label names to text")
    parts: list[str] = []
    for label, value in labels.items():
        if not isinstance(label, str) or not label or label.startswith("__"):
            raise InvalidMetricError(
                f"{name}: exemplar label name {label!r}: give text that does not begin with two underscores"
            )
        if value is None:
            raise InvalidMetricError(f"{name}: exemplar label {label!r} is None; give text, or no exemplar")
        parts += (label_text(label, label), label_text(value, label))
    characters = sum(map(len, parts))
    if characters > MAX_CHARACTERS:
        raise InvalidMetricError(
            f"{name}: exemplar of {characters} characters, names and values together; "
            f"OpenMetrics allows {MAX_CHARACTERS}"
        )
    return b"\xff".join([part.encode() for part in parts])


def pack_entry(slot: int, value: float, timestamp: float, stamp: float, text: bytes) -> bytes:
    """Return an entry from BODY_OFFSET on. timestamp: Unix seconds; text: as exemplar_text makes it."""
    numbers = _NUMBERS.pack(slot, value, timestamp, stamp, len(text))
    return b"".join((numbers, _CHECKSUM.pack(zlib.crc32(text, zlib.crc32(numbers))), text))


def unpack_entry(data: bytes | memoryview) -> Entry:
    """Return the entry in these EXEMPLAR_BYTES. Raise SegmentFormatError when they are damaged."""
    slot, value, timestamp, stamp, length = _NUMBERS.unpack_from(data, BODY_OFFSET)
    (checksum,) = _CHECKSUM.unpack_from(data, L.EXEMPLAR_CHECKSUM_OFFSET)
    text = bytes(data[L.EXEMPLAR_TEXT_OFFSET : L.EXEMPLAR_TEXT_OFFSET + min(length, L.EXEMPLAR_TEXT_BYTES)])
    if checksum != zlib.crc32(text, zlib.crc32(data[BODY_OFFSET : L.EXEMPLAR_CHECKSUM_OFFSET])):
        raise SegmentFormatError("exemplar: its checksum is wrong")
    try:
        parts = [part.decode() for part in text.split(b"\xff")] if text else []
        labels = dict(zip(parts[::2], parts[1::2], strict=True))
    except ValueError as error:
        raise SegmentFormatError(f"exemplar: its labels cannot be read: {error}") from None
    return Entry(slot, stamp, Exemplar(labels, value, timestamp))
