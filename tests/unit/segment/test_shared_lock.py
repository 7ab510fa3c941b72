"""A lock byte that several holders in one process share, and other processes want."""

from __future__ import annotations

import gc
import os

import pytest

from shm_metrics.segment import layout as L
from shm_metrics.segment.file_locks import FileLocks
from shm_metrics.segment.segment import Segment
from shm_metrics.segment.shared_lock import LockHandle, SharedLock


@pytest.fixture
def segments(make_writer):
    """Two, of two workers."""
    return make_writer().segment, make_writer().segment


def test_the_last_holder_that_releases_gives_the_byte_back(segments):
    ours, theirs = (segment.leader for segment in segments)
    one, two, other = LockHandle(), LockHandle(), LockHandle()
    assert one.acquire(ours)
    assert two.acquire(ours)
    assert not other.acquire(theirs)
    one.release()
    assert (one.holds(ours), two.holds(ours)) == (False, True)
    assert not other.acquire(theirs)
    one.release()  # twice is once
    assert not other.acquire(theirs)
    two.release()
    assert other.acquire(theirs)
    assert not one.acquire(ours)


def test_a_handle_that_acquired_nothing_releases_nothing(segments):
    ours, theirs = (segment.leader for segment in segments)
    one, other = LockHandle(), LockHandle()
    assert one.acquire(ours)
    assert not other.acquire(theirs)
    other.release()
    assert one.holds(ours)
    assert segments[1].locks.held_by_other(L.LOCK_LEADER)


def test_who_leads_and_who_publishes_are_two_questions(segments):
    one, other = LockHandle(), LockHandle()
    assert one.acquire(segments[0].leader)
    assert other.acquire(segments[1].publisher)


def test_a_forgotten_handle_releases_its_lock(segments):
    one, other = LockHandle(), LockHandle()
    assert one.acquire(segments[0].leader)
    del one
    gc.collect()
    assert other.acquire(segments[1].leader)


def test_a_handle_holds_one_lock_at_a_time(segments):
    one = LockHandle()
    assert one.acquire(segments[0].leader)
    assert one.acquire(segments[1].publisher)
    assert not segments[1].locks.held_by_other(L.LOCK_LEADER)


def test_it_goes_with_the_description_it_was_taken_through(make_writer):
    closed, open_ = make_writer(), make_writer()
    one, other = LockHandle(), LockHandle()
    assert one.acquire(closed.segment.leader)
    closed.close()
    assert not one.holds(closed.segment.leader)
    assert not one.acquire(closed.segment.leader)
    one.release()
    assert other.acquire(open_.segment.leader)


def test_a_child_of_fork_holds_and_releases_none_of_its_parents_locks(segments):
    one = LockHandle()
    inherited = segments[0].leader
    assert one.acquire(inherited)
    pid = os.fork()
    if pid == 0:
        fresh = segments[0].leader
        code = 0 if fresh is not inherited and not one.holds(inherited) and not one.acquire(fresh) else 1
        one.release()
        inherited.release(one._holder)
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert one.holds(inherited)
    assert segments[1].locks.held_by_other(L.LOCK_LEADER)


def test_a_child_before_its_fork_hook_does_not_acquire_the_inherited_lock(segments):
    locks = segments[0].locks
    lock, other = SharedLock(FileLocks(os.dup(locks.fd)), L.LOCK_LEADER), segments[1]  # no hook closes that one
    assert lock.acquire("parent")
    pid = os.fork()
    if pid == 0:
        os._exit(1 if lock.acquire("child") or lock.held_by("parent") else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert other.locks.held_by_other(L.LOCK_LEADER)


def test_a_description_that_may_only_read_says_so(make_writer, place):
    make_writer()
    watched = Segment.open_read_only(place)
    with pytest.raises(OSError):
        LockHandle().acquire(watched.leader)
    watched.close()
