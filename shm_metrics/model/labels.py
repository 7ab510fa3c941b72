"""Names and labels: their validity, and their canonical form.

The rules are Prometheus' (its documentation, "Data model"): metric names [a-zA-Z_:][a-zA-Z0-9_:]*, label names
[a-zA-Z_][a-zA-Z0-9_]* and not beginning with two underscores, label values any text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from shm_metrics.errors import InvalidMetricError, short_repr
from shm_metrics.model.families import LabelPairs

__all__ = ["check_label_names", "check_metric_name", "is_unicode", "label_pairs", "label_text"]

_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
MAX_VALUE_CHARACTERS = 16_384
MAX_LABELS_BYTES = 48_000  # of all labels of a series
OVERFLOW_LABELS: LabelPairs = (("overflow", "true"),)
OWN_OVERFLOW_LABELS: LabelPairs = (("shm_metrics_overflow", "true"),)  # where the application uses the one above


def check_metric_name(name: object) -> str:
    """Return `name` if it is valid. Raise InvalidMetricError."""
    if not isinstance(name, str) or not _METRIC.fullmatch(name):
        raise InvalidMetricError(
            f"metric name {short_repr(name)}: use letters, digits, '_' and ':', and begin with no digit"
        )
    return str(name)


def check_label_names(names: Iterable[str], type_: str = "", name: str = "") -> tuple[str, ...]:
    """Return the names as a tuple. `type_` is the family's type: histograms and summaries have labels of their own.

    Raise InvalidMetricError.
    """
    if isinstance(names, str):
        raise InvalidMetricError(f"{name}: label names {names!r}: give a list or tuple of names, not one text")
    if not isinstance(names, Iterable):
        raise InvalidMetricError(f"{name}: label names {names!r}: give a list or tuple of names")
    checked = tuple(names)
    reserved = {"histogram": ("le",), "summary": ("quantile",), "stateset": (name,)}.get(type_, ())
    for label in checked:
        if not isinstance(label, str) or not _LABEL.fullmatch(label):
            raise InvalidMetricError(
                f"{name}: label name {short_repr(label)}: use letters, digits and '_', and begin with no digit"
            )
        if label.startswith("__") or label in reserved:
            raise InvalidMetricError(f"{name}: label name {label!r} is reserved; choose another")
    if len(set(checked)) != len(checked):
        raise InvalidMetricError(f"{name}: label names {checked!r}: one of them comes twice")
    return checked


def label_text(value: object, label: str = "") -> str:
    """Return the text of a label value: text is taken as it is, anything else through str(). Raise InvalidMetricError.

    Unhashable values such as lists are refused: a collection does not name anything.
    """
    if type(value) is str and len(value) <= MAX_VALUE_CHARACTERS and value.isascii():
        return value  # nearly every one
    if type(value) is not str and not _hashable(value):
        raise InvalidMetricError(f"label {label!r}: a {type(value).__name__} is no label value; give text")
    try:
        text = value if type(value) is str else str(value)
    except Exception as error:
        raise InvalidMetricError(f"label {label!r}: str() of its {type(value).__name__} failed: {error}") from error
    if not is_unicode(text):
        raise InvalidMetricError(
            f"label {label!r}: {short_repr(text)} holds a lone surrogate and cannot be UTF-8; decode it first"
        )
    if len(text) > MAX_VALUE_CHARACTERS:
        raise InvalidMetricError(
            f"label {label!r}: a value of {len(text)} characters; at most {MAX_VALUE_CHARACTERS} are kept "
            "(a label names a small set of things)"
        )
    return text


def _hashable(value: object) -> bool:
    try:
        hash(value)
    except Exception:
        return False
    return True


def is_unicode(text: str) -> bool:
    """Return whether the text can be written as UTF-8: it holds no half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def label_pairs(labels: Mapping[str, object]) -> LabelPairs:
    """Return (name, text) pairs sorted by name; the label names must have been checked. Raise InvalidMetricError."""
    pairs = tuple(sorted((name, label_text(value, name)) for name, value in labels.items()))
    size = sum([len(name) + len(text) for name, text in pairs])
    if 4 * size > MAX_LABELS_BYTES:  # as UTF-8, at most
        size = sum(len(name) + len(text.encode()) for name, text in pairs)
        if size > MAX_LABELS_BYTES:
            raise InvalidMetricError(f"labels of {size} bytes in all: at most {MAX_LABELS_BYTES} are kept")
    return pairs
