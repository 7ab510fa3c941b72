"""Families as JSON: one object a family, one object a series.

    {"families": [
      {"name": "jobs", "type": "counter", "help": "..", "unit": "", "series": [
        {"labels": {"queue": "a"}, "value": 3.0}]},
      {"name": "latency_seconds", "type": "histogram", "help": "..", "unit": "seconds", "series": [
        {"labels": {}, "buckets": {"0.1": 1.0, "+Inf": 3.0}, "count": 3.0, "sum": 4.2}]},
      {"name": "mode", "type": "stateset", "help": "..", "unit": "", "series": [
        {"labels": {}, "states": {"on": 1.0, "off": 0.0}}]}]}

Buckets are cumulative, as everywhere outside the segment. A summary of another library has "quantiles"; "created",
"timestamp" and "exemplars" appear where they are known. NaN, +Inf and -Inf are strings, for JSON has no such numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import isfinite
from typing import Any

from shm_metrics.exposition.escaping import utf8
from shm_metrics.exposition.floats import go_text
from shm_metrics.exposition.names import OnDropped, ignore, resolve_conflicts
from shm_metrics.exposition.samples import MetricLike, Renderable, as_samples, base_name, one_by_one
from shm_metrics.model.families import STATESET, SUMMARY

__all__ = ["CONTENT_TYPE_JSON", "json_family", "render_json"]

CONTENT_TYPE_JSON = "application/json; charset=utf-8"

_FIELDS = {
    "_count": "count",
    "_sum": "sum",
    "_gcount": "count",
    "_gsum": "sum",
    "_created": "created",
}


def render_json(families: Iterable[Renderable], *, on_dropped: OnDropped = ignore) -> bytes:
    """Render all families as one JSON document (drawn above)."""
    parts = one_by_one(resolve_conflicts(families, on_dropped)[0])
    return utf8(json.dumps({"families": [json_family(as_samples(part)) for part in parts]}, ensure_ascii=False))


def _number(value: Any) -> float | str:
    value = float(value)
    return value if isfinite(value) else go_text(value)


def json_family(metric: MetricLike) -> dict[str, Any]:
    """Return one family of the document."""
    name = base_name(metric.name, metric.type)
    series: dict[Any, dict[str, Any]] = {}
    for sample in metric.samples:
        if sample.value is None:
            continue
        labels = {label: str(value) for label, value in sample.labels.items()}
        field, key = _place(sample.name, name, metric.type, labels)
        one = series.setdefault(frozenset(labels.items()), {"labels": labels})
        if key is None:
            one[field] = _number(sample.value)
        else:
            one.setdefault(field, {})[key] = _number(sample.value)
        if sample.timestamp is not None:
            one["timestamp"] = _number(sample.timestamp)
        if sample.exemplar is not None:
            one.setdefault("exemplars", {})[key or field] = _exemplar(sample.exemplar)
    head = {"name": name, "type": metric.type, "help": metric.documentation, "unit": metric.unit}
    return {**head, "series": list(series.values())}


def _place(sample: str, name: str, type: str, labels: dict[str, str]) -> tuple[str, str | None]:
    """Return the field that a sample fills and its key there: a label, which is removed from `labels`."""
    suffix = sample[len(name) :] if sample.startswith(name) else ""
    if suffix == "_bucket" and "le" in labels:
        return "buckets", labels.pop("le")
    if type == STATESET and name in labels:
        return "states", labels.pop(name)
    if type == SUMMARY and "quantile" in labels:
        return "quantiles", labels.pop("quantile")
    return _FIELDS.get(suffix, "value"), None


def _exemplar(exemplar: Any) -> dict[str, Any]:
    shown = {"labels": dict(exemplar.labels), "value": _number(exemplar.value)}
    if exemplar.timestamp is not None:
        shown["timestamp"] = _number(exemplar.timestamp)
    return shown
