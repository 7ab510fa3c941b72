"""An exemplar's labels and the bytes of its entry: what is valid, and that damage is noticed."""

from __future__ import annotations

import random

import pytest

from shm_metrics.errors import InvalidMetricError, SegmentFormatError
from shm_metrics.model.families import Exemplar
from shm_metrics.segment import layout as L
from shm_metrics.segment.exemplar_records import BODY_OFFSET, exemplar_text, pack_entry, unpack_entry


def an_entry(text: bytes, slot: int = 17) -> bytes:
    return (bytes(BODY_OFFSET) + pack_entry(slot, 0.25, 1_700_000_000.5, 12.5, text)).ljust(L.EXEMPLAR_BYTES, b"\0")


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "span_id": "00f067aa0ba902b7"},
        {"a": ""},
        {"b": "", "a": ""},
        {"z": 'quotes " and \\ and\nlines', "ü.ñ": "\u20ac\U0001f600\0"},
        {"a": "\U0001f600" * 127},
        {chr(0x1F600 + n): "" for n in range(128)},
    ],
)
def test_labels_come_back_as_they_were_given_also_the_longest(labels):
    entry = unpack_entry(an_entry(exemplar_text(labels)))
    assert (entry.slot, entry.stamp) == (17, 12.5)
    assert entry.exemplar == Exemplar(labels, 0.25, 1_700_000_000.5)
    assert list(entry.exemplar.labels) == list(labels)


def test_a_value_that_is_no_text_goes_through_str():
    assert unpack_entry(an_entry(exemplar_text({"trace_id": 12}))).exemplar.labels == {"trace_id": "12"}


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"a": "x" * 128}, "thing: exemplar of 129 characters"),
        ({"é" * 64: "é" * 65}, "thing: exemplar of 129 characters"),
        ({"__reserved": "x"}, "thing: exemplar label name '__reserved'"),
        ({"": "x"}, "thing: exemplar label name ''"),
        ({1: "x"}, "thing: exemplar label name 1"),
        ({"a": None}, "thing: exemplar label 'a' is None"),
        ({"a": "\ud800"}, "surrogate"),
        ({"\ud800": "a"}, "surrogate"),
        (["a"], r"thing: exemplar \['a'\]: give a mapping"),
        ("trace", "thing: exemplar 'trace': give a mapping"),
    ],
)
def test_a_bad_exemplar_is_refused_by_the_metrics_name(labels, said):
    with pytest.raises(InvalidMetricError, match=said):
        exemplar_text(labels, "thing")


def test_an_entry_with_any_byte_changed_is_noticed():
    whole = an_entry(exemplar_text({"trace_id": "abcdef"}))
    used = L.EXEMPLAR_TEXT_OFFSET + len(exemplar_text({"trace_id": "abcdef"}))
    for at in range(BODY_OFFSET, used):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        with pytest.raises(SegmentFormatError):
            unpack_entry(damaged)


def test_noise_is_no_entry():
    rng = random.Random(5)
    for _ in range(500):
        with pytest.raises(SegmentFormatError):
            unpack_entry(rng.randbytes(L.EXEMPLAR_BYTES))


def test_no_entry_crosses_a_page():
    assert L.PAGE % L.EXEMPLAR_BYTES == 0
    assert L.EXEMPLARS_PER_ROW % L.EXEMPLARS_PER_PAGE == 0
