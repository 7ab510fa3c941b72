"""The kernel's byte locks, between two descriptions in one process as between two processes."""

from __future__ import annotations

import fcntl
import os
import struct
import threading

import pytest

from shm_metrics.segment.file_locks import FileLocks, ProcessLocks


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


# -- descriptors that others close -----------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path):
    """(locks that are kept, others of the same file, how to have the number closed and given to another file)."""
    path, application = tmp_path / "locked", tmp_path / "application"
    path.touch()
    made = [FileLocks(os.open(path, os.O_RDWR)) for _ in range(2)]
    made[0].keep(lambda: os.open(path, os.O_RDWR))
    taken = []

    def steal():
        number = made[0].inherited_fd()
        other = os.open(application, os.O_RDWR | os.O_CREAT)
        os.dup2(other, number)
        os.close(other)
        taken.append(number)
        return number

    yield (*made, steal)
    for locks in made:
        locks.close()
    for number in taken:
        os.close(number)  # fails if the library closed it


def test_a_number_that_others_took_is_not_used(kept):
    locks, _, steal = kept
    number = steal()
    assert locks.fd not in (-1, number)


def test_locks_stay_when_others_close_the_number(kept):
    locks, other, steal = kept
    assert locks.try_exclusive(1)
    assert locks.try_shared(2)
    steal()
    assert not other.try_exclusive(1)
    assert not other.try_exclusive(2)
    assert locks.try_exclusive(3), "through the new description"
    steal()
    assert [other.try_exclusive(byte) for byte in (1, 2, 3)] == [False] * 3
    assert locks.holds(1)
    assert locks.holds(3)
    assert locks.try_exclusive(1), "it has it"
    locks.close()
    assert all(other.try_exclusive(byte) for byte in (1, 2, 3))


def test_what_a_lost_description_has_goes_with_the_last_of_it(kept):
    locks, other, steal = kept
    locks.try_exclusive(1)
    locks.try_exclusive(2)
    steal()
    locks.release(1)
    assert not locks.holds(1)
    assert not other.try_exclusive(1), "one alone cannot be released"
    assert locks.try_exclusive(1), "and is no other's"
    locks.release(1)
    locks.release(2)
    assert other.try_exclusive(1)
    assert other.try_exclusive(2)


def test_own_locks_of_a_lost_description_are_not_anothers(kept):
    locks, other, steal = kept
    locks.try_exclusive(3)
    other.try_exclusive(5)
    steal()
    assert locks.held_by_others(range(8)) == [5]
    assert not locks.held_by_other(0, 5)
    assert locks.held_by_other(0, 6)
    assert locks.held_by_other(4, 4)


def test_without_a_way_back_nothing_more_is_taken(tmp_path, kept):
    locks, other, steal = kept
    locks.try_exclusive(1)
    locks.try_shared(2)
    os.unlink(tmp_path / "locked")
    locks.keep(lambda: os.open(tmp_path / "locked", os.O_RDWR))
    steal()
    assert locks.fd == -1
    assert not locks.closed
    assert not locks.try_exclusive(3)
    assert not locks.try_exclusive(2), "shared is not alone"
    assert locks.holds(1)
    assert not other.try_exclusive(1)
    assert not other.try_exclusive(2)


def test_a_file_that_is_not_kept_is_forgotten(tmp_path):
    path = tmp_path / "locked"
    path.touch()
    locks = FileLocks(os.open(path, os.O_RDWR))
    locks.try_exclusive(1)
    os.close(locks.fd)
    assert not locks.holds(1)
    assert not locks.try_exclusive(1)
    locks.release(1)
    locks.close()


def test_a_child_does_not_keep_its_parents_locks(kept):
    """A forked child that closed what it inherited has nothing more of the description."""
    locks, other, _ = kept
    locks.try_exclusive(1)
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        locks.close()
        os.write(ready[1], b".")
        os.close(go[1])
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    locks.close()
    assert other.try_exclusive(1)
    for fd in (go[1], go[0], *ready):
        os.close(fd)
    os.waitpid(pid, 0)


# -- locks by process ------------------------------------------------------------------------------------------------


def in_child(work):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_without_a_description_of_its_own_locks_by_process(two):
    locks, other = two
    locks.try_exclusive(1)

    def child():
        mine = ProcessLocks(locks)
        assert locks.closed
        assert not mine.try_exclusive(1), "the parent's, though of the same description"
        assert mine.held_by_others(range(4)) == [1]
        assert mine.try_exclusive(2)
        assert not other.try_exclusive(2)
        assert other.held_by_other(2)
        mine.release(2)
        assert other.try_exclusive(2)
        assert not mine.try_shared(2)

    assert in_child(child) == 0
    assert locks.try_exclusive(2) is False, "the other description has it still, which the child shared"


def test_two_of_one_process_exclude_each_other_and_close_nothing_of_each_other(two):
    """The kernel takes them for one, and drops the locks of both when either closes a descriptor."""
    one, other = two

    def child():
        first, second = ProcessLocks(one), ProcessLocks(other)
        assert first.try_exclusive(1)
        assert not second.try_exclusive(1)
        assert second.held_by_other(1)
        assert first.try_shared(2)
        assert second.try_shared(2)
        assert not second.try_exclusive(2)
        second.release(2)
        third = FileLocks(os.open(f"/proc/self/fd/{first.fd}", os.O_RDWR))
        assert not third.try_exclusive(2), "the first one's is left"
        assert third.try_exclusive(3)
        number = third.fd
        third.close()
        os.fstat(number)  # waits
        assert first.try_exclusive(3), "the lock does not"
        waiting = second.fd
        second.close()
        os.fstat(waiting)
        probe = os.open(f"/proc/self/fd/{first.fd}", os.O_RDWR)
        asked = fcntl.fcntl(probe, fcntl.F_OFD_GETLK, struct.pack("@hhqqi4x", fcntl.F_WRLCK, 0, 1, 1, 0))
        assert struct.unpack("@hhqqi4x", asked)[0] != fcntl.F_UNLCK
        first.close()
        for fd in (number, waiting):
            with pytest.raises(OSError):
                os.fstat(fd)

    assert in_child(child) == 0


def test_locks_by_process_go_when_others_close_the_number(two):
    def child():
        mine = ProcessLocks(two[0])
        assert mine.try_exclusive(1)
        os.close(mine.fd)
        assert not mine.holds(1)
        assert not mine.try_exclusive(1)
        assert two[1].try_exclusive(1)
        mine.close()

    assert in_child(child) == 0
