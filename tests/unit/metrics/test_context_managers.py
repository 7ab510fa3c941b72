"""Contexts that are decorators too: for blocks, functions and async functions."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from shm_metrics.metrics import context_managers
from shm_metrics.metrics.context_managers import ExceptionCounter, InProgress, Timer


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Level:
    """What inc and dec did, in the order in which they did it."""

    def __init__(self) -> None:
        self.seen: list[float] = [0.0]

    def inc(self, amount: float = 1.0) -> None:
        self.seen.append(self.seen[-1] + amount)

    def dec(self, amount: float = 1.0) -> None:
        self.seen.append(self.seen[-1] - amount)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(context_managers, "perf_counter", clock)
    return clock


def test_a_timer_observes_the_seconds_of_a_block(clock):
    seen: list[float] = []
    with Timer(seen.append):
        clock.now += 2.5
    assert seen == [2.5]


def test_a_timer_says_how_long_the_block_took(clock):
    with Timer(lambda seconds: None) as timer:
        clock.now += 2.5
    assert timer.duration == 2.5


def test_a_timer_observes_a_block_that_raises(clock):
    seen: list[float] = []

    def fail() -> None:
        with Timer(seen.append):
            clock.now += 1.0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [1.0]


def test_a_clock_that_goes_backwards_is_no_negative_time(clock):
    seen: list[float] = []
    with Timer(seen.append):
        clock.now -= 5.0
    assert seen == [0.0]


def test_a_timed_function_is_itself_in_all_but_time(clock):
    seen: list[float] = []

    @Timer(seen.append)
    def work(a: int, *, b: int = 2) -> int:
        """Works."""
        clock.now += a
        return a * b

    assert work(3, b=4) == 12
    assert (work.__name__, work.__doc__, str(inspect.signature(work))) == (
        "work",
        "Works.",
        "(a: 'int', *, b: 'int' = 2) -> 'int'",
    )
    assert seen == [3.0]


def test_a_timed_function_takes_what_it_took_before_for_those_who_do_not_look_behind_a_wrapper():
    def work(a: int, *, b: int = 2) -> int:
        return a * b

    async def work_later(a: int, *, b: int = 2) -> int:
        return a * b

    for function in (work, work_later):
        assert inspect.getfullargspec(Timer(print)(function)) == inspect.getfullargspec(function)


def test_a_function_that_does_not_say_what_it_takes_can_be_timed(clock):
    seen: list[float] = []
    assert Timer(seen.append)(dict)(a=1) == {"a": 1}
    assert seen == [0.0]


def test_a_timed_function_that_calls_itself_observes_each_call(clock):
    seen: list[float] = []

    @Timer(seen.append)
    def down(n: int) -> None:
        clock.now += 1.0
        if n:
            down(n - 1)

    down(2)
    assert seen == [1.0, 2.0, 3.0]


def test_an_async_function_is_timed_until_it_has_ended(clock):
    seen: list[float] = []

    @Timer(seen.append)
    async def work(turns: int) -> str:
        for _ in range(turns):
            await asyncio.sleep(0)
            clock.now += 1.0
        return "done"

    assert inspect.iscoroutinefunction(work)
    assert asyncio.run(work(3)) == "done"
    assert seen == [3.0]


def test_async_calls_that_overlap_are_timed_apart(clock):
    seen: list[float] = []

    async def main() -> None:
        first, second = asyncio.Event(), asyncio.Event()

        @Timer(seen.append)
        async def wait(event: asyncio.Event) -> None:
            await event.wait()

        tasks = [asyncio.create_task(wait(first)), asyncio.create_task(wait(second))]
        await asyncio.sleep(0)
        clock.now += 1.0
        second.set()
        await tasks[1]
        clock.now += 1.0
        first.set()
        await tasks[0]

    asyncio.run(main())
    assert seen == [1.0, 2.0]


def test_exceptions_are_counted_by_type_and_go_on():
    level = Level()
    with pytest.raises(KeyError), ExceptionCounter(level, (KeyError, OSError)):
        raise KeyError
    with pytest.raises(ValueError), ExceptionCounter(level, KeyError):
        raise ValueError
    with ExceptionCounter(level, Exception):
        pass
    assert level.seen == [0.0, 1.0]


def test_exceptions_of_a_function_and_of_an_async_function_are_counted():
    level = Level()

    @ExceptionCounter(level, ValueError)
    def work() -> None:
        raise ValueError

    @ExceptionCounter(level, ValueError)
    async def later() -> None:
        await asyncio.sleep(0)
        raise ValueError

    for call in (work, lambda: asyncio.run(later())):
        with pytest.raises(ValueError):
            call()
    assert level.seen == [0.0, 1.0, 2.0]


def test_work_in_progress_goes_up_and_down_again_also_when_it_fails():
    level = Level()
    with InProgress(level):
        assert level.seen[-1] == 1.0
    with pytest.raises(KeyError), InProgress(level):
        raise KeyError

    @InProgress(level)
    async def work() -> float:
        await asyncio.sleep(0)
        return level.seen[-1]

    assert asyncio.run(work()) == 1.0
    assert level.seen == [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
