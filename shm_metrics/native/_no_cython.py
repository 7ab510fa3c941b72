"""What the compiled modules need of the `cython` module to run interpreted where Cython is not installed.

Nothing else may import it.
"""

from __future__ import annotations

from typing import Any

compiled = False


class _Type:
    def __getitem__(self, _: Any) -> _Type:
        return self


bint = double = longlong = ulonglong = uchar = Py_ssize_t = void = const = _Type()


def _as_it_is(thing: Any) -> Any:
    return thing


cclass = cfunc = ccall = inline = no_gc = _as_it_is


def freelist(_size: int) -> Any:
    return _as_it_is


def exceptval(*_: Any, **__: Any) -> Any:
    return _as_it_is


def declare(_type: Any, value: Any) -> Any:
    return value


def cast(_type: Any, value: Any) -> int:
    return int(value)


def address(value: Any) -> Any:
    return value
