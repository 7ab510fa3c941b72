"""instrument(): functions and blocks that say when they begin, and how they end.

Lives here: emitting started, completed, failed and cancelled around a call. May not: know what becomes of an event.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from shm_metrics.errors import InvalidMetricError
from shm_metrics.events.publishing import emitter

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["instrument"]

F = TypeVar("F", bound=Callable[..., Any])


class instrument:  # noqa: N801  # used as a decorator, and as a context manager in place of one
    """Say `{entity}.started`, and then `.completed`, `.failed` or `.cancelled` with the duration in seconds.

        @instrument("task", handler_class="Mailer")
        def send(): ...

        with instrument("task"): ...

    As a decorator it takes functions, async functions, generators and async generators; a generator starts when it is
    first asked for an item. Cancelled is: asyncio's CancelledError, or a generator that is closed before its end.
    A failed or cancelled event also has `error`, the name of the exception's class; the exception goes on.
    to: an EventRouter, a backend or a callable of (event_name, payload); the default backend if left out.
    fields: in the payload of each event.
    """

    def __init__(self, entity: str, *, to: Any = None, **fields: Any) -> None:
        if not isinstance(entity, str) or not entity or "." in entity:
            raise InvalidMetricError(f"instrument({entity!r}): give what the events are named after, without a dot")
        self._entity, self._to, self._fields = entity, to, fields
        self._emit = emitter(to)
        self._began = 0.0

    def _again(self) -> Self:
        return type(self)(self._entity, to=self._to, **self._fields)

    def __enter__(self) -> Self:
        self._emit(f"{self._entity}.started", {**self._fields})
        self._began = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        payload = {"duration": perf_counter() - self._began, **self._fields}
        if kind is None:
            self._emit(f"{self._entity}.completed", payload)
            return
        payload["error"] = kind.__name__
        how = "cancelled" if _is_cancelled(kind) else "failed"
        self._emit(f"{self._entity}.{how}", payload)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: F) -> F:
        again = self._again
        wrapped: Any
        if inspect.isasyncgenfunction(function):

            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                with again():
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

        elif inspect.isgeneratorfunction(function):

            def wrapped(*args: Any, **kwargs: Any) -> Any:
                with again():
                    return (yield from function(*args, **kwargs))

        elif inspect.iscoroutinefunction(function):

            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                with again():
                    return await function(*args, **kwargs)

        else:

            def wrapped(*args: Any, **kwargs: Any) -> Any:
                with again():
                    return function(*args, **kwargs)

        return cast(F, functools.wraps(function)(wrapped))


def _is_cancelled(kind: type[BaseException]) -> bool:
    asyncio = sys.modules.get("asyncio")  # not imported for this: it takes longer than all of ours
    return issubclass(kind, GeneratorExit) or (asyncio is not None and issubclass(kind, asyncio.CancelledError))
