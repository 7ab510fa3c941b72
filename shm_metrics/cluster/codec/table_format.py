"""Table -> bytes and back, as docs/wire.md draws them.

All numbers are little-endian. Texts are written once each, and named by their place in the list.

    u32 texts | u32 bytes | the texts in UTF-8, each followed by 0xFF, which UTF-8 never contains
    u32 families | each family:
        u8 type | u8 mode | u16 0 | u32 name | u32 documentation | u32 unit
        u32 bounds | f64 each          u32 states | u32 each
        u32 series | label sets        an info: the label sets once more, without what it says
    label sets: runs of series with the same label names, one after another until there is one for each series
        u32 series | u32 names | u32 each name | u32 values: those of the first name, then those of the second, ...
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from operator import lt
from typing import Any

import numpy as np

from shm_metrics.cluster.model.tables import Rows, Table, definition
from shm_metrics.errors import InvalidMetricError, WireFormatError
from shm_metrics.model.families import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    INFO,
    STATESET,
    SUMMARY,
    Family,
    LabelPairs,
    SeriesLabels,
)
from shm_metrics.model.gauge_modes import MODES
from shm_metrics.model.labels import check_label_names, check_metric_name

__all__ = ["pack_table", "unpack_table"]

# Their places are what is written: add at the end only.
TYPES = (COUNTER, GAUGE, HISTOGRAM, SUMMARY, INFO, STATESET)
MODE_NAMES = ("", *MODES)

_U32 = struct.Struct("<I")
_FAMILY = struct.Struct("<BBHIII")
_ARRAY = np.dtype("<u4")
_FLOATS = np.dtype("<f8")
_END = b"\xff"


def pack_table(table: Table) -> bytes:
    """Return the table's bytes."""
    texts: dict[str, int] = {}
    body = [_U32.pack(len(table.families))]
    for rows in table.families:
        family = rows.family
        body.append(
            _FAMILY.pack(
                TYPES.index(family.type),
                MODE_NAMES.index(family.mode),
                0,
                *(_place(texts, text) for text in (family.name, family.documentation, family.unit)),
            )
        )
        body.append(_U32.pack(len(family.bounds)) + np.array(family.bounds, _FLOATS).tobytes())
        body.append(_U32.pack(len(family.states)) + _places(texts, family.states))
        body.append(_U32.pack(len(rows.labels)))
        body += _pack_sets(texts, rows.labels)
        if rows.keys is not None:
            body += _pack_sets(texts, rows.keys)
    encoded = b"".join([text.encode() + _END for text in texts])
    return b"".join([_U32.pack(len(texts)), _U32.pack(len(encoded)), encoded, *body])


def _place(texts: dict[str, int], text: str) -> int:
    return texts.setdefault(text, len(texts))


def _places(texts: dict[str, int], listed: Sequence[str]) -> bytes:
    return np.array([_place(texts, text) for text in listed], _ARRAY).tobytes()


def _pack_sets(texts: dict[str, int], sets: Sequence[LabelPairs]) -> Iterator[bytes]:
    for names, group in groupby(sets, key=_names):
        run = list(group)
        yield struct.pack("<II", len(run), len(names)) + _places(texts, names)
        for column in zip(*run, strict=True):
            yield _places(texts, [value for _, value in column])


def _names(pairs: LabelPairs) -> tuple[str, ...]:
    return tuple([name for name, _ in pairs])


def unpack_table(data: bytes, known: dict[LabelPairs, LabelPairs] | None = None) -> tuple[Rows, ...]:
    """Return the families in a table's bytes. Raise WireFormatError.

    known: label sets of other tables, whose objects are reused; the label sets of this table are added.
    """
    try:
        found = tuple(_Unpacking(data, {} if known is None else known).families())
        _check_unique("families", [definition(rows.family) for rows in found])
        return found
    except (struct.error, IndexError, KeyError, ValueError, InvalidMetricError) as error:
        raise WireFormatError(f"series table of {len(data)} bytes cannot be read: {error}") from error


def _check_unique(what: str, found: Sequence[Any]) -> None:
    """Raise ValueError for duplicates. Fast for ascending order, which publishers use."""
    if not all(map(lt, found, islice(found, 1, None))) and len(set(found)) < len(found):
        raise ValueError(f"{what}: one comes twice")


class _Unpacking:
    """A walk over the bytes of a table. Every length is checked against the remaining bytes before it is used."""

    def __init__(self, data: bytes, known: dict[LabelPairs, LabelPairs]) -> None:
        self._data = data
        self._same = known.setdefault
        self._at = 0

    def families(self) -> Iterator[Rows]:
        self._texts = self._read_texts()
        for _ in range(self._count(_FAMILY.size)):
            yield self._rows()
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes follow its end")

    def _read_texts(self) -> list[str]:
        count, size = self._number(), self._number()
        texts = self._take(size).split(_END)
        if len(texts) != count + 1 or texts.pop():
            raise ValueError(f"it holds other than the {count} texts it says")
        return [text.decode() for text in texts]

    def _rows(self) -> Rows:
        type_, mode, zero, *texts = _FAMILY.unpack(self._take(_FAMILY.size))
        name, documentation, unit = self._named(texts)
        bounds = np.frombuffer(self._take(8 * self._count(8)), _FLOATS)
        states = self._named(self._array(self._count(4)))
        family = Family(
            check_metric_name(name),
            TYPES[type_],
            documentation,
            unit,
            tuple(bounds.tolist()),
            MODE_NAMES[mode],
            tuple(states),
        )
        if zero or bool(family.mode) != (family.type == GAUGE) or bool(states) != (family.type == STATESET):
            raise ValueError(f"{name}: mode {family.mode!r} and states {states!r} do not go with a {family.type}")
        ascending = not len(bounds) or (bool((bounds[1:] > bounds[:-1]).all()) and bounds[-1] == np.inf)
        if bool(len(bounds)) != (family.type == HISTOGRAM) or not ascending:
            raise ValueError(f"{name}: bounds {family.bounds} do not go with a {family.type}")
        series = self._number()
        labels = self._sets(series)
        keys = self._sets(series) if family.type == INFO else None
        _check_unique(name, labels if keys is None else keys)
        return Rows(family, SeriesLabels(labels), None if keys is None else tuple(keys))

    def _sets(self, series: int) -> list[LabelPairs]:
        found: list[LabelPairs] = []
        while len(found) < series:
            run = self._number()
            names = check_label_names(self._named(self._array(self._count(4))))
            if not run or run > series - len(found) or (run > 1 and not names):
                raise ValueError(f"a run of {run} series with labels {names!r} among {series}")
            if not names:
                found.append(())
                continue
            columns = []
            for name in names:
                values = self._array(run)
                # Each pair is made once, however many series have it.
                pairs = {value: (name, self._texts[value]) for value in set(values)}
                columns.append([pairs[value] for value in values])
            found += [self._same(pairs, pairs) for pairs in zip(*columns, strict=True)]
        return found

    def _named(self, places: list[int]) -> list[str]:
        return [self._texts[place] for place in places]

    def _number(self) -> int:
        return int(_U32.unpack(self._take(_U32.size))[0])

    def _count(self, least: int) -> int:
        """Read the number of items that follow, of at least `least` bytes each."""
        count = self._number()
        if count * least > len(self._data) - self._at:
            raise ValueError(f"{count} of {least} bytes in the {len(self._data) - self._at} that are left")
        return count

    def _array(self, count: int) -> list[int]:
        found: list[int] = np.frombuffer(self._take(4 * count), _ARRAY).tolist()
        return found

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise ValueError(f"{size} bytes in the {len(self._data) - self._at} that are left")
        start = self._at
        self._at += size
        return self._data[start : self._at]
