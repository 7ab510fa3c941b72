"""Catalog records: bytes to meaning and back, and nothing read from damage."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shm_metrics.errors import InvalidMetricError, SegmentFormatError
from shm_metrics.model.families import COUNTER, EMPTY_INFO, HISTOGRAM, STATESET, Family
from shm_metrics.segment import catalog_records
from shm_metrics.segment.catalog_records import CatalogRecord

words = st.integers(0, 2**64 - 1)
floats = st.floats(allow_nan=False)
some_records = st.builds(
    CatalogRecord,
    kind=st.sampled_from(catalog_records.KINDS),
    key=st.binary(max_size=200),
    parent=words,
    slot=words,
    count=words,
    created=floats,
    tail=st.binary(max_size=200),
    rank=words,
    hash=words,
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
labels = st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), texts, max_size=4).map(
    lambda found: tuple(sorted(found.items()))
)
unhurried = settings(deadline=None)


@unhurried
@given(some_records, st.integers(0, 5), st.binary(max_size=64))
def test_a_record_comes_back_as_it_was_packed_wherever_it_lies(record, before, after):
    data = memoryview(bytes(before * catalog_records.ALIGN) + record.pack() + after)
    found, following = catalog_records.unpack(data, before * catalog_records.ALIGN, len(data))
    assert found == record
    assert following == before * catalog_records.ALIGN + len(record.pack())
    assert catalog_records.has_key(data, before * catalog_records.ALIGN, len(data), record.key)
    assert catalog_records.hash_at(data, before * catalog_records.ALIGN, len(data)) == record.hash


@unhurried
@given(some_records, st.data())
def test_no_flipped_bit_outside_the_rank_goes_unnoticed(record, data):
    packed = bytearray(record.pack())
    rank = range(catalog_records.RANK_OFFSET, catalog_records.RANK_OFFSET + 8)
    at = data.draw(st.integers(0, len(packed) - 1).filter(lambda n: n not in rank))
    packed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SegmentFormatError, match="record at 0"):
        catalog_records.unpack(memoryview(packed), 0, len(packed))


@given(words, words)
def test_the_rank_may_change_in_place(one, other):
    packed = bytearray(CatalogRecord(catalog_records.FAMILY, b"key", rank=one).pack())
    packed[catalog_records.RANK_OFFSET : catalog_records.RANK_OFFSET + 8] = other.to_bytes(8, "little")
    assert packed == CatalogRecord(catalog_records.FAMILY, b"key", rank=other).pack()
    assert catalog_records.unpack(memoryview(packed), 0, len(packed))[0] == CatalogRecord(
        catalog_records.FAMILY, b"key", rank=other
    )


def test_a_record_has_no_hash_where_it_would_reach_beyond_the_end():
    packed = memoryview(CatalogRecord(catalog_records.SERIES, b"key", hash=7).pack())
    assert catalog_records.hash_at(packed, 0, len(packed)) == 7
    assert catalog_records.hash_at(packed, 0, catalog_records.HEAD_BYTES - 1) == 0
    assert catalog_records.hash_at(packed, 4, len(packed)) == 0, "no record begins there"
    assert not catalog_records.has_key(packed, 0, catalog_records.HEAD_BYTES + 2, b"key")
    assert not catalog_records.has_key(packed, 4, len(packed), b"key")


@given(st.binary(max_size=300), st.integers(-8, 320))
def test_bytes_that_are_no_record_are_an_error_and_nothing_worse(data, offset):
    with pytest.raises(SegmentFormatError):
        catalog_records.unpack(memoryview(data), offset, len(data))


def test_a_record_that_was_cut_off_is_not_read():
    packed = CatalogRecord(catalog_records.SERIES, b"key" * 9).pack()
    for end in range(len(packed)):
        with pytest.raises(SegmentFormatError):
            catalog_records.unpack(memoryview(packed), 0, end)


def test_a_record_longer_than_the_limit_is_refused():
    with pytest.raises(InvalidMetricError, match=str(catalog_records.MAX_RECORD_BYTES)):
        CatalogRecord(catalog_records.SERIES, b"k" * catalog_records.MAX_RECORD_BYTES).pack()


@pytest.mark.parametrize(
    "family",
    [
        Family("jobs", COUNTER, 'all "of" them\n', "things"),
        Family("seconds", HISTOGRAM, "", "", (0.1, 1.0, float("inf"))),
        Family("light", STATESET, "é", "", (), "", ("red", "grün")),
    ],
)
def test_a_family_comes_back_from_its_record(family):
    record = CatalogRecord(
        catalog_records.FAMILY, catalog_records.family_key(family), tail=family.documentation.encode()
    )
    assert catalog_records.family_of(record) == family


def test_two_definitions_have_one_key_if_only_their_documentation_differs():
    key = catalog_records.family_key(Family("a", HISTOGRAM, "one", bounds=(1.0,)))
    assert catalog_records.family_key(Family("a", HISTOGRAM, "two", bounds=(1.0,))) == key
    for other in (
        Family("b", HISTOGRAM, bounds=(1.0,)),
        Family("a", COUNTER, bounds=(1.0,)),
        Family("a", HISTOGRAM, bounds=(2.0,)),
        Family("a", HISTOGRAM, unit="s", bounds=(1.0,)),
        Family("a", HISTOGRAM, bounds=(1.0,), mode="min"),
        Family("a", HISTOGRAM, bounds=(1.0,), states=("x",)),
    ):
        assert catalog_records.family_key(other) != key


@unhurried
@given(words, labels, labels)
def test_labels_and_payload_come_back_from_a_series_key(offset, own, payload):
    key = catalog_records.series_key(offset, own, payload)
    assert catalog_records.labels_of(CatalogRecord(catalog_records.SERIES, key)) == (own, payload)


def test_an_info_that_says_nothing_differs_from_a_series_without_payload():
    assert catalog_records.series_key(0, (), EMPTY_INFO) != catalog_records.series_key(0, ())


@unhurried
@given(st.tuples(words, labels, labels), st.tuples(words, labels, labels))
def test_different_series_have_different_keys(one, other):
    assert (catalog_records.series_key(*one) == catalog_records.series_key(*other)) == (one == other)


def test_text_that_is_no_unicode_is_refused_by_value():
    with pytest.raises(InvalidMetricError, match="surrogate"):
        catalog_records.series_key(0, (("a", "\ud800"),))


def test_a_family_record_that_is_no_definition_is_a_format_error():
    for key in (b"F", b"Fnull", b"F[1]", b'F["a","counter","","",1,[]]', b"F\xff"):
        with pytest.raises(SegmentFormatError):
            catalog_records.family_of(CatalogRecord(catalog_records.FAMILY, key))
    with pytest.raises(SegmentFormatError):
        catalog_records.family_of(
            CatalogRecord(catalog_records.FAMILY, catalog_records.family_key(Family("a", COUNTER)), tail=b"\xff")
        )
