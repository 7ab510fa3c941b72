"""Chunks: together they are what was cut, and nothing else ever is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm_metrics.cluster.codec.chunks import CHUNK_LIMIT, join, split
from shm_metrics.errors import WireFormatError
from tests.support.blobs import unhurried

HEAD = 40


@unhurried
@given(st.binary(max_size=500), st.integers(HEAD + 1, HEAD + 80), st.randoms())
def test_chunks_in_any_order_are_what_was_cut(data, limit, random):
    chunks = split(data, limit)
    assert max(map(len, chunks)) <= limit
    random.shuffle(chunks)
    assert join(chunks) == data


def test_a_blob_of_some_megabytes_is_cut_below_memcacheds_limit():
    data = bytes(range(256)) * 10_000
    chunks = split(data)
    assert [len(chunk) <= CHUNK_LIMIT < 1 << 20 for chunk in chunks] == [True] * 3
    assert join(chunks) == data


def test_a_limit_without_room_is_refused():
    with pytest.raises(ValueError, match="40 bytes"):
        split(b"x", HEAD)


@pytest.mark.parametrize("gone", range(4))
def test_a_missing_chunk_is_noticed(gone):
    chunks = split(bytes(100), HEAD + 30)
    assert len(chunks) == 4
    with pytest.raises(WireFormatError, match="missing"):
        join([chunk for number, chunk in enumerate(chunks) if number != gone])


def test_none_at_all_is_an_error():
    with pytest.raises(WireFormatError):
        join([])


def test_chunks_of_two_publishes_are_never_put_together():
    old, new = split(b"a" * 100, HEAD + 50), split(b"a" * 99 + b"b", HEAD + 50)
    assert len(old) == len(new) == 2
    for mixed in ([old[0], new[1]], [new[0], old[1]], [*old, new[1]], [*old, old[1]]):
        with pytest.raises(WireFormatError):
            join(mixed)


def test_every_flipped_bit_and_every_truncation_is_noticed():
    whole = split(b"some bytes of a blob", HEAD + 12)
    for position, chunk in enumerate(whole):
        for at in range(len(chunk)):
            for bit in range(8):
                damaged = bytearray(chunk)
                damaged[at] ^= 1 << bit
                with pytest.raises(WireFormatError):
                    join([*whole[:position], bytes(damaged), *whole[position + 1 :]])
            with pytest.raises(WireFormatError):
                join([*whole[:position], chunk[:at], *whole[position + 1 :]])


@given(st.lists(st.binary(max_size=80), max_size=3))
def test_bytes_that_are_no_chunks_are_an_error_and_nothing_worse(parts):
    for noise in (parts, [b"SHMC" + part for part in parts], [b"SHMC\x01\0\0\0" + part for part in parts]):
        with pytest.raises(WireFormatError):
            join(noise)
