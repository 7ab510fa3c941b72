"""The drawing of a segment: regions in order, sums without overlap, a hash that moves with them."""

from __future__ import annotations

import copy
import itertools
import re
import struct
import sys
import types
import zlib
from pathlib import Path
from unittest import mock

import pytest

from shm_metrics.errors import InvalidMetricError, SegmentFormatError
from shm_metrics.segment import layout as L
from shm_metrics.segment.layout import Header, Layout, parse_header

NO_CODES = (
    "SLOT_OVERFLOWED_UPDATES",
    "SLOT_DROPPED_EXEMPLARS",
    "SLOT_GENERATION_OFFSET",
    "SLOT_OWNER_OFFSET",
    "SLOT_CREATED_OFFSET",
    "SLOT_BORN_OFFSET",
    "SLOT_ENTRY_BYTES",
)
SHAPES = [(1, 1), (1, 512), (7, 513), (256, 131_072), (4096, 8_000), (3, 1 << 20)]


def a_header(layout: Layout) -> Header:
    return Header(layout, bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 48)), 1_700_000_000.5)


def packed(header: Header, **patches: bytes) -> bytes:
    """The header's bytes, padded to where parse_header wants them, with some replaced and the checksum put right."""
    data = bytearray(header.pack().ljust(L.HEADER_END, b"\0"))
    for name, value in patches.items():
        at = getattr(L, name)
        data[at : at + len(value)] = value
    if "CHECKSUM_OFFSET" not in patches:
        struct.pack_into("<Q", data, L.CHECKSUM_OFFSET, zlib.crc32(data[: L.CHECKSUM_OFFSET]))
    return bytes(data)


@pytest.mark.parametrize(("rows", "slots"), SHAPES)
def test_the_regions_follow_each_other_without_overlap(rows, slots):
    layout = Layout(rows, slots)
    regions = [
        (0, L.HEADER_BYTES),
        (layout.worker_table, layout.matrix_rows * L.WORKER_BYTES),
        (layout.family_use, layout.matrix_rows * L.FAMILY_USE_BYTES),
        (layout.page_map, layout.matrix_rows * layout.pages_per_row),
        (layout.slot_map, layout.slots),
        (layout.slot_table, layout.slots * L.SLOT_ENTRY_BYTES),
        (layout.removals, L.REMOVALS * L.WORD),
        (layout.index, layout.index_entries * L.INDEX_ENTRY_BYTES),
        (layout.catalog, 2 * layout.catalog_bytes),
        (layout.matrix, layout.matrix_rows * layout.row_bytes),
        (layout.exemplars, layout.matrix_rows * L.EXEMPLARS_PER_ROW * L.EXEMPLAR_BYTES),
    ]
    for (start, size), (following, _) in itertools.pairwise(regions):
        assert start + size <= following < start + size + L.PAGE
    assert layout.total == layout.exemplar_table(layout.matrix_rows)


@pytest.mark.parametrize(("rows", "slots"), SHAPES)
def test_every_region_but_the_workers_begins_on_a_page_of_its_own(rows, slots):
    layout = Layout(rows, slots)
    for region in (
        layout.family_use,
        layout.page_map,
        layout.slot_map,
        layout.slot_table,
        layout.removals,
        layout.index,
        layout.catalog,
        layout.catalog + layout.catalog_bytes,
        layout.matrix,
        layout.exemplars,
    ):
        assert region % L.PAGE == 0
    assert layout.row_bytes % L.PAGE == 0, "two workers must not share a page"


@pytest.mark.parametrize(("rows", "slots"), SHAPES)
def test_the_index_is_a_power_of_two_and_half_empty_with_a_record_in_every_slot(rows, slots):
    entries = Layout(rows, slots).index_entries
    assert entries & (entries - 1) == 0
    assert entries >= 2 * slots


def test_slots_are_rounded_up_to_whole_pages():
    assert Layout(4, 1).slots == L.SLOTS_PER_PAGE
    assert Layout(4, 513).slots == 2 * L.SLOTS_PER_PAGE


def test_the_header_words_end_within_their_page():
    assert L.HEADER_END <= L.HEADER_BYTES


def test_no_two_locks_share_a_byte():
    single = [L.LOCK_CREATION, L.LOCK_CATALOG, L.LOCK_LEADER, L.LOCK_PRESENCE, L.LOCK_LEDGER, L.LOCK_PUBLISHER]
    ranges = [(byte, byte + 1) for byte in single]
    ranges += [(L.LOCK_CLAIM, L.LOCK_CLAIM + L.MAX_ROWS), (L.LOCK_LIVE, L.LOCK_LIVE + L.MAX_ROWS)]
    ranges += [(L.LOCK_ROWLESS, L.LOCK_ROWLESS + L.ROWLESS_BYTES)]
    ranges.sort()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ranges))
    assert ranges[0][0] > Layout(L.MAX_ROWS - 2, 512).total or ranges[0][0] >= 1 << 40


def test_every_slot_code_is_a_code_of_its_own():
    codes = [value for name, value in vars(L).items() if name.startswith("SLOT_") and name not in NO_CODES]
    assert len(codes) == len(set(codes)) == 14
    assert all(not code & L.SLOT_REMOVED for code in codes if code != L.SLOT_REMOVED), "it stands beside each of them"


def test_the_words_of_a_slot_table_entry_lie_apart_and_no_slot_looks_like_a_reuse():
    assert L.SLOT_ENTRY_BYTES == 4 * L.WORD
    offsets = [L.SLOT_GENERATION_OFFSET, L.SLOT_OWNER_OFFSET, L.SLOT_CREATED_OFFSET, L.SLOT_BORN_OFFSET]
    assert offsets == sorted(set(offsets))
    assert all(offset % L.WORD == 0 for offset in offsets)
    assert Layout(1, 1 << 28).slots < L.REUSED, "the mark of a reuse is no part of a slot"


@pytest.mark.parametrize(
    ("rows", "slots", "named"),
    [(0, 1, "rows=0"), (L.MAX_ROWS, 1, "rows="), (1.5, 1, "rows=1.5"), (1, 0, "slots=0"), (1, "9", "slots='9'")],
)
def test_a_size_that_cannot_be_is_refused_by_name_and_value(rows, slots, named):
    with pytest.raises(InvalidMetricError, match=named):
        Layout(rows, slots)


NOT_OF_THE_BYTES = {
    "VERSION": "stands in the header itself",
    "LARGEST_WORD": "what a word of that size holds",
    "INDEX_ENTRIES_PER_KEY": "when the index grows: any load can be read",
    "DEFAULT_ROWS": "the sizes stand in the header",
    "DEFAULT_SLOTS": "the sizes stand in the header",
}
OF_THE_BYTES = sorted(
    name
    for name, value in vars(L).items()
    if name.isupper() and name[0] != "_" and isinstance(value, int | str) and name not in NOT_OF_THE_BYTES
)


def test_the_hash_moves_with_the_capacities():
    assert Layout(4, 512).hash() == Layout(4, 512).hash()
    assert len({Layout(4, 512).hash(), Layout(5, 512).hash(), Layout(4, 1024).hash()}) == 3


@pytest.mark.parametrize("name", OF_THE_BYTES)
def test_the_hash_moves_with_every_offset_size_and_code(name, monkeypatch):
    layout = Layout(4, 512)
    before, value = layout.hash(), getattr(L, name)
    monkeypatch.setattr(L, name, value + 1 if isinstance(value, int) else value + "Q")
    assert layout.hash() != before


def test_the_hash_moves_with_the_place_of_every_region():
    layout = Layout(4, 512)
    before = layout.hash()
    for region in layout.regions():
        moved = copy.copy(layout)
        for name, value in vars(layout).items():
            if value == region and name not in ("rows", "slots"):
                object.__setattr__(moved, name, value + 8)
        assert moved.hash() != before


def hash_of_source(*changes):
    """The hash of a small layout, by the module's source with (pattern, replacement) applied to it."""
    source = Path(L.__file__).read_text()
    for pattern, replacement in changes:
        source, count = re.subn(pattern, replacement, source)
        assert count, pattern
    module = types.ModuleType("changed_layout")
    with mock.patch.dict(sys.modules, {module.__name__: module}):  # where dataclasses look themselves up
        exec(compile(source, L.__file__, "exec"), vars(module))
    return module.Layout(4, 512).hash()


def test_the_hash_does_not_depend_on_names_or_defaults():
    before = Layout(4, 512).hash()
    assert hash_of_source((r"\bSLOT_DELTA\b", "GAUGE_DELTA"), (r"\bROLE_BYTES\b", "BYTES_OF_A_ROLE")) == before
    assert hash_of_source((r"\bDEFAULT_ROWS = \d+", "DEFAULT_ROWS = 8")) == before
    assert hash_of_source((r"\bDEFAULT_SLOTS = [\d_]+", "DEFAULT_SLOTS = 512")) == before
    assert hash_of_source((r"\bSLOT_DELTA = 12", "SLOT_DELTA = 13")) != before
    assert hash_of_source((r"\bROLE_BYTES = 64", "ROLE_BYTES = 72")) != before


def test_a_header_comes_back_as_it_was_packed():
    header = a_header(Layout(9, 1024))
    assert parse_header(packed(header), header.layout.total, "here") == header


@pytest.mark.parametrize(
    ("patches", "said"),
    [
        ({"MAGIC_OFFSET": b"PNG"}, "not a shm_metrics segment"),
        (
            {"VERSION_OFFSET": (L.VERSION + 1).to_bytes(8, "little")},
            f"format {L.VERSION + 1}, this library reads {L.VERSION}",
        ),
        ({"LAYOUT_HASH_OFFSET": b"\0" * 8}, "another layout"),
        ({"ROWS_OFFSET": (10).to_bytes(8, "little")}, "another layout"),
        ({"CHECKSUM_OFFSET": b"\0" * 8}, "checksum"),
        ({"ROWS_OFFSET": bytes(8)}, "rows=0"),
        ({"SLOTS_OFFSET": b"\xff" * 8}, "slots="),
    ],
)
def test_a_header_that_cannot_be_read_is_a_format_error_that_names_the_file(patches, said):
    header = a_header(Layout(9, 1024))
    with pytest.raises(SegmentFormatError, match=said) as caught:
        parse_header(packed(header, **patches), header.layout.total, "/dev/shm/it")
    assert "/dev/shm/it" in str(caught.value)


def test_a_truncated_file_is_a_format_error_that_tells_the_sizes():
    header = a_header(Layout(9, 1024))
    with pytest.raises(SegmentFormatError, match=f"truncated to 4096 of {header.layout.total}"):
        parse_header(packed(header), 4096, "here")
    with pytest.raises(SegmentFormatError, match="without a segment header"):
        parse_header(b"\0" * 10, 10, "here")
    with pytest.raises(SegmentFormatError, match="without a segment header"):
        parse_header(bytes(L.HEADER_END), 4096, "here")
