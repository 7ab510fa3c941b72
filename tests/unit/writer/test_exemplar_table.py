"""A row's exemplar table: one entry a slot, the oldest given up when it is full, nothing lost with its owner.

And what scrapes make of the tables of all rows.
"""

from __future__ import annotations

import os
import struct

import pytest

from shm_metrics.errors import SegmentFullError
from shm_metrics.reader import exemplar_reader
from shm_metrics.reader.exemplar_reader import ExemplarScan
from shm_metrics.segment import layout as L
from shm_metrics.segment.exemplar_records import BODY_OFFSET, exemplar_text
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.segment import Segment
from shm_metrics.writer.exemplar_table import ExemplarTable

ROW = L.FIRST_WORKER_ROW


@pytest.fixture
def segment():
    made = Segment.private(Layout(4, 512))
    yield made
    made.close()


def keep(table: ExemplarTable, slot: int, stamp: float, trace: str = "") -> bool:
    return table.keep(slot, float(slot), 1e9 + stamp, stamp, exemplar_text({"trace": trace or f"{slot}-{stamp}"}))


def shown(segment: Segment, rows=(1, 2, 3, 4), scan: ExemplarScan | None = None) -> dict[int, str]:
    newest = (scan or ExemplarScan(segment)).newest(rows)
    return {slot: entry.exemplar.labels["trace"] for slot, entry in newest.items()}


def sequence_at(segment: Segment, row: int, entry: int) -> int:
    return segment.layout.exemplar_table(row) + entry * L.EXEMPLAR_BYTES


def with_memory(segment: Segment, row: int) -> int:
    return struct.unpack_from("<Q", segment.bytes, segment.layout.worker(row) + L.WORKER_EXEMPLARS_OFFSET)[0]


def test_the_newest_of_a_slot_is_kept_in_one_entry(segment):
    table = ExemplarTable(segment, ROW)
    for stamp in range(1, 50):
        assert keep(table, 20, float(stamp))
        assert keep(table, 21, float(stamp))
    assert shown(segment) == {20: "20-49.0", 21: "21-49.0"}
    assert with_memory(segment, ROW) == L.EXEMPLARS_PER_PAGE


def test_nothing_is_reserved_before_the_first_exemplar(segment):
    before = segment.allocated_bytes()
    table = ExemplarTable(segment, ROW)
    assert segment.allocated_bytes() == before
    keep(table, 20, 1.0)
    assert segment.allocated_bytes() == before + L.PAGE


def test_of_several_rows_the_newest_is_shown(segment):
    one, other = ExemplarTable(segment, 1), ExemplarTable(segment, 2)
    keep(one, 20, 1.0)
    keep(other, 20, 2.0)
    keep(one, 21, 4.0)
    keep(other, 21, 3.0)
    assert shown(segment) == {20: "20-2.0", 21: "21-4.0"}
    assert shown(segment, rows=[1]) == {20: "20-1.0", 21: "21-4.0"}


def test_a_full_table_gives_the_entry_written_longest_ago_to_the_newcomer(segment):
    table = ExemplarTable(segment, ROW)
    size = L.EXEMPLARS_PER_ROW
    for n in range(size):
        keep(table, 100 + n, float(n + 1))
    assert len(shown(segment)) == size == with_memory(segment, ROW)
    keep(table, 100, 1000.0)  # the oldest is new again
    for n in range(10):
        keep(table, 5000 + n, 2000.0 + n)
    found = shown(segment)
    assert len(found) == size
    assert set(found) == {100, *range(111, 100 + size), *range(5000, 5010)}


def test_the_next_owner_of_a_row_replaces_what_it_finds_entry_by_entry(segment):
    for owner in range(20):
        table = ExemplarTable(segment, ROW)
        for n in range(L.EXEMPLARS_PER_PAGE - 1):
            keep(table, 20 + n, owner * 10.0 + n + 1)
        table.revoke()
    assert with_memory(segment, ROW) == L.EXEMPLARS_PER_PAGE
    assert shown(segment) == {20: "20-191.0", 21: "21-192.0", 22: "22-193.0"}
    table = ExemplarTable(segment, ROW)
    keep(table, 30, 500.0)
    assert with_memory(segment, ROW) == L.EXEMPLARS_PER_PAGE, "the last entry of the page was free"
    keep(table, 31, 501.0)
    assert with_memory(segment, ROW) == 2 * L.EXEMPLARS_PER_PAGE


def test_the_next_owner_of_a_full_table_gives_up_the_oldest_first(segment):
    table = ExemplarTable(segment, ROW)
    for n in range(L.EXEMPLARS_PER_ROW):
        keep(table, 1000 + n, 1000.0 - n)
    heir = ExemplarTable(segment, ROW)
    keep(heir, 20, 2000.0)
    assert 1000 + L.EXEMPLARS_PER_ROW - 1 not in shown(segment)
    assert 1000 in shown(segment)


def test_an_entry_whose_writer_was_killed_in_the_middle_is_not_shown_and_used_again(segment):
    table = ExemplarTable(segment, ROW)
    for n in range(L.EXEMPLARS_PER_PAGE):
        keep(table, 20 + n, 1.0)
    segment.bytes[sequence_at(segment, ROW, 1)] |= 1
    segment.bytes[sequence_at(segment, ROW, 1) + BODY_OFFSET + 3] ^= 0xFF
    scan = ExemplarScan(segment)
    assert shown(segment, scan=scan) == {20: "20-1.0", 22: "22-1.0", 23: "23-1.0"}
    assert scan.damaged == 0
    heir = ExemplarTable(segment, ROW)
    keep(heir, 40, 2.0)
    assert shown(segment, scan=scan)[40] == "40-2.0"
    assert with_memory(segment, ROW) == L.EXEMPLARS_PER_PAGE


def test_a_damaged_entry_is_skipped_and_counted_until_it_is_written_again(segment):
    table = ExemplarTable(segment, ROW)
    for n in range(3):
        keep(table, 20 + n, 1.0)
    scan = ExemplarScan(segment)
    assert len(shown(segment, scan=scan)) == 3
    at = sequence_at(segment, ROW, 1)
    segment.bytes[at + L.EXEMPLAR_TEXT_OFFSET] ^= 0xFF
    segment.bytes[at] += 2
    for _ in range(3):
        assert shown(segment, scan=scan) == {20: "20-1.0", 22: "22-1.0"}
        assert scan.damaged == 1
    keep(table, 21, 5.0)
    assert shown(segment, scan=scan)[21] == "21-5.0"
    assert scan.damaged == 0


@pytest.mark.parametrize("number", [1, 2**64 - 1])
def test_a_damaged_number_of_entries_does_no_harm(segment, number):
    table = ExemplarTable(segment, ROW)
    keep(table, 20, 1.0)
    at = segment.layout.worker(ROW) + L.WORKER_EXEMPLARS_OFFSET
    struct.pack_into("<Q", segment.bytes, at, number)
    assert shown(segment) == {20: "20-1.0"}
    heir = ExemplarTable(segment, ROW)
    assert keep(heir, 21, 2.0)
    assert shown(segment)[21] == "21-2.0"


@pytest.mark.parametrize("sequence", [2**64 - 1, 2**64 - 2, 2**64 - 3])
def test_a_sequence_at_its_end_wraps(segment, sequence):
    table = ExemplarTable(segment, ROW)
    keep(table, 20, 1.0)
    struct.pack_into("<Q", segment.bytes, sequence_at(segment, ROW, 0), sequence)
    keep(table, 20, 2.0)
    keep(table, 20, 3.0)
    assert shown(segment) == {20: "20-3.0"}


def test_a_scan_parses_only_what_changed(segment, monkeypatch):
    parsed = []
    unpack = exemplar_reader.unpack_entry
    monkeypatch.setattr(exemplar_reader, "unpack_entry", lambda data: parsed.append(1) or unpack(data))
    table, scan = ExemplarTable(segment, ROW), ExemplarScan(segment)
    for n in range(100):
        keep(table, 20 + n, 1.0)
    first = scan.newest([ROW])
    assert len(parsed) == 100
    assert scan.newest([ROW]) is first
    keep(table, 33, 2.0)
    assert scan.newest([ROW])[33].stamp == 2.0
    assert len(parsed) == 101


def test_a_full_file_system_is_an_error_once_all_entries_with_memory_are_taken(segment, monkeypatch):
    table = ExemplarTable(segment, ROW)
    keep(table, 20, 1.0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for n in range(1, L.EXEMPLARS_PER_PAGE):
        assert keep(table, 20 + n, 1.0)
    with pytest.raises(SegmentFullError):
        keep(table, 50, 2.0)
    assert keep(table, 20, 3.0), "what has an entry goes on"
    assert shown(segment)[20] == "20-3.0"
    monkeypatch.undo()
    assert keep(table, 50, 4.0)


def test_a_table_that_was_revoked_writes_nothing_also_in_the_middle(segment):
    table = ExemplarTable(segment, ROW)
    keep(table, 20, 1.0)
    before = bytes(segment.bytes[segment.layout.exemplars : segment.layout.exemplars + L.PAGE])

    class Text(bytes):
        def __len__(self) -> int:
            table.revoke()
            return super().__len__()

    assert table.keep(20, 1.0, 1.0, 2.0, Text(exemplar_text({"trace": "late"}))) is False
    assert keep(table, 20, 3.0) is False
    assert bytes(segment.bytes[segment.layout.exemplars : segment.layout.exemplars + L.PAGE]) == before


def test_what_comes_in_on_top_of_itself_is_left_out(segment):
    table = ExemplarTable(segment, ROW)
    said = []

    class Text(bytes):
        def __len__(self) -> int:
            if not said:
                said.append(keep(table, 21, 9.0))
            return super().__len__()

    # packed before the table is entered, the text is looked at again while it is inside
    assert table.keep(20, 1.0, 1.0, 2.0, Text(exemplar_text({"trace": "outer"})))
    assert said == [False]
    assert shown(segment) == {20: "outer"}
