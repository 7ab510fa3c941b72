"""The kernel's byte locks, between two descriptions in one process as between two processes."""

from __future__ import annotations

import os
import threading

import pytest

from shm_metrics.locks import FileLocks


@pytest.fixture
def two(tmp_path):
    path = tmp_path / "locked"
    path.touch()
    pair = [FileLocks(os.open(path, os.O_RDWR)) for _ in range(2)]
    yield pair
    for locks in pair:
        locks.close()


def test_one_byte_has_one_exclusive_holder(two):
    one, other = two
    assert one.try_exclusive(5)
    assert not other.try_exclusive(5)
    assert other.try_exclusive(6), "its neighbour is another lock"
    one.release(5)
    assert other.try_exclusive(5)


def test_closed_locks_take_see_and_release_nothing(two):
    one, other = two
    assert one.try_exclusive(5)
    one.close()
    one.release(5)
    assert not one.try_exclusive(6)
    assert not one.try_shared(6)
    assert not one.held_by_other(5)
    assert other.try_exclusive(5)


def test_taking_what_one_holds_already_succeeds(two):
    assert two[0].try_exclusive(5)
    assert two[0].try_exclusive(5)


def test_many_share_a_byte_and_one_alone_may_turn_it_exclusive(two):
    one, other = two
    assert one.try_shared(5)
    assert other.try_shared(5)
    assert not one.try_exclusive(5)
    other.release(5)
    assert one.try_exclusive(5)
    assert not other.try_shared(5)


def test_a_holder_is_seen_by_others_and_not_by_itself(two):
    one, other = two
    one.try_exclusive(7)
    assert other.held_by_other(7)
    assert other.held_by_other(0, 8)
    assert not other.held_by_other(0, 7)
    assert not other.held_by_other(8)
    assert not one.held_by_other(7)


def test_a_shared_holder_is_seen_too(two):
    two[0].try_shared(7)
    assert two[1].held_by_other(7)


def test_closing_drops_every_lock(two):
    one, other = two
    one.try_exclusive(1)
    one.try_shared(2)
    one.close()
    one.close()
    assert other.try_exclusive(1)
    assert other.try_exclusive(2)


def test_a_copy_of_the_descriptor_keeps_the_locks_as_a_child_of_fork_would(two):
    one, other = two
    one.try_exclusive(1)
    copy = os.dup(one.fd)
    one.close()
    assert not other.try_exclusive(1)
    os.close(copy)
    assert other.try_exclusive(1)


def test_a_forgotten_description_is_closed_with_its_locks(tmp_path):
    path = tmp_path / "locked"
    path.touch()
    other = FileLocks(os.open(path, os.O_RDWR))
    forgotten = FileLocks(os.open(path, os.O_RDWR))
    forgotten.try_exclusive(1)
    assert not other.try_exclusive(1)
    del forgotten
    assert other.try_exclusive(1)
    other.close()


def test_waiting_ends_when_the_holder_lets_go(two):
    one, other = two
    one.try_exclusive(5)
    got = []
    waiter = threading.Thread(target=lambda: got.append(other.wait_exclusive(5, 60)))
    waiter.start()
    one.release(5)
    waiter.join(60)
    assert got == [True]


def test_waiting_for_one_who_does_not_let_go_has_an_end(two):
    two[0].try_exclusive(5)
    assert not two[1].wait_exclusive(5, 0.01)
    assert two[0].wait_exclusive(5, 0), "no waiting where there is nothing to wait for"


def test_a_closed_description_takes_nothing(two):
    one, other = two
    one.close()
    assert not one.try_exclusive(2)
    assert not one.try_shared(2)
    assert not one.wait_exclusive(2, 60)
    assert other.try_exclusive(2)


def test_an_error_that_is_not_about_a_holder_is_raised(tmp_path):
    locks = FileLocks(os.open(tmp_path, os.O_PATH))  # such a descriptor can hold no lock
    with pytest.raises(OSError):
        locks.try_exclusive(1)
    locks.close()
