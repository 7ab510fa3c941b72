"""The hash table: found without a lock, grown, rebuilt, caught up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shm_metrics.errors import SegmentFullError
from shm_metrics.runtime.call_lock import CallLock, ForkedCallError
from shm_metrics.segment import catalog_records
from shm_metrics.segment import layout as L
from shm_metrics.segment.catalog import Catalog
from shm_metrics.segment.catalog_records import CatalogRecord
from shm_metrics.segment.index import Index
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.segment import Segment


@pytest.fixture
def segment(place):
    segment = Segment.attach(place, Layout(1, 2048))
    yield segment
    segment.close()


def index_of(segment):
    return Index(segment, Catalog(segment), CallLock())


@pytest.fixture
def index(segment):
    return index_of(segment)


def append(index, key):
    """A record that is published and not indexed: its author was killed in between."""
    return index.catalog.append(CatalogRecord(catalog_records.SERIES, key, hash=index.hash(key)))[0]


def publish(index, key):
    """A record, indexed as the allocator does it."""
    index.make_ready()
    place, _ = index.locate(key, index.hash(key))
    offset = append(index, key)
    index.put(place, index.hash(key), offset, index.catalog.commit)
    return offset


def find(index, key):
    return index.find(key, index.hash(key))


def many(n):
    return [b"key %d" % number for number in range(n)]


def test_a_key_leads_to_its_record_and_an_unknown_one_to_none(index):
    offsets = {key: publish(index, key) for key in many(100)}
    assert {key: find(index, key) for key in offsets} == offsets
    assert {key: index.peek(key, index.hash(key)) for key in offsets} == offsets
    assert index.peek(b"unknown", index.hash(b"unknown")) is None
    assert find(index, b"key 100") is None


def test_another_worker_finds_it_without_a_lock(index, place):
    offset = publish(index, b"a")
    other = Segment.attach(place, Layout(1, 2048))
    other.locks.try_exclusive(L.LOCK_CATALOG)
    assert find(index_of(other), b"a") == offset
    assert find(index, b"a") == offset
    other.close()


def test_a_key_inserted_again_leads_to_the_newer_record(index):
    publish(index, b"a")
    newer = publish(index, b"a")
    assert find(index, b"a") == newer
    assert index.segment.get(L.INDEX_USED_OFFSET) == 1


def test_the_table_grows_and_loses_nothing(index):
    offsets = {key: publish(index, key) for key in many(L.INDEX_FIRST_SIZE)}
    assert index.size >= 2 * L.INDEX_FIRST_SIZE
    assert {key: find(index, key) for key in offsets} == offsets


def test_colliding_hashes_are_distinguished_by_their_keys(index, monkeypatch):
    monkeypatch.setattr(Index, "hash", lambda self, key: 7)
    offsets = {key: publish(index, key) for key in many(50)}
    assert {key: find(index, key) for key in offsets} == offsets
    assert find(index, b"other") is None


def test_no_two_segments_hash_alike(index, make_backend):
    other = make_backend("another-" + index.segment.place.path[-20:])
    key = b"chosen by an attacker"
    assert index.hash(key) != index_of(other._segment).hash(key)
    other.unlink()


def test_what_was_published_and_not_indexed_is_caught_up(index):
    publish(index, b"a")
    offset = append(index, b"b")
    assert find(index, b"b") is None
    index.make_ready()
    assert find(index, b"b") == offset
    assert index.segment.get(L.INDEXED_OFFSET) == index.catalog.commit


def test_an_entry_whose_offset_was_not_stored_yet_is_not_indexed_twice(index):
    before = index.catalog.commit
    offset = publish(index, b"b")
    index.segment.set(L.INDEXED_OFFSET, before)  # as if its author had been killed just before the last store
    index.make_ready()
    assert find(index, b"b") == offset
    assert index.segment.get(L.INDEX_USED_OFFSET) == 1


def test_damage_is_passed_over(index):
    publish(index, b"a")
    damaged = append(index, b"b")
    last = append(index, b"c")
    index.catalog.data[damaged + catalog_records.HEAD_BYTES] ^= 1
    index.make_ready()
    assert find(index, b"b") is None
    assert find(index, b"c") == last


@pytest.mark.parametrize("word", [0, 5, (1 << 64) - 1, 1 << 20, 3 << 9])
def test_a_size_that_cannot_be_is_not_believed(index, word):
    publish(index, b"a")
    index.segment.set(L.INDEX_SIZE_OFFSET, word)
    assert index.size == L.INDEX_FIRST_SIZE
    assert find(index, b"a") is not None


def test_an_indexed_offset_beyond_the_catalog_rebuilds_the_table(index):
    offsets = {key: publish(index, key) for key in many(20)}
    index.segment.set(L.INDEXED_OFFSET, 1 << 30)
    index.make_ready()
    assert {key: find(index, key) for key in offsets} == offsets


def first_entry(index):
    return next(n for n in range(0, 2 * index.size, 2) if index.words[n])


def test_lost_entries_are_noticed_by_the_next_worker(index, segment):
    offsets = {key: publish(index, key) for key in many(20)}
    index.words[first_entry(index)] = 0
    assert None in [find(index, key) for key in offsets]
    other = Index(segment, index.catalog, CallLock())
    other.make_ready()
    assert {key: find(index, key) for key in offsets} == offsets


damaged_words = st.lists(
    st.tuples(st.integers(0, 2 * L.INDEX_FIRST_SIZE - 1), st.integers(0, (1 << 64) - 1)), min_size=1, max_size=40
)


@settings(deadline=None, max_examples=settings.default.max_examples * 3 // 5)
@given(damaged_words)
def test_damage_to_the_table_gives_no_wrong_record_and_a_rebuild_puts_it_right(damage):
    segment = Segment.private(Layout(1, 2048))
    index = index_of(segment)
    offsets = {key: publish(index, key) for key in many(40)}
    for at, word in damage:
        index.words[at] = word
    for key, offset in offsets.items():
        assert find(index, key) in (None, offset)
        assert index.peek(key, index.hash(key)) in (None, offset)
    index.rebuild()
    assert {key: find(index, key) for key in offsets} == offsets
    assert {key: index.locate(key, index.hash(key))[1] for key in offsets} == offsets
    segment.close()


def test_a_table_of_nonsense_ends_a_search_and_the_next_creation_rebuilds_it(index):
    offset = publish(index, b"a")
    for at in range(2 * index.size):
        index.words[at] = 12345 + at
    assert find(index, b"b") is None
    assert index.peek(b"b", index.hash(b"b")) is None
    assert index.locate(b"a", index.hash(b"a"))[1] == offset
    assert find(index, b"a") == offset


def test_an_entry_with_another_keys_hash_is_repaired_by_the_next_search(index):
    offset = publish(index, b"a")
    index.words[first_entry(index)] ^= 1 << 40
    assert find(index, b"a") is None
    assert index.locate(b"a", index.hash(b"a"))[1] == offset
    assert find(index, b"a") == offset


def test_an_entry_of_another_record_is_repaired_by_the_next_search(index):
    offset, other = publish(index, b"a"), publish(index, b"b")
    at = next(n for n in range(0, 2 * index.size, 2) if index.words[n] == index.hash(b"a"))
    for wrong in (other, 1 << 50, 3):
        index.words[at + 1] = wrong + 1
        assert find(index, b"a") is None
        assert index.locate(b"a", index.hash(b"a"))[1] == offset
        assert find(index, b"a") == offset


def test_a_full_table_says_so(index, monkeypatch):
    monkeypatch.setattr(index, "capacity", L.INDEX_FIRST_SIZE)
    keys = many(1 + 3 * L.INDEX_FIRST_SIZE // 4)
    for key in keys[:-1]:
        publish(index, key)
    with pytest.raises(SegmentFullError, match="index is full"):
        publish(index, keys[-1])
    assert None not in [find(index, key) for key in keys[:-1]]


# -- after the catalog was copied --------------------------------------------------------------------------------------


def test_the_index_follows_a_catalog_that_was_copied(index, place):
    before = {key: publish(index, key) for key in many(100)}
    other = Segment.attach(place, Layout(1, 2048))
    theirs = index_of(other)
    assert find(theirs, b"key 99") == before[b"key 99"]
    index.catalog.copy(lambda record: record.key != b"key 0")
    for each in (index, theirs):
        assert find(each, b"key 0") is None
        found = find(each, b"key 99")
        assert found is None or each.catalog.read(found).key == b"key 99", "an offset of the other region is no answer"
    index.make_ready()
    for each in (index, theirs):
        offsets = {key: find(each, key) for key in many(100)}
        assert offsets.pop(b"key 0") is None
        assert all(each.catalog.read(offset).key == key for key, offset in offsets.items())
        assert offsets[b"key 99"] < before[b"key 99"]
    assert index.segment.get(L.INDEX_USED_OFFSET) == 99
    other.close()


def test_what_was_looked_at_before_a_copy_is_looked_at_again_under_the_lock(index):
    publish(index, b"a")
    publish(index, b"b")
    index.make_ready()
    probe = index.probe(b"b", index.hash(b"b"))
    index.catalog.copy(lambda record: record.key == b"b")
    index.make_ready()
    place, offset = index.locate(b"b", index.hash(b"b"), probe)
    assert offset != probe.offset
    assert index.catalog.read(offset).key == b"b"
    assert index.words[2 * place] == index.hash(b"b")


def test_a_look_during_which_the_catalog_was_copied_says_nothing(index, monkeypatch):
    publish(index, b"a")
    publish(index, b"b")
    real = Index._sound_way

    def copied_meanwhile(self, *args):
        found = real(self, *args)
        monkeypatch.undo()
        self.catalog.copy(lambda record: record.key == b"b")
        return found

    monkeypatch.setattr(Index, "_sound_way", copied_meanwhile)
    probe = index.probe(b"b", index.hash(b"b"))
    assert (probe.offset, probe.consistent) == (None, False)


def test_a_poisoned_lock_stops_every_store(index):
    publish(index, b"a")
    index.make_ready()
    before = bytes(index.entries), [index.segment.get(at) for at in (L.INDEXED_OFFSET, L.INDEX_USED_OFFSET)]
    index._lock.poisoned = True
    for stores in (lambda: index.put(0, 1, 0, 8), index.rebuild, index._grow, lambda: index._wipe(index.size)):
        with pytest.raises(ForkedCallError):
            stores()
    after = bytes(index.entries), [index.segment.get(at) for at in (L.INDEXED_OFFSET, L.INDEX_USED_OFFSET)]
    assert after == before
