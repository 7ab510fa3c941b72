"""Classify the numbers of families, series by series: totals that only grow, and levels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from shm_metrics.exposition.samples import MetricLike, base_name
from shm_metrics.model.families import COUNTER, HISTOGRAM, STATESET, SUMMARY, LabelPairs

__all__ = ["BUCKET", "COUNT", "LEVEL", "SUM", "TOTAL", "Point", "Series", "classify"]

TOTAL, BUCKET, COUNT, SUM, LEVEL = "total", "bucket", "count", "sum", "level"
"""Totals, buckets and counts only grow; so does a sum without negative observations. A level is absolute."""

_MEANINGS = {
    COUNTER: {"_total": TOTAL, "": TOTAL},
    HISTOGRAM: {"_bucket": BUCKET, "_count": COUNT, "_sum": SUM},
    SUMMARY: {"_count": COUNT, "_sum": SUM},
}
_KEYS = {HISTOGRAM: "le", "gaugehistogram": "le", SUMMARY: "quantile"}


@dataclass(frozen=True, slots=True)
class Point:
    """One sample. labels: with `le`, the quantile or the state. key: the value of that label, or ""."""

    name: str
    labels: LabelPairs
    value: float
    meaning: str
    key: str = ""
    exemplar: Any = None


@dataclass(slots=True)
class Series:
    """The points of one label set. labels: without `le`, the quantile or the state. created: Unix seconds, if known."""

    labels: LabelPairs
    created: float | None = None
    points: list[Point] = field(default_factory=list)

    def number(self, meaning: str) -> float | None:
        """Return the value of the point with this meaning, or None."""
        return next((point.value for point in self.points if point.meaning == meaning), None)


def classify(metric: MetricLike) -> Iterator[Series]:
    """Yield the series of a family of samples, in order, each number with its meaning."""
    name = base_name(metric.name, metric.type)
    key_label = name if metric.type == STATESET else _KEYS.get(metric.type, "")
    meanings = _MEANINGS.get(metric.type, {})
    found: dict[LabelPairs, Series] = {}
    for sample in metric.samples:
        if sample.value is None:
            continue
        labels = tuple(sorted((label, str(value)) for label, value in sample.labels.items()))
        key = str(sample.labels.get(key_label, "")) if key_label else ""
        own = tuple(pair for pair in labels if pair[0] != key_label) if key_label in sample.labels else labels
        series = found.setdefault(own, Series(own))
        suffix = sample.name[len(name) :] if sample.name.startswith(name) else sample.name
        if suffix == "_created" and meanings:
            series.created = float(sample.value)
            continue
        meaning = meanings.get(suffix, LEVEL)
        series.points.append(Point(sample.name, labels, float(sample.value), meaning, key, sample.exemplar))
    yield from found.values()
