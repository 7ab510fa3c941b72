"""instrument(): publish events when functions and blocks start, and how they end."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from time import perf_counter
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from shm_metrics.errors import InvalidMetricError
from shm_metrics.events.emitter import emitter

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["instrument"]

F = TypeVar("F", bound=Callable[..., Any])

_CANCELLED = {"asyncio": "CancelledError", "greenlet": "GreenletExit", "trio": "Cancelled"}


class _Call:
    """One call or block, from start to end."""

    __slots__ = ("began", "ended", "of", "outer")

    def __init__(self, of: instrument, outer: _Call | None = None) -> None:
        self.of = of
        self.outer = outer
        self.ended = False
        of._emit(f"{of._entity}.started", {**of._fields})
        self.began = perf_counter()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end(kind)

    def end(self, kind: type[BaseException] | None) -> None:
        payload = {"duration": perf_counter() - self.began, **self.of._fields}
        self.ended = True
        self.outer = _still_open(self.outer)  # else tasks that start one another build an endless chain
        how = "completed"
        if kind is not None:
            payload["error"] = kind.__name__
            how = "cancelled" if _is_cancelled(kind) else "failed"
        self.of._emit(f"{self.of._entity}.{how}", payload)


_innermost: ContextVar[_Call | None] = ContextVar("shm_metrics_innermost", default=None)
"""The innermost block of this thread or task; `outer` leads to the enclosing ones."""


class instrument:  # noqa: N801  # used as a decorator, and as a context manager in place of one
    """Publish `{entity}.started`, then `.completed`, `.failed` or `.cancelled` with the duration in seconds.

        @instrument("task", handler_class="Mailer")
        def send(): ...

        with instrument("task"): ...

    As a decorator it takes functions, async functions, generators, async generators, methods of every kind and callable
    objects. A generator starts when its first item is requested. A function that returns a coroutine ends when the
    coroutine does; one that returns another awaitable ends when it returns.
    As a context manager, one object can be used by many threads and tasks at once, and can be nested.

    Cancellation is CancelledError of asyncio, the equivalents of trio and greenlet, or closing a generator before its
    end. Failed and cancelled events also have `error`, the name of the exception's class. The exception propagates.
    to: an EventRouter, a backend or a callable of (event_name, payload); the default backend if left out.
    fields: added to the payload of each event.
    """

    def __init__(self, entity: str, *, to: Any = None, **fields: Any) -> None:
        if not isinstance(entity, str) or not entity or "." in entity:
            raise InvalidMetricError(f"instrument({entity!r}): give what the events are named after, without a dot")
        self._entity, self._fields = entity, fields
        self._emit = emitter(to)
        self._open: dict[_Call, None] = {}

    def __enter__(self) -> Self:
        call = _Call(self, _still_open(_innermost.get()))
        self._open[call] = None
        _innermost.set(call)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        call = _innermost.get()
        while call is not None and (call.of is not self or call.ended):
            call = call.outer
        if call is None:
            # Started in another context, such as that of a fixture: take the last one.
            call = next(reversed(tuple(self._open)), None)
        if call is not None:
            self._open.pop(call, None)
            call.end(kind)
        _innermost.set(_still_open(_innermost.get()))

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: F) -> F:
        if isinstance(function, staticmethod | classmethod):
            return cast(F, type(function)(self(function.__func__)))
        if inspect.isclass(function) or not callable(function):
            raise InvalidMetricError(f"instrument({self._entity!r}) of {function!r}: give a function, or a method")

        def is_one(kind: Callable[[Any], bool]) -> bool:
            return kind(function) or (not inspect.isroutine(function) and kind(type(function).__call__))

        wrapped: Any
        if is_one(inspect.isasyncgenfunction):

            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                with _Call(self):
                    items = function(*args, **kwargs)
                    step = items.asend(None)
                    while True:
                        try:
                            item = await step
                        except StopAsyncIteration:
                            return
                        try:
                            sent = yield item
                        except GeneratorExit:
                            await items.aclose()
                            raise
                        except BaseException as error:
                            step = items.athrow(error)
                        else:
                            step = items.asend(sent)

        elif is_one(inspect.isgeneratorfunction):

            def wrapped(*args: Any, **kwargs: Any) -> Any:
                with _Call(self):
                    return (yield from function(*args, **kwargs))

        elif is_one(inspect.iscoroutinefunction):

            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                with _Call(self):
                    return await function(*args, **kwargs)

        else:

            def wrapped(*args: Any, **kwargs: Any) -> Any:
                call = _Call(self)
                try:
                    result = function(*args, **kwargs)
                except BaseException as error:
                    call.end(type(error))
                    raise
                if type(result) is CoroutineType:
                    return _until_awaited(call, result)
                call.end(None)
                return result

        return cast(F, functools.wraps(function)(wrapped))


async def _until_awaited(call: _Call, coroutine: Coroutine[Any, Any, Any]) -> Any:
    with call:
        return await coroutine


def _still_open(call: _Call | None) -> _Call | None:
    while call is not None and call.ended:
        call = call.outer
    return call


def _is_cancelled(kind: type[BaseException]) -> bool:
    # The modules are not imported for this: asyncio alone takes longer than all of shm_metrics.
    found = [getattr(sys.modules.get(module), name, None) for module, name in _CANCELLED.items()]
    return issubclass(kind, (GeneratorExit, *[each for each in found if isinstance(each, type)]))
