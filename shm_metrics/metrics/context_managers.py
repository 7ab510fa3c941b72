"""Context managers that are decorators too, for functions and async functions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType
from typing import Any, Protocol, TypeVar, cast

from shm_metrics.errors import InvalidMetricError

__all__ = ["ExceptionCounter", "InProgress", "LabelledTimer", "Timer", "decorate", "timed"]

F = TypeVar("F", bound=Callable[..., Any])


class _Increments(Protocol):
    def inc(self, amount: float = ...) -> None: ...


class _MovesBothWays(_Increments, Protocol):
    def dec(self, amount: float = ...) -> None: ...


def decorate(function: F, context: Callable[[], AbstractContextManager[Any]]) -> F:
    """`function` with every call inside a new `context()`; an async function with every awaited call."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapped_async(*args: Any, **kwargs: Any) -> Any:
            with context():
                return await function(*args, **kwargs)

        return _with_arguments_of(function, wrapped_async)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with context():
            return function(*args, **kwargs)

    return _with_arguments_of(function, wrapped)


def _with_arguments_of(function: F, wrapped: Any) -> F:
    """`wrapped`, saying itself what `function` takes: inspect.getfullargspec does not look behind a wrapper."""
    try:
        wrapped.__signature__ = inspect.signature(function)
    except (TypeError, ValueError):  # one that does not say what it takes, as some written in C do
        pass
    return cast(F, wrapped)


class _Context:
    """Base of the contexts below: as a decorator, each call gets a context of its own."""

    def _again(self) -> _Context:
        raise NotImplementedError

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return None

    def __call__(self, function: F) -> F:
        return decorate(function, self._again)


class Timer(_Context):
    """Gives the seconds that the block took to `observe`. duration: these seconds; None while it has not ended."""

    def __init__(self, observe: Callable[[float], Any]) -> None:
        self._observe = observe
        self._began = 0.0
        self.duration: float | None = None

    def _again(self) -> Timer:
        return Timer(self._observe)

    def labels(self, *labelvalues: object, **labelkwargs: object) -> None:
        """Raises InvalidMetricError: this timer knows its series. One of a metric with labels is told it."""
        raise InvalidMetricError("labels() on the timer of a series, which has its labels already")

    def __enter__(self) -> Timer:
        self._began = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.duration = max(0.0, perf_counter() - self._began)
        self._observe(self.duration)


class LabelledTimer(Timer):
    """A timer that is told by labels(), before its end, which series gets the seconds.

    choose: the `observe` of the series with these label values. missing: raises the error of whoever never said them.
    """

    def __init__(self, choose: Callable[..., Callable[[float], Any]], missing: Callable[[], Any]) -> None:
        super().__init__(_nowhere)
        self._choose = choose
        self._missing = missing

    def labels(self, *labelvalues: object, **labelkwargs: object) -> None:
        """Say which series: by position or by name. Raises InvalidMetricError."""
        self._observe = self._choose(*labelvalues, **labelkwargs)

    def __enter__(self) -> LabelledTimer:
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        # A block that failed before it could say the labels has its own error to tell.
        if self._observe is _nowhere and error is None:
            self._missing()

    def __call__(self, function: F) -> F:
        """`function` timed for the series that was said before: a call of it has no way to say one."""
        if self._observe is _nowhere:
            self._missing()
        return super().__call__(function)


def _nowhere(seconds: float) -> None:
    """Where the seconds go while no series was said."""


def timed(function: F, observe: Callable[[float], Any]) -> F:
    """`function` with the seconds of every call given to `observe`."""
    return Timer(observe)(function)


class ExceptionCounter(_Context):
    """Increments `counter` when the block raises one of `exceptions`; the exception goes on."""

    def __init__(self, counter: _Increments, exceptions: type[BaseException] | tuple[type[BaseException], ...]) -> None:
        self._counter = counter
        self._exceptions = exceptions

    def _again(self) -> ExceptionCounter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, self._exceptions):
            self._counter.inc()


class InProgress(_Context):
    """Increments `gauge` for as long as the block runs."""

    def __init__(self, gauge: _MovesBothWays) -> None:
        self._gauge = gauge

    def _again(self) -> InProgress:
        return self

    def __enter__(self) -> None:
        self._gauge.inc()

    def __exit__(self, *_: object) -> None:
        self._gauge.dec()
