"""Patches of a foreign module that can be undone.

A function is replaced in place, by its code object: a module that has done `from prometheus_client import
generate_latest` holds the function itself and must get the new behaviour too. The original survives as a new function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

__all__ = ["Patches"]

_MISSING = object()

_replaced: dict[str, Callable[..., Any]] = {}
"""key -> what a function replaced in place calls."""


class Patches:
    """A list of patches, which restore() undoes in reverse order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def attribute(self, owner: Any, name: str, value: Any) -> Any:
        """Set `owner.name`; return its previous value, or None if there was none."""
        before = getattr(owner, name, None)
        own = vars(owner).get(name, _MISSING)  # a class must get back the descriptor, or stop to have one of its own
        setattr(owner, name, value)
        self._undo.append(lambda: delattr(owner, name) if own is _MISSING else setattr(owner, name, own))
        return before

    def function(self, function: Any, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Redirect every call of `function` to `make(original)`."""
        code, defaults, kwdefaults = function.__code__, function.__defaults__, function.__kwdefaults__
        before = FunctionType(code, function.__globals__, function.__name__, defaults, function.__closure__)
        before.__kwdefaults__ = kwdefaults
        functools.update_wrapper(before, function)
        del before.__wrapped__  # type: ignore[attr-defined]  # it wraps nothing: it is the function
        key = f"{function.__module__}.{function.__qualname__}"
        _replaced[key] = make(before)
        function.__code__ = _calling.__code__.replace(
            co_consts=tuple(key if const == "KEY" else const for const in _calling.__code__.co_consts),
            co_name=code.co_name,
        )
        function.__defaults__ = function.__kwdefaults__ = None
        function.__wrapped__ = before  # for inspect.signature

        def undo() -> None:
            del function.__wrapped__
            function.__code__, function.__defaults__, function.__kwdefaults__ = code, defaults, kwdefaults
            del _replaced[key]

        self._undo.append(undo)

    def restore(self) -> None:
        """Undo all patches."""
        while self._undo:
            self._undo.pop()()


def _calling(*args: Any, **kwargs: Any) -> Any:
    """The code that a replaced function gets: it runs with that function's globals, so it imports what it needs."""
    from shm_metrics.prometheus.patching import _replaced

    return _replaced["KEY"](*args, **kwargs)
