"""The ring of removals: what generation n removed, until the ring has come round."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm_metrics.segment import layout as L
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.removals import EVERY_SLOT, Removal, Removals
from shm_metrics.segment.segment import Segment


@pytest.fixture
def segment(place):
    segment = Segment.attach(place, Layout(1, 1024))
    yield segment
    segment.close()


@pytest.fixture
def removals(segment):
    return Removals(segment)


def publish(segment, slot, reused=False):
    """One more removal, as the allocator makes it. Its generation."""
    removals = Removals(segment)
    generation = removals.generation + 1
    removals.note(generation, slot, L.REUSED if reused else 0)
    segment.set(L.GENERATION_OFFSET, generation)
    return generation


def test_before_the_first_removal_there_is_none(removals):
    assert removals.generation == 0
    assert removals.newest() is None
    assert removals.since(0) == []


def test_removals_come_back_in_their_order_with_what_became_of_the_slots(segment, removals):
    for slot, reused in ((16, False), (20, True), (16, True)):
        publish(segment, slot, reused)
    assert removals.since(0) == [Removal(1, 16, False), Removal(2, 20, True), Removal(3, 16, True)]
    assert removals.since(2) == [Removal(3, 16, True)]
    assert removals.since(3) == []
    assert removals.newest() == Removal(3, 16, True)


def test_another_process_sees_them(segment, removals, place):
    other = Segment.attach(place, Layout(1, 1024))
    publish(segment, 30)
    assert Removals(other).since(0) == [Removal(1, 30, False)]
    other.close()


def test_what_is_noted_and_not_published_is_no_removal(segment, removals):
    """Its author was killed in between: the generation says how far the ring counts."""
    publish(segment, 16)
    removals.note(2, 99, L.REUSED)
    assert removals.since(0) == [Removal(1, 16, False)]
    assert removals.newest() == Removal(1, 16, False)
    publish(segment, 40)
    assert removals.since(1) == [Removal(2, 40, False)], "the next one writes over it"


def test_the_ring_keeps_the_last_ones_and_says_when_it_does_not_have_them_all(segment, removals):
    for n in range(L.REMOVALS - 1):
        publish(segment, 16 + n % 1000)
    assert len(removals.since(0)) == L.REMOVALS - 1
    publish(segment, 16)
    assert removals.since(0) is None
    assert len(removals.since(1)) == L.REMOVALS - 1
    assert removals.since(L.REMOVALS - 1) == [Removal(L.REMOVALS, 16, False)]


def test_after_the_ring_came_round_the_newer_ones_stand_in_the_place_of_the_older(segment, removals):
    segment.set(L.GENERATION_OFFSET, 3 * L.REMOVALS - 2)
    for n, slot in enumerate((100, 200, 300, 400)):
        assert publish(segment, slot, bool(n % 2)) == 3 * L.REMOVALS - 1 + n
    assert [(removal.slot, removal.reused) for removal in removals.since(3 * L.REMOVALS - 2)] == [
        (100, False),
        (200, True),
        (300, False),
        (400, True),
    ]


def test_a_ring_that_comes_round_while_it_is_read_says_nothing(segment, removals, monkeypatch):
    for _ in range(10):
        publish(segment, 16)
    real = Removals._at

    def overtaken(self, generation):
        segment.set(L.GENERATION_OFFSET, 10 + L.REMOVALS)
        return real(self, generation)

    monkeypatch.setattr(Removals, "_at", overtaken)
    assert removals.since(5) is None


@pytest.mark.parametrize("reused", [False, True])
def test_every_slot_comes_back_as_such(segment, removals, reused):
    publish(segment, EVERY_SLOT, reused)
    assert removals.newest() == Removal(1, EVERY_SLOT, reused)
    assert Layout(1, 1 << 28).slots < EVERY_SLOT


@given(st.integers(0, (1 << 64) - 1))
def test_an_entry_that_names_no_slot_means_every_slot(word):
    segment = Segment.private(Layout(1, 1024))
    removals = Removals(segment)
    publish(segment, 16)
    removals._ring[1] = word
    found = removals.newest()
    assert found.reused == bool(word >> 63)
    slot = word & (1 << 62) - 1  # the two highest bits are marks
    assert found.slot == (slot if slot < 1024 else EVERY_SLOT)
    segment.close()
