"""The wire format: what was published comes back, and nothing is ever read from damage or lies."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shm_metrics.cluster.codec import wire
from shm_metrics.cluster.codec.table_format import pack_table, unpack_table
from shm_metrics.cluster.merge.fold import fold, forget
from shm_metrics.cluster.model.blob import Blob, Part, Retired
from shm_metrics.cluster.model.tables import Rows, Table
from shm_metrics.errors import SyncError, WireFormatError
from shm_metrics.model.families import COUNTER, Family, SeriesLabels
from tests.support.blobs import (
    A,
    B,
    blob,
    counter,
    forged,
    gauge,
    histogram,
    info,
    plain,
    sent,
    stateset,
)


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch):
    monkeypatch.setattr(wire, "_tables", {})


def ordinary() -> Blob:
    return blob(
        counter(more={"a": 5.0, "b": 1e6}, documentation="Jobs done."),
        gauge("all", 2.5, labels=(("pid", "12"),)),
        histogram([3, 4], 5.5),
        info(3.0, version="1.2"),
        stateset(1.0, 4.0),
    )


def test_a_record_without_anything_comes_back():
    assert sent(blob()).families() == []
    assert wire.decode_retired(wire.encode_retired(Retired())).folded == {}


def test_nothing_but_bytes_that_can_be_read_in_any_language():
    frame = wire.encode(blob(counter(value=5.0), host="web"))
    assert frame[:6] == b"SHMW\x01\x01"
    assert struct.unpack_from("<HI", frame, 6) == (1, len(frame))
    assert struct.unpack_from("<16sQQdddII", frame, 16) == (bytes.fromhex(A), 1, 3, 500.0, 1000.0, 15.0, 7, 3)
    at = 16 + 64
    assert frame[at : at + 3] == b"web"
    digest, raw, packed, value_bytes, value_packed = struct.unpack_from("<16sIIII", frame, at + 3)
    table = zlib.decompress(frame[at + 35 : at + 35 + packed])
    assert len(table) == raw
    assert digest == blake2b(table, digest_size=16).digest()
    shuffled = zlib.decompress(frame[at + 35 + packed :])
    assert len(frame) == at + 35 + packed + value_packed
    assert value_bytes == 8
    assert shuffled == struct.pack("<d", 5.0)
    texts = b"jobs\xff\xff"
    assert table == b"".join(
        [
            struct.pack("<II", 2, len(texts)) + texts,
            struct.pack("<I", 1),
            struct.pack("<BBHIII", 0, 0, 0, 0, 1, 1),
            struct.pack("<III", 0, 0, 1),
            struct.pack("<II", 1, 0),
        ]
    )


def test_the_record_says_whom_it_holds_and_up_to_whom_it_has_forgotten():
    retired = fold(fold(None, blob(counter(value=5.0), sequence=9), None, 1.5), blob(instance=B), None, 2.5, token=4)
    frame = wire.encode_retired(forget(retired, 2.0))
    assert frame[:6] == b"SHMW\x01\x02"
    assert struct.unpack_from("<QQQI", frame, 16) == (3, 4, 9, 1)
    assert struct.unpack_from("<16sQd", frame, 16 + 28) == (bytes.fromhex(B), 1, 2.5)


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["blob", "retired"])
def test_every_flipped_bit_is_noticed(kind):
    frame = wire.encode(ordinary()) if kind == "blob" else wire.encode_retired(fold(None, ordinary(), None, 2.0))
    read = wire.decode if kind == "blob" else wire.decode_retired
    read(frame)
    for at in range(len(frame)):
        for bit in range(8):
            damaged = bytearray(frame)
            damaged[at] ^= 1 << bit
            with pytest.raises(WireFormatError):
                read(bytes(damaged))


@pytest.mark.parametrize("kind", ["blob", "retired"])
def test_every_truncation_is_noticed(kind):
    frame = wire.encode(ordinary()) if kind == "blob" else wire.encode_retired(fold(None, ordinary(), None, 2.0))
    read = wire.decode if kind == "blob" else wire.decode_retired
    for end in range(len(frame)):
        with pytest.raises(WireFormatError):
            read(frame[:end])
        with pytest.raises(WireFormatError):
            read(memoryview(frame)[:end])
        with pytest.raises(WireFormatError):  # also when what is left says that it is all
            read(forged(frame[:8] + end.to_bytes(4, "little") + frame[12:end]))
    for more in (b"\0", frame):
        with pytest.raises(WireFormatError):
            read(frame + more)


@given(st.binary(max_size=200))
@example(b"")
@example(b"SHMW")
def test_bytes_that_were_never_published_are_an_error_and_nothing_worse(data):
    for noise in (data, b"SHMW" + data, b"SHMW\x01\x01" + data, forged(b"SHMW\x01\x01" + data)):
        with pytest.raises(WireFormatError):
            wire.decode(noise)
        with pytest.raises(WireFormatError):
            wire.decode_retired(noise)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_named(version):
    frame = bytearray(wire.encode(ordinary()))
    frame[4] = version
    for told in (bytes(frame), forged(bytes(frame))):
        with pytest.raises(WireFormatError, match=f"wire format {version}"):
            wire.decode(told)


def test_a_blob_is_no_retired_record_and_the_other_way_round():
    with pytest.raises(WireFormatError, match="kind 2"):
        wire.decode(wire.encode_retired(Retired()))
    with pytest.raises(WireFormatError, match="kind 1"):
        wire.decode_retired(wire.encode(ordinary()))


def test_all_its_errors_are_sync_errors():
    assert issubclass(WireFormatError, SyncError)


# -- lies: the checksum fits, what it covers does not ------------------------------------------------------------------


def part_frame(raw: bytes, table: bytes, raw_size: int, value_bytes: int, values: bytes) -> bytes:
    """A frame with one part of these bytes and sizes, all checksums right."""
    head = struct.pack("<16sQQdddII", b"i" * 16, 1, 1, 1.0, 1.0, 1.0, 1, 0)
    digest = blake2b(raw, digest_size=16).digest()
    body = head + struct.pack("<16sIIII", digest, raw_size, len(table), value_bytes, len(values)) + table + values
    return forged(struct.pack("<4sBBHII", b"SHMW", 1, 1, 1, 16 + len(body), 0) + body)


def test_a_decompression_bomb_takes_no_more_memory_than_it_says():
    bomb = zlib.compress(bytes(64 << 20), 9)
    raw = pack_table(Table((Rows(Family("jobs", COUNTER), SeriesLabels([()])),)))
    good = zlib.compress(raw)
    lies = [
        part_frame(b"", bomb, 0, 8, b""),
        part_frame(b"", bomb, 1000, 8, b""),
        part_frame(b"", bomb, (1 << 32) - 1, 8, b""),
        part_frame(b"", bomb[:1000], 1 << 20, 8, b""),
        part_frame(b"", b"", 1 << 26, 8, b""),
        part_frame(raw, good, len(raw), 8, bomb),
        part_frame(raw, good, len(raw), 1 << 30, bomb),
        part_frame(raw, good + b"more", len(raw), 8, zlib.compress(bytes(8))),
        part_frame(raw, good, len(raw), 8, zlib.compress(bytes(8)) + b"more"),
        part_frame(raw, good, len(raw), 8, zlib.compress(bytes(7))),
        part_frame(raw, good, len(raw) + 1, 8, zlib.compress(bytes(8))),
        part_frame(raw + b"other", good, len(raw), 8, zlib.compress(bytes(8))),
    ]
    assert wire.decode(part_frame(raw, good, len(raw), 8, zlib.compress(bytes(8)))).series == 1
    tracemalloc.start()
    try:
        for lie in lies:
            wire._tables.clear()
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            with pytest.raises(WireFormatError):
                wire.decode(lie)
            assert tracemalloc.get_traced_memory()[1] - before < 2 << 20
    finally:
        tracemalloc.stop()


def test_a_table_that_claims_more_than_it_holds_takes_no_memory():
    texts = struct.pack("<II", 1, 2) + b"a\xff"
    family = struct.pack("<BBHIII", 0, 0, 0, 0, 0, 0)
    huge = (1 << 32) - 1
    lies = [
        struct.pack("<II", huge, 0),
        struct.pack("<II", 0, huge),
        texts + struct.pack("<I", huge),
        texts + struct.pack("<I", 1) + family + struct.pack("<I", huge),
        texts + struct.pack("<I", 1) + family + struct.pack("<II", 0, huge),
        texts + struct.pack("<I", 1) + family + struct.pack("<IIIII", 0, 0, huge, huge, 0),
        texts + struct.pack("<I", 1) + family + struct.pack("<IIIIII", 0, 0, huge, huge, 1, 0),
        texts + struct.pack("<I", 1) + family + struct.pack("<IIIII", 0, 0, huge, 0, 0),
    ]
    tracemalloc.start()
    try:
        for lie in lies:
            with pytest.raises(WireFormatError):
                unpack_table(lie)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["", "a b", "a\nb 1", "1a", "é"])
def test_a_name_that_no_metric_can_have_is_refused(name):
    table = Table((Rows(Family(name, COUNTER), SeriesLabels([()])),))
    with pytest.raises(WireFormatError):
        unpack_table(pack_table(table))
    labelled = Table((Rows(Family("jobs", COUNTER), SeriesLabels([((name, "x"),)])),))
    with pytest.raises(WireFormatError):
        unpack_table(pack_table(labelled))


@pytest.mark.parametrize(
    "family",
    [
        Family("a", "histogram"),
        Family("a", "histogram", bounds=(1.0,)),
        Family("a", "histogram", bounds=(2.0, 1.0, float("inf"))),
        Family("a", "histogram", bounds=(float("nan"), float("inf"))),
        Family("a", "counter", bounds=(float("inf"),)),
        Family("a", "counter", mode="sum"),
        Family("a", "gauge"),
        Family("a", "stateset"),
        Family("a", "counter", states=("on",)),
    ],
)
def test_a_definition_that_no_family_can_have_is_refused(family):
    with pytest.raises(WireFormatError):
        unpack_table(pack_table(Table((Rows(family, SeriesLabels([()])),))))


@pytest.mark.parametrize(
    "families",
    [
        [Rows(Family("a", COUNTER), SeriesLabels([(), ()]))],
        [Rows(Family("a", COUNTER), SeriesLabels([(("x", "1"),), (("x", "2"),), (("x", "1"),)]))],
        [Rows(Family("a", COUNTER), SeriesLabels([()])), Rows(Family("a", COUNTER, "other"), SeriesLabels())],
        [Rows(Family("a", "info"), SeriesLabels([(("v", "1"),), (("v", "2"),)]), ((), ()))],
    ],
    ids=["unlabelled", "labelled", "families", "infos"],
)
def test_nothing_is_there_twice(families):
    with pytest.raises(WireFormatError):
        unpack_table(pack_table(Table(tuple(families))))


# -- tables are kept ---------------------------------------------------------------------------------------------------


def test_instances_with_the_same_series_share_one_table_whatever_order_they_made_them_in():
    one = sent(blob(counter(more={"a": 1.0, "b": 2.0}), gauge("max", 3.0)))
    other = sent(blob(gauge("max", 4.0), counter(more={"b": 5.0, "a": 6.0}), instance=B))
    assert one.parts[0].table is other.parts[0].table
    assert (
        plain(other.families())["jobs"][1:3] == plain(blob(counter(more={"a": 6.0, "b": 5.0})).families())["jobs"][1:3]
    )


def test_what_is_an_instances_own_does_not_part_the_tables_of_the_rest():
    made = [sent(blob(counter(value=1.0), gauge("all", 1.0, labels=(("pid", pid),)))) for pid in "12"]
    assert made[0].parts[0].table is made[1].parts[0].table
    assert made[0].parts[1].table is not made[1].parts[1].table


def test_the_kept_tables_are_bounded(monkeypatch):
    monkeypatch.setattr(wire, "KEPT_SERIES", 10)
    for n in range(1, 30):
        sent(blob(counter(f"jobs{n}", more={"a": 1.0, "b": 1.0, "c": 1.0})))
        assert sum(table.series for table in wire._tables.values()) <= 10
    assert len(wire._tables) == 3
    sent(blob(counter("large", more={str(n): 1.0 for n in range(99)})))
    assert len(wire._tables) == 1


# -- limits ------------------------------------------------------------------------------------------------------------


def test_what_no_reader_would_take_is_not_published(monkeypatch):
    table = Table((Rows(Family("jobs", COUNTER), SeriesLabels([()])),))
    large = blob(counter(value=1.0))
    monkeypatch.setattr(wire, "MAX_VALUE_BYTES", 7)
    with pytest.raises(WireFormatError, match="at most 7"):
        wire.encode(large)
    monkeypatch.setattr(wire, "MAX_TABLE_BYTES", 7)
    with pytest.raises(WireFormatError, match="at most 7"):
        wire.encode_retired(Retired(part=Part(table, np.zeros(1), np.empty(0), np.zeros(1))))
