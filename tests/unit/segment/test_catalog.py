"""The append-only list: published last, damage confined."""

from __future__ import annotations

import pytest

from shm_metrics.errors import SegmentFormatError, SegmentFullError
from shm_metrics.runtime.call_lock import CallLock, ForkedCallError
from shm_metrics.segment import catalog_records
from shm_metrics.segment import layout as L
from shm_metrics.segment.catalog import Catalog
from shm_metrics.segment.catalog_records import CatalogRecord
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.segment import Segment


@pytest.fixture
def segment(place):
    segment = Segment.attach(place, Layout(1, 512))
    yield segment
    segment.close()


@pytest.fixture
def catalog(segment):
    return Catalog(segment)


def append(catalog, key):
    """The offset of a new record."""
    return catalog.append(CatalogRecord(catalog_records.SERIES, key))[0]


def has_key(catalog, offset, key):
    return catalog_records.has_key(catalog.data, offset, catalog.commit, key)


def keys(catalog, start=0):
    return [None if record is None else record.key for _, record, _ in catalog.scan(start)]


def test_records_come_back_in_the_order_in_which_they_were_appended(catalog):
    offsets = [append(catalog, key) for key in (b"a", b"bb" * 40, b"c")]
    assert offsets == sorted(offsets)
    assert keys(catalog) == [b"a", b"bb" * 40, b"c"]
    assert catalog.read(offsets[1]).key == b"bb" * 40
    assert [has_key(catalog, offsets[2], key) for key in (b"c", b"cc", b"")] == [True, False, False]


def test_a_cursor_goes_on_where_it_was(catalog):
    append(catalog, b"a")
    cursor = catalog.commit
    assert keys(catalog, cursor) == []
    append(catalog, b"b")
    assert keys(catalog, cursor) == [b"b"]


def test_what_is_not_committed_is_not_there_and_is_overwritten(catalog, segment):
    append(catalog, b"a")
    before = catalog.commit
    lost = append(catalog, b"lost" * 20)
    segment.set(L.CATALOG_COMMIT_OFFSET, before)  # as if its author had been killed just before
    assert keys(catalog) == [b"a"]
    with pytest.raises(SegmentFormatError):
        catalog.read(lost)
    assert not has_key(catalog, lost, b"lost" * 20)
    append(catalog, b"b")
    assert keys(catalog) == [b"a", b"b"]


def test_another_worker_sees_it_at_once(catalog, place):
    other = Segment.attach(place, Layout(1, 512))
    append(catalog, b"a")
    assert keys(Catalog(other)) == [b"a"]
    other.close()


def test_damage_costs_the_damaged_record_and_no_other(catalog):
    offsets = [append(catalog, b"%d" % n * 20) for n in range(5)]
    catalog.data[offsets[2] + catalog_records.HEAD_BYTES] ^= 1
    assert keys(catalog) == [b"0" * 20, b"1" * 20, None, b"3" * 20, b"4" * 20]
    with pytest.raises(SegmentFormatError, match=f"record at {offsets[2]} is damaged"):
        catalog.read(offsets[2])


@pytest.mark.parametrize("length", [0, 1, 8, 1 << 20, 0xFFFFFFFF])
def test_a_damaged_length_leads_nobody_astray(catalog, length):
    offsets = [append(catalog, b"%d" % n * 20) for n in range(3)]
    catalog.data[offsets[1] : offsets[1] + 4] = length.to_bytes(4, "little")
    assert keys(catalog) == [b"0" * 20, None, b"2" * 20]


def test_a_stretch_of_zeros_is_one_damage(catalog):
    offsets = [append(catalog, b"%d" % n * 20) for n in range(5)]
    catalog.data[offsets[1] : offsets[4]] = bytes(offsets[4] - offsets[1])
    assert keys(catalog) == [b"0" * 20, None, b"4" * 20]


@pytest.mark.parametrize("commit", [1, 3, (1 << 64) - 1, 1 << 40])
def test_a_damaged_commit_offset_reads_nothing_outside_the_catalog(catalog, segment, commit):
    append(catalog, b"a")
    segment.set(L.CATALOG_COMMIT_OFFSET, commit)
    assert catalog.commit <= len(catalog.data)
    assert [key for key in keys(catalog) if key is not None] in ([], [b"a"])


def test_a_full_catalog_says_so_and_stays_as_it_was(catalog):
    room = len(catalog.data)
    big = b"x" * 30_000
    for _ in range(room // (30_000 + catalog_records.HEAD_BYTES)):
        append(catalog, big)
    before = catalog.commit
    with pytest.raises(SegmentFullError, match=f"catalog of {room} bytes is full"):
        append(catalog, big)
    assert catalog.commit == before
    assert set(keys(catalog)) == {big}


def test_the_catalog_takes_memory_as_it_grows(place):
    segment = Segment.attach(place, Layout(1, 4096))
    catalog, before = Catalog(segment), segment.get(L.CATALOG_RESERVED_OFFSET)
    assert before == L.CATALOG_RESERVE_STEP < len(catalog.data)
    for _ in range(4):
        append(catalog, b"x" * 30_000)
        assert catalog.commit <= segment.get(L.CATALOG_RESERVED_OFFSET)
    assert segment.get(L.CATALOG_RESERVED_OFFSET) == 2 * before
    segment.close()


def test_a_rank_changes_in_place(catalog):
    offset = append(catalog, b"a")
    assert catalog.rank(offset) == 0
    catalog.raise_rank(offset, 7)
    assert catalog.rank(offset) == catalog.read(offset).rank == 7


# -- copying -----------------------------------------------------------------------------------------------------------


def test_a_copy_leaves_out_what_is_not_wanted_and_moves_the_rest_up(catalog, place):
    other = Segment.attach(place, Layout(1, 512))
    theirs = Catalog(other)
    offsets = [append(catalog, b"%d" % n * 20) for n in range(400)]
    catalog.raise_rank(offsets[8], 9)
    catalog.copy(lambda record: int(record.key[:1]) % 2 == 0)
    for each in (catalog, theirs):
        assert each.switches == 1
        assert keys(each) == [b"%d" % n * 20 for n in range(400) if int(str(n)[0]) % 2 == 0]
    again = [offset for offset, _, _ in catalog.scan(0)]
    assert catalog.commit < offsets[-1]
    assert catalog.read(again[4]).rank == 9, "of the fifth that is left"
    assert catalog.read(again[4]).key == b"8" * 20
    append(catalog, b"new")
    assert keys(theirs)[-1] == b"new"
    other.close()


def test_copies_go_to_and_fro_between_two_regions(catalog):
    for n in range(7):
        append(catalog, b"%d" % n)
        catalog.copy(lambda record, n=n: int(record.key) >= n - 1)
        assert catalog.switches == n + 1
        assert keys(catalog) == [b"%d" % each for each in range(max(0, n - 1), n + 1)]


def test_a_copy_leaves_damage_behind(catalog):
    offsets = [append(catalog, b"%d" % n * 20) for n in range(3)]
    catalog.data[offsets[1] + catalog_records.HEAD_BYTES] ^= 1
    catalog.copy(lambda record: True)
    assert keys(catalog) == [b"0" * 20, b"2" * 20]


class Killed(BaseException):
    pass


def test_a_copy_that_ends_before_the_switch_leaves_all_as_it_was(catalog, monkeypatch):
    for n in range(600):
        append(catalog, b"%d" % n)
    before, region = keys(catalog), bytes(catalog.data)
    real, appended = Catalog._append, []

    def killed_at_the_last(self, packed, region):
        appended.append(packed)
        if len(appended) == 3:
            raise Killed
        return real(self, packed, region)

    monkeypatch.setattr(Catalog, "_append", killed_at_the_last)
    with pytest.raises(Killed):
        catalog.copy(lambda record: True)
    monkeypatch.undo()
    assert catalog.switches == 0
    assert keys(catalog) == before
    assert bytes(catalog.data) == region
    catalog.copy(lambda record: record.key != b"0")
    assert keys(catalog) == before[1:], "what the one before had copied is overwritten"


def test_a_poisoned_lock_stops_every_store(segment):
    """In a child that was forked on top of the call: what goes on in the parent, it must not touch."""
    lock = CallLock()
    catalog = Catalog(segment, lock)
    offset = append(catalog, b"a")
    header, region = bytes(segment.bytes[: L.PAGE]), bytes(catalog.data)
    lock.poisoned = True
    for stores in (
        lambda: append(catalog, b"b"),
        lambda: catalog.raise_rank(offset, 1),
        lambda: catalog.copy(lambda record: True),
    ):
        with pytest.raises(ForkedCallError):
            stores()
    assert bytes(segment.bytes[: L.PAGE]) == header
    assert bytes(catalog.data) == region
