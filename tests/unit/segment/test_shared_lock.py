"""A lock byte that several in one process want, and another process, too."""

from __future__ import annotations

import gc
import os

import pytest

from shm_metrics.segment import layout as L
from shm_metrics.segment.file_locks import FileLocks
from shm_metrics.segment.segment import Segment
from shm_metrics.segment.shared_lock import HeldByte, Hold


@pytest.fixture
def segments(make_writer):
    """Two, of two workers."""
    return make_writer().segment, make_writer().segment


def test_it_is_given_back_when_the_last_of_those_who_want_it_lets_go(segments):
    ours, theirs = (segment.leader for segment in segments)
    one, two, other = Hold(), Hold(), Hold()
    assert one.take(ours)
    assert two.take(ours)
    assert not other.take(theirs)
    one.give_up()
    assert (one.has(ours), two.has(ours)) == (False, True)
    assert not other.take(theirs)
    one.give_up()  # twice is once
    assert not other.take(theirs)
    two.give_up()
    assert other.take(theirs)
    assert not one.take(ours)


def test_whoever_asked_in_vain_has_nothing_to_give_back(segments):
    ours, theirs = (segment.leader for segment in segments)
    one, other = Hold(), Hold()
    assert one.take(ours)
    assert not other.take(theirs)
    other.give_up()
    assert one.has(ours)
    assert segments[1].locks.held_by_other(L.LOCK_LEADER)


def test_who_leads_and_who_publishes_are_two_questions(segments):
    one, other = Hold(), Hold()
    assert one.take(segments[0].leader)
    assert other.take(segments[1].publisher)


def test_a_hold_that_is_forgotten_is_given_up(segments):
    one, other = Hold(), Hold()
    assert one.take(segments[0].leader)
    del one
    gc.collect()
    assert other.take(segments[1].leader)


def test_a_hold_has_one_byte_at_a_time(segments):
    one = Hold()
    assert one.take(segments[0].leader)
    assert one.take(segments[1].publisher)
    assert not segments[1].locks.held_by_other(L.LOCK_LEADER)


def test_it_goes_with_the_description_it_was_taken_through(make_writer):
    closed, open_ = make_writer(), make_writer()
    one, other = Hold(), Hold()
    assert one.take(closed.segment.leader)
    closed.close()
    assert not one.has(closed.segment.leader)
    assert not one.take(closed.segment.leader)
    one.give_up()
    assert other.take(open_.segment.leader)


def test_a_child_of_fork_has_nothing_of_its_parents_and_gives_nothing_of_it_back(segments):
    one = Hold()
    inherited = segments[0].leader
    assert one.take(inherited)
    pid = os.fork()
    if pid == 0:
        fresh = segments[0].leader
        code = 0 if fresh is not inherited and not one.has(inherited) and not one.take(fresh) else 1
        one.give_up()
        inherited.give_up(one._holder)
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert one.has(inherited)
    assert segments[1].locks.held_by_other(L.LOCK_LEADER)


def test_a_child_that_has_not_begun_anew_does_not_take_the_lock_that_it_inherited(segments):
    locks = segments[0].locks
    byte, other = HeldByte(FileLocks(os.dup(locks.fd)), L.LOCK_LEADER), segments[1]  # no hook closes that one
    assert byte.take("parent")
    pid = os.fork()
    if pid == 0:
        os._exit(1 if byte.take("child") or byte.has("parent") else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert other.locks.held_by_other(L.LOCK_LEADER)


def test_a_description_that_may_only_read_says_so(make_writer, place):
    make_writer()
    watched = Segment.open_read_only(place)
    with pytest.raises(OSError):
        Hold().take(watched.leader)
    watched.close()
