"""Sample names and additional labels of the lines of one series."""

from __future__ import annotations

from shm_metrics.exposition.floats import go_text
from shm_metrics.model.families import COUNTER, GAUGE, HISTOGRAM, INFO, STATESET, SUMMARY, Family, LabelPairs
from shm_metrics.model.line_shape import LineShape

__all__ = ["line_keys"]

_SCALAR_SUFFIXES = {COUNTER: "_total", GAUGE: "", INFO: "_info"}


def line_keys(family: Family, shape: LineShape) -> list[tuple[str, LabelPairs]]:
    """Sample name and additional labels of each line of a series, in the order of `LineShape.array`."""
    name = family.name
    if family.type == HISTOGRAM:
        buckets: list[tuple[str, LabelPairs]] = [(f"{name}_bucket", (("le", go_text(le)),)) for le in family.bounds]
        return [*buckets, (f"{name}_count", ()), (f"{name}_sum", ())] if shape.totals else buckets
    if family.type == SUMMARY:
        return [(f"{name}_count", ()), (f"{name}_sum", ())]
    if family.type == STATESET:
        return [(name, ((name, state),)) for state in family.states]
    if family.type not in _SCALAR_SUFFIXES:
        raise ValueError(f"{name!r} has the type {family.type!r}, which no snapshot has: use a SampleFamily")
    return [(name + _SCALAR_SUFFIXES[family.type], ())]
