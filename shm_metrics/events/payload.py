"""Numbers and label values from payloads, or the reason why an event cannot be recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from math import isfinite
from numbers import Real
from typing import Any, TypeAlias

from shm_metrics.errors import short_repr
from shm_metrics.model.families import COUNTER, HISTOGRAM
from shm_metrics.model.labels import label_text

__all__ = ["EventRefusedError", "Read", "as_dict", "number_in", "reader", "value_text"]

Read: TypeAlias = Callable[[dict[str, Any]], "float | None"]
_LARGEST = 1.7976931348623157e308


class EventRefusedError(Exception):  # it never leaves the package
    """The event is not recorded. kind: one of few words, each of which is logged once."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def as_dict(payload: object) -> dict[str, Any]:
    """Return the payload as a plain dict; None becomes an empty one."""
    if payload is None:
        return {}
    if not isinstance(payload, Mapping):
        raise EventRefusedError("payload", f"a payload of type {type(payload).__name__}: give a mapping")
    return dict(payload)


def number_in(value: object) -> float | None:
    """Return `value` as a finite float, or None for text, booleans, NaN and infinities."""
    kind = type(value)
    if kind is bool or not (kind is int or kind is float or isinstance(value, Real | Decimal)):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if isfinite(number) else None


def reader(kind: str, fields: tuple[str, ...], weight: float, signed: bool, metric: str) -> Read:
    """Return the function that reads an effect's value from a payload; it returns None if there is no value.

    A value that is no number is ignored for a histogram; for a counter or gauge it refuses the event.
    """
    if kind == HISTOGRAM:
        return _observed(fields, signed)
    (field,) = fields

    def read(payload: dict[str, Any]) -> float | None:
        value = payload.get(field)
        if value is None:
            return None
        number = number_in(value)
        if number is not None and kind == COUNTER:
            number *= weight
        if number is None or (kind == COUNTER and not 0.0 <= number <= _LARGEST):
            raise EventRefusedError(
                "value", f"{metric}: {field}={short_repr(value)}: give a finite number{_LEAST.get(kind, '')}"
            )
        return number

    return read


_LEAST = {COUNTER: " of at least 0"}


def _observed(fields: tuple[str, ...], signed: bool) -> Read:
    least = -_LARGEST if signed else 0.0

    def read(payload: dict[str, Any]) -> float | None:
        for field in fields:
            value = payload.get(field)
            if type(value) is not float:
                if value is None:
                    continue
                value = number_in(value)
                if value is None:
                    continue
            if least <= value <= _LARGEST:
                return value
        return None

    return read


def value_text(value: object, label: str) -> str:
    """Return a label value as text: the name of a class, the value of a str Enum. Raise InvalidMetricError."""
    if isinstance(value, str):
        return label_text(str.__str__(value), label)
    if isinstance(value, type):
        return label_text(value.__qualname__, label)
    return label_text(value, label)
