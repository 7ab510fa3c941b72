"""What a series is now, by its first slot."""

from __future__ import annotations

import pytest

from shm_metrics.model.families import LabelPairs
from shm_metrics.segment import layout as L
from shm_metrics.segment.removals import EVERY_SLOT
from shm_metrics.segment.slot_table import FREE, LIVE, REMOVED, SlotTable
from shm_metrics.writer.allocator import Allocator
from tests.support.segments import JOBS, SECONDS


class Killed(BaseException):
    pass


@pytest.fixture
def writer(make_writer):
    return make_writer()


@pytest.fixture
def table(writer):
    return SlotTable(writer.segment)


def series(writer, labels: LabelPairs = (("shop", "a"),), family=JOBS, stamp=100.0):
    place = writer.allocator.family(family, True, 1e9)
    return writer.allocator.series(family, place, labels, (), 1e9 + 1, stamp)


def states(table, *places):
    """The states of many at once, in the words of state()."""
    found = table.states([place.slot for place in places], [place.hash for place in places])
    return [
        FREE if free else REMOVED if removed else LIVE
        for free, removed in zip(found.free.tolist(), found.removed.tolist(), strict=True)
    ]


def killed_after_the_generation(writer, place, monkeypatch):
    """A remover that is killed right after the one store that makes it a removal."""

    def die(self, slot, generation):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Allocator, "_complete", die)
        with pytest.raises(Killed):
            writer.allocator.remove(place, 200.0)


def test_a_series_that_was_made_is_live_and_says_since_when(writer, table):
    place = series(writer)
    assert table.state(place.slot, place.hash) == LIVE
    assert states(table, place) == [LIVE]
    assert (table.owner(place.slot), table.created(place.slot), table.born(place.slot)) == (place.hash, 1e9 + 1, 0.0)
    assert table.generation(place.slot) == 0


def test_a_series_of_which_another_has_the_slot_is_free(writer, table):
    place = series(writer)
    assert table.state(place.slot, place.hash ^ 1) == FREE
    assert states(table, place._replace(hash=place.hash ^ 1)) == [FREE]


def test_a_slot_that_nobody_had_belongs_to_nobody(writer, table):
    place = series(writer)
    assert table.owner(place.slot + 1) == 0
    assert table.state(place.slot + 1, place.hash) == FREE


def test_a_removed_series_is_removed_and_live_again_once_it_is_asked_for(writer, table):
    place, other = series(writer), series(writer, (("shop", "b"),))
    writer.allocator.remove(place, 200.0)
    assert states(table, place, other) == [REMOVED, LIVE]
    assert table.state(place.slot, place.hash) == REMOVED
    assert (table.generation(place.slot), table.generation(other.slot)) == (1, 0)
    assert table.born(place.slot) == 200.0, "exemplars of before are of the life before"
    assert series(writer) == place
    assert table.state(place.slot, place.hash) == LIVE
    assert table.generation(place.slot) == 1, "rows that have not followed it have nothing of this life"


def test_a_removal_whose_remover_was_killed_counts_as_one(writer, table, monkeypatch):
    place, other = series(writer), series(writer, (("shop", "b"),))
    killed_after_the_generation(writer, place, monkeypatch)
    assert writer.segment.codes[place.slot] == L.SLOT_ADDS, "nothing says so yet but the ring"
    assert table.state(place.slot, place.hash) == REMOVED
    assert states(table, place, other) == [REMOVED, LIVE]
    assert table.generation(place.slot) == 1
    assert table.states([place.slot, other.slot], [0, 0]).generation.tolist() == [1, 0]
    assert writer.allocator.find(writer.allocator.family(JOBS, True, 1e9), (("shop", "a"),)) is None


def test_the_next_holder_of_the_lock_completes_a_removal_whose_remover_was_killed(
    writer, table, make_writer, monkeypatch
):
    place = series(writer)
    killed_after_the_generation(writer, place, monkeypatch)
    series(make_writer(), (("shop", "b"),))
    assert writer.segment.codes[place.slot] == L.SLOT_ADDS | L.SLOT_REMOVED
    assert table.words[place.slot * L.SLOT_ENTRY_BYTES // L.WORD] == 1
    assert table.state(place.slot, place.hash) == REMOVED
    assert series(make_writer()) == place
    assert table.state(place.slot, place.hash) == LIVE


def test_a_removal_of_every_slot_is_pending_for_none(writer, table):
    place = series(writer)
    writer.allocator.removals.note(1, EVERY_SLOT, L.REUSED)
    writer.segment.set(L.GENERATION_OFFSET, 1)
    assert table.state(place.slot, place.hash) == LIVE
    assert states(table, place) == [LIVE]
    assert table.generation(place.slot) == 0


def test_many_states_at_once_are_those_of_each(writer, table):
    places = [series(writer, (("n", str(n)),), SECONDS if n % 2 else JOBS) for n in range(40)]
    for place in places[::3]:
        writer.allocator.remove(place, 200.0)
    wrong = [place._replace(hash=1) for place in places[::5]]
    each = [table.state(place.slot, place.hash) for place in (*places, *wrong)]
    assert states(table, *places, *wrong) == each
    assert {LIVE, REMOVED, FREE} == set(each)
    found = table.states([place.slot for place in places], [place.hash for place in places])
    assert found.generation.tolist() == [table.generation(place.slot) for place in places]
    assert found.created.tolist() == [1e9 + 1] * 40
    assert found.born.tolist() == [table.born(place.slot) for place in places]


def test_no_series_at_all_has_no_states(table):
    found = table.states([], [])
    assert [len(each) for each in found] == [0] * 5
