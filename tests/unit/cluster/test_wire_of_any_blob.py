"""The wire format, for any blob that a segment could publish, and any damage and lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm_metrics.cluster.codec import wire
from shm_metrics.cluster.codec.table_format import pack_table, unpack_table
from shm_metrics.cluster.merge.fold import fold
from shm_metrics.cluster.model.blob import Folded, Retired
from shm_metrics.errors import WireFormatError
from tests.support.blobs import blob, blobs, forged, pages, plain, sent, u64, unhurried

pytestmark = pytest.mark.slow

HEADS = ("instance", "host", "pid", "created_at", "published_at", "sequence", "token", "interval")


@unhurried
@given(blobs)
def test_a_blob_comes_back_as_it_was_published(published):
    arrived = sent(published)
    assert [getattr(arrived, name) for name in HEADS] == [getattr(published, name) for name in HEADS]
    assert plain(arrived.families()) == plain(published.families())


@unhurried
@given(pages())
def test_it_shows_the_families_that_the_snapshot_had(page):
    assert plain(sent(blob(*page)).families()) == plain(page)


@unhurried
@given(
    blobs,
    st.dictionaries(st.binary(min_size=16, max_size=16).map(bytes.hex), st.tuples(u64, st.floats(allow_nan=False))),
    u64,
    u64,
)
def test_a_retired_record_comes_back_as_it_was_written(published, folded, version, token):
    part = fold(None, published, None, 1.0).part
    kept = Retired(version, token, {name: Folded(*told) for name, told in folded.items()}, part)
    arrived = wire.decode_retired(wire.encode_retired(kept))
    assert (arrived.version, arrived.token, arrived.folded) == (version, token, kept.folded)
    assert plain(arrived.part.families()) == plain(part.families())
    assert arrived.part.low.tobytes() == part.low.tobytes()


@unhurried
@given(blobs, st.data())
def test_every_other_byte_in_its_place_is_noticed(published, data):
    frame = bytearray(wire.encode(published))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireFormatError):
        wire.decode(bytes(frame))


@unhurried
@given(blobs, st.data())
def test_a_frame_that_lies_is_an_error_and_nothing_worse(published, data):
    frame = bytearray(wire.encode(published))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame) - 1))
        frame[at] = data.draw(st.integers(0, 255))
    try:
        wire.decode(forged(bytes(frame)))
    except WireFormatError:
        pass


@unhurried
@given(blobs, st.data())
def test_a_table_that_lies_is_an_error_and_nothing_worse(published, data):
    for part in published.parts:
        raw = bytearray(pack_table(part.table))
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(raw)))
        for lie in (bytes(raw), bytes(raw[:cut]), bytes(raw) + b"\0"):
            try:
                unpack_table(lie)
            except WireFormatError:
                pass
