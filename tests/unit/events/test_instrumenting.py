"""instrument(): what functions and blocks of every kind say of themselves."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import threading
from time import perf_counter

import pytest

from shm_metrics import EventRouter, InvalidMetricError, instrument
from shm_metrics.events import instrumenting
from tests.system.jobs.conftest import required


class Heard(list):
    """Takes events; names: those heard."""

    def __call__(self, event_name, payload):
        self.append((event_name, payload))

    @property
    def names(self):
        return [name for name, _ in self]


@pytest.fixture
def heard():
    return Heard()


def test_a_function_says_when_it_begins_and_how_it_ends(heard):
    @instrument("task", to=heard, handler_class="Mailer")
    def divide(a: int, b: int = 1) -> float:
        """Divides."""
        assert heard.names[-1] == "task.started"
        return a / b

    assert divide(6, b=3) == 2.0
    with pytest.raises(ZeroDivisionError):
        divide(1, 0)
    assert heard.names == ["task.started", "task.completed", "task.started", "task.failed"]
    assert heard[0][1] == {"handler_class": "Mailer"}
    assert heard[1][1].keys() == {"duration", "handler_class"}
    assert 0 <= heard[1][1]["duration"] < 10
    assert heard[3][1]["error"] == "ZeroDivisionError"
    assert (divide.__name__, divide.__doc__, list(inspect.signature(divide).parameters)) == (
        "divide",
        "Divides.",
        ["a", "b"],
    )


def test_a_block_says_the_same(heard):
    with instrument("task", to=heard):
        pass
    with pytest.raises(KeyError), instrument("task", to=heard):
        raise KeyError
    assert heard.names == ["task.started", "task.completed", "task.started", "task.failed"]


def test_an_async_function_and_an_async_block(heard):
    @instrument("task", to=heard)
    async def work(error=None):
        await asyncio.sleep(0)
        if error:
            raise error
        return 5

    async def main():
        assert await work() == 5
        with pytest.raises(KeyError):
            await work(KeyError())
        async with instrument("block", to=heard):
            await asyncio.sleep(0)
        task = asyncio.ensure_future(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert inspect.iscoroutinefunction(work)
    asyncio.run(main())
    assert heard.names == [
        *["task.started", "task.completed", "task.started", "task.failed"],
        *["block.started", "block.completed", "task.started", "task.cancelled"],
    ]
    assert heard[-1][1]["error"] == "CancelledError"


def test_a_generator_is_a_generator_as_before(heard):
    @instrument("task", to=heard)
    def numbers():
        got = yield 1
        try:
            yield got
        except KeyError:
            yield "thrown"
        return "end"

    assert inspect.isgeneratorfunction(numbers)
    items = numbers()
    assert heard == [], "it has not begun"
    assert next(items) == 1
    assert heard.names == ["task.started"]
    assert items.send(2) == 2
    assert items.throw(KeyError()) == "thrown"
    with pytest.raises(StopIteration) as stopped:
        next(items)
    assert stopped.value.value == "end"
    assert heard.names == ["task.started", "task.completed"]
    items = numbers()
    next(items)
    items.close()
    assert heard.names[2:] == ["task.started", "task.cancelled"]
    items = numbers()
    next(items)
    with pytest.raises(ValueError):
        items.throw(ValueError())
    assert heard.names[4:] == ["task.started", "task.failed"]


def test_an_async_generator_is_one_as_before(heard):
    closed = []

    @instrument("task", to=heard)
    async def numbers():
        try:
            got = yield 1
            try:
                yield got
            except KeyError:
                yield "thrown"
        finally:
            closed.append(1)

    async def main():
        assert [item async for item in numbers()] == [1, None]
        assert heard.names == ["task.started", "task.completed"]
        items = numbers()
        assert await items.asend(None) == 1
        assert await items.asend(2) == 2
        assert await items.athrow(KeyError()) == "thrown"
        with pytest.raises(StopAsyncIteration):
            await items.asend(None)
        assert heard.names[2:] == ["task.started", "task.completed"]
        items = numbers()
        await items.asend(None)
        await items.aclose()
        assert heard.names[4:] == ["task.started", "task.cancelled"]
        items = numbers()
        await items.asend(None)
        with pytest.raises(ValueError):
            await items.athrow(ValueError())
        assert heard.names[6:] == ["task.started", "task.failed"]

    assert inspect.isasyncgenfunction(numbers)
    asyncio.run(main())
    assert closed == [1] * 4


def durations(heard, entity="task"):
    return [payload["duration"] for name, payload in heard if name == f"{entity}.completed"]


def test_one_object_may_be_many_blocks_at_once(heard):
    """In threads, in tasks and within itself: each block has its own beginning."""
    block = instrument("task", to=heard)
    long, short = threading.Event(), threading.Event()

    def first():
        with block:
            long.set()
            short.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    long.wait(10)
    began = perf_counter()
    with block:
        pass
    took = perf_counter() - began
    short.set()
    thread.join(10)
    assert durations(heard)[0] <= took < durations(heard)[1]

    heard.clear()

    async def one(inside, go_on):
        async with block:
            inside.set()
            await go_on.wait()

    async def main():
        events = [asyncio.Event() for _ in range(4)]
        outer = asyncio.ensure_future(one(*events[:2]))
        await events[0].wait()
        inner = asyncio.ensure_future(one(*events[2:]))
        await events[2].wait()
        events[1].set()
        await outer  # it ends before the one that began after it
        events[3].set()
        await inner

    began = perf_counter()
    asyncio.run(main())
    assert heard.names == ["task.started", "task.started", "task.completed", "task.completed"]
    assert all(0 < duration <= perf_counter() - began for duration in durations(heard))

    heard.clear()
    with block:
        with block:
            with block:
                pass
    assert durations(heard) == sorted(durations(heard))
    assert block._open == {}


def test_a_block_may_end_in_another_context(heard):
    """As those of fixtures and of generators that somebody else closes do."""
    block = instrument("task", to=heard)

    def around():
        with block:
            yield

    items = around()
    contextvars.Context().run(next, items)
    items.close()
    assert heard.names == ["task.started", "task.cancelled"]
    assert 0 < heard[1][1]["duration"] < 10


def test_tasks_that_begin_one_another_within_a_block_leave_nothing_behind(heard):
    block = instrument("task", to=heard)
    depths = []

    async def work(n):
        async with block:
            call, depth = instrumenting._innermost.get(), 0
            while call is not None:
                call, depth = call.outer, depth + 1
            depths.append(depth)
            following = asyncio.ensure_future(work(n - 1)) if n else None
            await asyncio.sleep(0)
        return following

    async def main():
        following = asyncio.ensure_future(work(50))
        while following is not None:
            following = await following

    asyncio.run(main())
    assert len(depths) == 51
    assert max(depths) <= 3
    assert block._open == {}


def test_methods_of_every_kind(heard):
    class Mailer:
        @instrument("method", to=heard)
        def send(self):
            return self

        @instrument("class", to=heard)
        @classmethod
        def make(cls):
            return cls

        @classmethod
        @instrument("class", to=heard)
        def made(cls):
            return cls

        @instrument("static", to=heard)
        @staticmethod
        def add(a, b):
            return a + b

    mailer = Mailer()
    assert (mailer.send(), mailer.make(), Mailer.made(), Mailer.add(1, 2)) == (mailer, Mailer, Mailer, 3)
    assert [name for name in heard.names if name.endswith("completed")] == [
        f"{kind}.completed" for kind in ("method", "class", "class", "static")
    ]


def test_what_gives_a_coroutine_ends_when_that_does(heard):
    """However it looks: a partial, an object with an async __call__, a function that hides one."""
    inside = []

    async def work(n):
        await asyncio.sleep(0)
        inside.append(list(heard.names))
        return n

    class Working:
        async def __call__(self, n):
            return await work(n)

    for function in (functools.partial(work, 5), functools.partial(Working(), 5), lambda: work(5)):
        heard.clear()
        assert asyncio.run(instrument("task", to=heard)(function)()) == 5
        assert inside.pop() == ["task.started"]
        assert heard.names == ["task.started", "task.completed"]
    heard.clear()
    assert asyncio.run(instrument("task", to=heard)(Working())(5)) == 5
    assert inspect.iscoroutinefunction(instrument("task", to=heard)(Working()))
    assert inside.pop() == ["task.started"]


def test_a_task_that_is_cancelled_before_it_begins_says_nothing(heard):
    @instrument("task", to=heard)
    async def work():
        pass

    async def main():
        task = asyncio.ensure_future(work())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert heard == []


def test_a_greenlet_that_is_killed_is_cancelled(heard):
    gevent = required("gevent")
    begun = gevent.event.Event()

    @instrument("task", to=heard)
    def work():
        begun.set()
        gevent.sleep(60)

    greenlet = gevent.spawn(work)
    begun.wait(10)
    greenlet.kill()
    assert heard.names == ["task.started", "task.cancelled"]
    assert heard[1][1]["error"] == "GreenletExit"


@pytest.mark.parametrize("what", [int, 3, None])
def test_what_cannot_be_instrumented_is_refused(what):
    with pytest.raises(InvalidMetricError, match="give a function, or a method"):
        instrument("task")(what)


def test_calls_within_calls_have_durations_of_their_own(heard):
    @instrument("task", to=heard)
    def count(n):
        return n if n == 0 else count(n - 1)

    count(2)
    assert durations(heard) == sorted(durations(heard))
    assert len(durations(heard)) == 3


def test_events_go_to_a_router_or_a_backend(make_backend):
    backend, router = make_backend(), EventRouter(["metrics"])
    backend.register_event_router(router)
    for to in (backend, router):
        with instrument("task", to=to):
            pass
    assert backend.counter("task_completed_total").value == 2.0
    assert backend.histogram("task_duration_seconds").count == 2.0


def test_events_go_to_the_default_backend_unless_told(python, segment_name):
    code = """
import shm_metrics
@shm_metrics.instrument("task")
def work(): pass
work()
print(shm_metrics.get_backend().counter("task_completed_total").value)
"""
    assert python(code, SHM_METRICS_SEGMENT=segment_name) == "1.0\n"


def test_events_load_neither_numpy_nor_asyncio(python, segment_name):
    code = """
import sys
import shm_metrics
with shm_metrics.instrument("task"):
    pass
router = shm_metrics.EventRouter(["metrics"])
shm_metrics.get_backend().register_event_router(router)
print(router.route("task.completed", {"duration": 1}))
print([name for name in ("numpy", "asyncio") if name in sys.modules])
"""
    assert python(code, SHM_METRICS_SEGMENT=segment_name) == "['metrics']\n[]\n"


def test_whoever_listens_cannot_break_what_is_listened_to(caplog):
    def failing(event_name, payload):
        raise RuntimeError("no")

    @instrument("task", to=failing)
    def work():
        return 5

    with caplog.at_level(logging.ERROR):
        assert [work(), work()] == [5, 5]
    assert 1 <= len(caplog.records) <= 3


@pytest.mark.parametrize("entity", ["", "a.b", 3, None])
def test_an_entity_names_metrics(entity):
    with pytest.raises(InvalidMetricError):
        instrument(entity)


def test_events_go_to_something():
    with pytest.raises(InvalidMetricError, match="give a backend"):
        instrument("task", to=3)
