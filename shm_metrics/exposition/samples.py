"""Families sample by sample: the general and slow form, into which every family can be turned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeAlias

from shm_metrics.exposition.lines import line_keys
from shm_metrics.model.families import COUNTER, HISTOGRAM, INFO, SUMMARY, FamilySnapshot, Sample, SampleFamily
from shm_metrics.model.family_run import FamilyRun
from shm_metrics.model.line_shape import line_shape

__all__ = ["MetricLike", "Renderable", "as_samples", "base_name", "one_by_one", "sample_names"]


class MetricLike(Protocol):
    """What SampleFamily and prometheus_client's Metric have in common."""

    @property
    def name(self) -> str: ...
    @property
    def documentation(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def samples(self) -> Iterable[Any]: ...


Renderable: TypeAlias = FamilySnapshot | FamilyRun | MetricLike
"""Anything the exposition renders."""

_SUFFIXES = {
    COUNTER: ("_total", "_created"),
    SUMMARY: ("_count", "_sum", "_created"),
    HISTOGRAM: ("_bucket", "_count", "_sum", "_created"),
    "gaugehistogram": ("_bucket", "_gcount", "_gsum"),
    INFO: ("_info",),
}


def base_name(name: str, type: str) -> str:
    """Return the family's name, without the `_total` that a counter may have."""
    return name.removesuffix("_total") if type == COUNTER else name


def sample_names(name: str, type: str) -> frozenset[str]:
    """Return every name that a family and its samples may have. Families of a page must not share any."""
    name = base_name(name, type)
    return frozenset((name, *(name + suffix for suffix in _SUFFIXES.get(type, ()))))


def one_by_one(families: Iterable[Renderable]) -> Iterator[FamilySnapshot | MetricLike]:
    """Yield the families, with every run split."""
    for item in families:
        if isinstance(item, FamilyRun):
            yield from item.split()
        else:
            yield item


def as_samples(item: FamilySnapshot | MetricLike, *, created: bool = False, openmetrics: bool = False) -> MetricLike:
    """Return `item` as a family of samples.

    created: add the `_created` sample of each series, where a snapshot knows it and its type has one.
    openmetrics: leave out what OpenMetrics forbids.
    """
    if not isinstance(item, FamilySnapshot):
        return item
    family = item.family
    shape = line_shape(family, openmetrics)
    keys = line_keys(family, shape)
    numbers = iter(shape.list(item.values, item.sums))
    stamps = item.created if created and family.type in (COUNTER, HISTOGRAM, SUMMARY) else None
    exemplars = item.exemplars or {}
    samples: list[Sample] = []
    for index, pairs in enumerate(item.labels):
        labels = dict(pairs)
        samples += [
            Sample(name, {**labels, **dict(extra)}, next(numbers), None, exemplars.get((index, line)))
            for line, (name, extra) in enumerate(keys)
        ]
        if stamps is not None:
            samples.append(Sample(f"{family.name}_created", labels, float(stamps[index])))
    return SampleFamily(family.name, family.documentation, family.type, samples, family.unit)
