"""The hash table: found without a lock, grown, rebuilt, caught up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shm_metrics import layout as L
from shm_metrics import records
from shm_metrics.catalog import Catalog
from shm_metrics.index import Index
from shm_metrics.layout import Layout
from shm_metrics.records import Record
from shm_metrics.segment import Segment


@pytest.fixture
def segment(place):
    segment = Segment.attach(place, Layout(1, 2048))
    yield segment
    segment.close()


@pytest.fixture
def index(segment):
    return Index(segment, Catalog(segment))


def publish(index, key):
    """A record, indexed as the allocator does it."""
    offset = index.catalog.append(Record(records.SERIES, key))
    index.insert(key, offset)
    index.segment.set(L.INDEXED_OFFSET, index.catalog.commit)
    return offset


def many(n):
    return [b"key %d" % number for number in range(n)]


def test_a_key_leads_to_its_record_and_an_unknown_one_to_none(index):
    offsets = {key: publish(index, key) for key in many(100)}
    assert {key: index.find(key) for key in offsets} == offsets
    assert index.find(b"key 100") is None


def test_another_worker_finds_it_without_a_lock(index, place):
    offset = publish(index, b"a")
    other = Segment.attach(place, Layout(1, 2048))
    other.locks.try_exclusive(L.LOCK_CATALOG)
    assert Index(other, Catalog(other)).find(b"a") == offset
    assert index.find(b"a") == offset
    other.close()


def test_a_key_inserted_again_leads_to_the_newer_record(index):
    publish(index, b"a")
    newer = publish(index, b"a")
    assert index.find(b"a") == newer
    assert index.segment.get(L.INDEX_USED_OFFSET) == 1


def test_the_table_grows_and_loses_nothing(index):
    offsets = {key: publish(index, key) for key in many(L.INDEX_FIRST_SIZE)}
    assert index.size >= 2 * L.INDEX_FIRST_SIZE
    assert {key: index.find(key) for key in offsets} == offsets
    assert not index.lost_entries()


def test_keys_that_collide_are_told_apart_by_the_keys_themselves(index, monkeypatch):
    monkeypatch.setattr(Index, "hash", lambda self, key: 7)
    offsets = {key: publish(index, key) for key in many(50)}
    assert {key: index.find(key) for key in offsets} == offsets
    assert index.find(b"other") is None


def test_no_two_segments_hash_alike(index, make_backend):
    other = make_backend("another-" + index.segment.place.path[-20:])
    key = b"chosen by an attacker"
    assert index.hash(key) != Index(other._segment, Catalog(other._segment)).hash(key)
    other.unlink()


def test_what_was_published_and_not_indexed_is_caught_up(index):
    publish(index, b"a")
    offset = index.catalog.append(Record(records.SERIES, b"b"))  # its author was killed here
    assert index.find(b"b") is None
    index.catch_up()
    assert index.find(b"b") == offset
    assert index.segment.get(L.INDEXED_OFFSET) == index.catalog.commit


def test_what_was_indexed_and_not_yet_told_is_not_indexed_twice(index):
    offset = index.catalog.append(Record(records.SERIES, b"b"))
    index.insert(b"b", offset)  # its author was killed before it moved `indexed`
    index.catch_up()
    assert index.find(b"b") == offset
    assert index.segment.get(L.INDEX_USED_OFFSET) == 1


def test_removals_and_damage_are_passed_over(index):
    publish(index, b"a")
    damaged = index.catalog.append(Record(records.SERIES, b"b"))
    index.catalog.append(Record(records.REMOVE, parent=0))
    last = index.catalog.append(Record(records.SERIES, b"c"))
    index.catalog.data[damaged + records.HEAD_BYTES] ^= 1
    index.catch_up()
    assert index.find(b"b") is None
    assert index.find(b"c") == last


@pytest.mark.parametrize("word", [0, 5, (1 << 64) - 1, 1 << 20, 3 << 9])
def test_a_size_that_cannot_be_is_not_believed(index, word):
    publish(index, b"a")
    index.segment.set(L.INDEX_SIZE_OFFSET, word)
    assert index.size == L.INDEX_FIRST_SIZE
    assert index.find(b"a") is not None


def test_an_indexed_offset_beyond_the_catalog_has_the_table_made_anew(index):
    offsets = {key: publish(index, key) for key in many(20)}
    index.segment.set(L.INDEXED_OFFSET, 1 << 30)
    index.catch_up()
    assert {key: index.find(key) for key in offsets} == offsets


def test_lost_entries_are_noticed(index):
    for key in many(20):
        publish(index, key)
    assert not index.lost_entries()
    place = next(n for n in range(0, 2 * index.size, 2) if index.words[n])
    index.words[place] = 0
    assert index.lost_entries()
    index.rebuild()
    assert not index.lost_entries()


damaged_words = st.lists(
    st.tuples(st.integers(0, 2 * L.INDEX_FIRST_SIZE - 1), st.integers(0, (1 << 64) - 1)), min_size=1, max_size=40
)


@settings(deadline=None, max_examples=60)
@given(damaged_words)
def test_damage_to_the_table_gives_no_wrong_record_and_a_rebuild_puts_it_right(damage):
    segment = Segment.private(Layout(1, 2048))
    index = Index(segment, Catalog(segment))
    offsets = {key: publish(index, key) for key in many(40)}
    for at, word in damage:
        index.words[at] = word
    for key, offset in offsets.items():
        assert index.find(key) in (None, offset)
    index.rebuild()
    assert {key: index.find(key) for key in offsets} == offsets
    assert all(index.sound_for(key) for key in offsets)
    segment.close()


def test_a_table_filled_with_nonsense_ends_a_search(index):
    publish(index, b"a")
    for at in range(2 * index.size):
        index.words[at] = 12345 + at
    assert index.find(b"b") is None
    assert not index.sound_for(b"b")
    index.rebuild()
    assert index.find(b"a") is not None


def test_an_entry_moved_to_a_wrong_place_is_not_sound(index):
    publish(index, b"a")
    at = next(n for n in range(0, 2 * index.size, 2) if index.words[n])
    index.words[at] ^= 1 << 40
    assert not index.sound_for(b"a")
