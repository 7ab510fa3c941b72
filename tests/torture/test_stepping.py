"""The harness itself: it finds each store, and a kill that tears something does not pass it by."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.torture.next_life import Course, differences
from tests.torture.stepping import AVAILABLE, State, states_of, thinned

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="single steps are taken on x86-64 Linux")

PAGE = mmap.PAGESIZE


def mapped(path: str, pages: int = 2) -> memoryview:
    Path(path).write_bytes(bytes(pages * PAGE))
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0))


def words(states: list[State], *offsets: int) -> list[tuple[int, ...]]:
    return [tuple(state[offset] for offset in offsets) for state in states]


def test_an_update_of_two_stores_is_torn_in_exactly_one_state(path):
    """Two balances of which one gains what the other loses."""

    def work(path: str) -> Callable[[], object]:
        balances = mapped(path).cast("Q")
        balances[0], balances[512] = 7, 3  # in different pages

        def operation() -> None:
            balances[0] -= 2
            balances[512] += 2

        return operation

    states = states_of(work, path)
    assert words(states, 0, 4096) == [(7, 3), (5, 3), (5, 5)]
    assert [sum(each) == 10 for each in words(states, 0, 4096)] == [True, False, True]


def test_each_state_can_be_put_in_place_again(path):
    def work(path: str) -> Callable[[], object]:
        view = mapped(path)

        def operation() -> None:
            view[5] = 1
            view[PAGE + 7] = 2

        return operation

    states = states_of(work, path)
    found = []
    for state in states:
        state.write(path)
        data = Path(path).read_bytes()
        assert len(data) == 2 * PAGE
        found.append((data[5], data[PAGE + 7], sum(data)))
    assert found == [(0, 0, 0), (1, 0, 1), (1, 2, 3)]


def test_what_does_not_change_the_file_makes_no_state(path):
    def work(path: str) -> Callable[[], object]:
        view = mapped(path)
        view[3] = 9
        other = bytearray(PAGE)

        def operation() -> None:
            view[3] = 9
            other[3] = 1
            sum(range(10_000))

        return operation

    assert len(states_of(work, path)) == 1


def test_system_calls_and_mappings_made_on_the_way_are_followed(path):
    def work(path: str) -> Callable[[], object]:
        def operation() -> None:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(fd, PAGE)
            os.pwrite(fd, b"\1", 0)
            os.posix_fallocate(fd, 0, 2 * PAGE)
            view = memoryview(mmap.mmap(fd, 2 * PAGE))
            view[PAGE] = 2
            os.close(fd)
            os.rename(path, path + ".gone")
            os.unlink(path + ".gone")
            Path(path).write_bytes(b"\3")

        return operation

    seen = [(state.size, state[0], state[PAGE]) for state in states_of(work, path)]
    assert seen == [
        (None, 0, 0),
        (0, 0, 0),
        (PAGE, 0, 0),
        (PAGE, 1, 0),
        (2 * PAGE, 1, 0),
        (2 * PAGE, 1, 2),
        (None, 0, 0),
        (0, 0, 0),
        (1, 3, 0),
    ]


def test_a_long_copy_is_followed_and_thinned(path):
    size = 4 * PAGE

    def work(path: str) -> Callable[[], object]:
        view = mapped(path, 5)
        view[5 * PAGE - 1] = 1

        def operation() -> None:
            view[:size] = b"\1" * size
            view[5 * PAGE - 1] = 2

        return operation

    states = states_of(work, path)
    assert len(states) > size // 128
    counts = [sum(sum(page) for page in state.pages.values()) for state in states]
    assert counts == sorted(set(counts))
    assert (counts[0], counts[-1]) == (1, size + 2)
    chosen = thinned(states, random.Random(1), 5, 40)
    assert len(chosen) <= 40
    assert (chosen[0][0], chosen[-1][0]) == (0, len(states) - 1)
    assert all(states[number] is state for number, state in chosen)


def test_work_that_fails_says_so(path):
    def work(path: str) -> Callable[[], object]:
        mapped(path)
        return lambda: 1 // 0

    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        states_of(work, path)

    def cannot_be_prepared(path: str) -> Callable[[], object]:
        raise ValueError("not today")

    with pytest.raises(AssertionError, match="not today"):
        states_of(cannot_be_prepared, path)


def test_a_child_that_crashes_by_itself_says_so(path):
    def work(path: str) -> Callable[[], object]:
        faulthandler.disable()
        mapped(path)
        return lambda: ctypes.string_at(8)

    with pytest.raises(AssertionError, match="SIGSEGV"):
        states_of(work, path)


def test_a_child_can_be_killed_in_any_of_its_states(path):
    def work(path: str) -> Callable[[], object]:
        view = mapped(path)

        def operation() -> None:
            for n in range(5):
                view[n] = 1

        return operation

    assert len(states_of(work, path)) == 6
    for number in range(6):
        assert sum(states_of(work, path, number)[-1].pages.get(0, b"")) == number
        assert sum(Path(path).read_bytes()) == number


@pytest.mark.parametrize(
    ("seen", "sound"),
    [
        ([1.0, 1.0, 2.0], True),  # as before
        ([5.0, 5.0, 6.0], True),  # as after
        ([1.0, 5.0, 6.0], True),  # the first writer completes what a reader cannot
        ([5.0, 1.0, 2.0], False),
        ([1.0, 1.0, 6.0], False),
        ([3.0, 3.0, 4.0], False),
        ([None, None, 2.0], False),
        ([0.0, 0.0, 1.0], False),
    ],
)
def test_a_series_must_have_the_course_of_before_or_of_after(seen, sound):
    def course(values: list[float | None]) -> Course:
        return Course([{} if value is None else {"x": value} for value in values])

    found = differences(course(seen), course([1.0, 1.0, 2.0]), course([5.0, 5.0, 6.0]))
    assert (found == []) is sound


def test_a_new_series_may_have_been_made_and_not_counted_in():
    before, after = Course([{}, {}]), Course([{"x": 4.0}, {"x": 4.0}])
    assert differences(Course([{"x": 0.0}, {"x": 0.0}]), before, after) == []
    assert differences(Course([{"x": 2.0}, {"x": 2.0}]), before, after) != []
    assert differences(before, Course([{"x": 4.0}, {"x": 4.0}]), Course([{"x": 9.0}, {"x": 9.0}])) != []
