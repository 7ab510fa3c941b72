"""Families as OTLP metrics.

    counter                     Sum, monotonic, cumulative, named as on the page (`x_total`)
    gauge, info, stateset, ...  Gauge
    histogram                   Histogram, cumulative, with explicit bounds; no sum where a bound is below 0
    summary                     Summary

What is cumulative starts when its series began, where that is known, else when the segment was made: after reset() a
receiver sees a new start, and not a counter that fell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import inf
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from shm_metrics.exporters.classify import BUCKET, COUNT, SUM, Point, Series, classify
from shm_metrics.exposition.names import Dropped, OnDropped, resolve_conflicts
from shm_metrics.exposition.samples import MetricLike, Renderable, as_samples, one_by_one
from shm_metrics.model.families import COUNTER, HISTOGRAM, SUMMARY, LabelPairs

__all__ = ["refused", "request"]

_SCOPE = "shm_metrics"

_UNITS = {"seconds": "s", "bytes": "By", "ratio": "1", "celsius": "Cel", "meters": "m", "volts": "V", "amperes": "A"}
"""Prometheus' base units as UCUM codes; other units are passed on unchanged."""


def request(
    families: Iterable[Renderable], resource: Mapping[str, str], *, began: float, now: float, on_dropped: OnDropped
) -> bytes:
    """Return an ExportMetricsServiceRequest. began: Unix seconds of the segment's creation; now: of the scan."""
    message = ExportMetricsServiceRequest()
    of_resource = message.resource_metrics.add()
    of_resource.resource.attributes.extend(_attributes(tuple(sorted(resource.items()))))
    scope = of_resource.scope_metrics.add()
    scope.scope.name = _SCOPE
    for item in one_by_one(resolve_conflicts(families, on_dropped)[0]):
        metric = as_samples(item, created=True, openmetrics=True)
        try:
            scope.metrics.extend(_metrics(metric, began, _nanoseconds(now)))
        except (AttributeError, TypeError, ValueError, OverflowError) as error:  # of a custom collector
            on_dropped(Dropped(metric.name, f"OTLP cannot carry it: {error}"))
    return bytes(message.SerializeToString())


def refused(answer: bytes) -> str:
    """Return what a collector rejected of the request that it took, or ""."""
    try:
        message = ExportMetricsServiceResponse.FromString(answer)
    except Exception as error:  # protobuf's error has no base class that every version exports
        return f"the answer is no ExportMetricsServiceResponse: {error}"
    points = message.partial_success.rejected_data_points
    return f"{points} data points were rejected: {message.partial_success.error_message}" if points else ""


def _metrics(metric: MetricLike, began: float, now: int) -> list[Any]:
    """Return the metrics of a family: all of them, or raise."""
    all_series = [series for series in classify(metric) if series.points]
    if not all_series:
        return []
    unit = _UNITS.get(metric.unit, metric.unit)
    head: dict[str, Any] = {"name": metric.name, "description": metric.documentation, "unit": unit}
    if metric.type == HISTOGRAM:
        points = [_histogram(series, began, now) for series in all_series]
        histogram = pb.Histogram(data_points=points, aggregation_temporality=pb.AGGREGATION_TEMPORALITY_CUMULATIVE)
        return [pb.Metric(**head, histogram=histogram)]
    if metric.type == SUMMARY:
        summaries = [_summary(series, began, now) for series in all_series]
        return [pb.Metric(**head, summary=pb.Summary(data_points=summaries))]
    # Custom collectors may give samples of several names in one family.
    by_name: dict[str, list[Any]] = {}
    for series in all_series:
        for point in series.points:
            start = _start(series, began) if metric.type == COUNTER else 0
            by_name.setdefault(point.name, []).append(_number(point, start, now))
    if metric.type != COUNTER:
        return [
            pb.Metric(**{**head, "name": name}, gauge=pb.Gauge(data_points=numbers))
            for name, numbers in by_name.items()
        ]
    return [
        pb.Metric(
            **{**head, "name": name},
            sum=pb.Sum(
                data_points=numbers, aggregation_temporality=pb.AGGREGATION_TEMPORALITY_CUMULATIVE, is_monotonic=True
            ),
        )
        for name, numbers in by_name.items()
    ]


def _number(point: Point, start: int, now: int) -> Any:
    return pb.NumberDataPoint(
        attributes=_attributes(point.labels),
        start_time_unix_nano=start,
        time_unix_nano=now,
        as_double=point.value,
        exemplars=_exemplars([point], now),
    )


def _histogram(series: Series, began: float, now: int) -> Any:
    buckets = sorted(((float(point.key), point) for point in series.points if point.meaning == BUCKET), key=_bound)
    cumulative = [0, *(_count(point.value) for _, point in buckets)]
    bounds = [bound for bound, _ in buckets]
    counts = [upper - lower for lower, upper in pairwise(cumulative)]
    if any(not lower < upper for lower, upper in pairwise(bounds)) or any(count < 0 for count in counts):
        raise ValueError("the buckets of a histogram do not ascend, or one holds less than the one below it")
    if not buckets:
        cumulative = [_count(series.number(COUNT))]  # OTLP knows histograms of count and sum alone
    elif bounds.pop() != inf:
        raise ValueError("a histogram has no bucket le=+Inf")
    point = pb.HistogramDataPoint(
        attributes=_attributes(series.labels),
        start_time_unix_nano=_start(series, began),
        time_unix_nano=now,
        count=cumulative[-1],
        bucket_counts=counts,
        explicit_bounds=bounds,
        exemplars=_exemplars([point for _, point in buckets], now),
    )
    total = series.number(SUM)
    if total is not None and not any(bound < 0 for bound in bounds):
        point.sum = total
    return point


def _summary(series: Series, began: float, now: int) -> Any:
    quantiles = [
        pb.SummaryDataPoint.ValueAtQuantile(quantile=float(point.key), value=point.value)
        for point in series.points
        if point.key
    ]
    return pb.SummaryDataPoint(
        attributes=_attributes(series.labels),
        start_time_unix_nano=_start(series, began),
        time_unix_nano=now,
        count=_count(series.number(COUNT) or 0.0),
        sum=series.number(SUM) or 0.0,
        quantile_values=quantiles,
    )


def _count(value: float | None) -> int:
    if value is None or not 0 <= value < 2**64:  # nor is NaN
        raise ValueError(f"a count is {value}")
    return int(value)


def _bound(bucket: tuple[float, Point]) -> float:
    return bucket[0]


def _start(series: Series, began: float) -> int:
    return _nanoseconds(began if series.created is None else series.created)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _attributes(labels: LabelPairs) -> list[Any]:
    # protobuf cannot carry a lone surrogate, which a label value may hold.
    return [
        KeyValue(key=name, value=AnyValue(string_value=value.encode("utf-8", "replace").decode()))
        for name, value in labels
    ]


def _exemplars(points: Sequence[Point], now: int) -> list[Any]:
    found = []
    for point in points:
        if point.exemplar is None:
            continue
        labels = {name: str(value) for name, value in point.exemplar.labels.items()}
        stamp = point.exemplar.timestamp
        exemplar = pb.Exemplar(
            time_unix_nano=now if stamp is None else _nanoseconds(float(stamp)), as_double=float(point.exemplar.value)
        )
        # Ids of W3C Trace Context have fields of their own; what is no such id stays an attribute.
        for name, size in (("trace_id", 16), ("span_id", 8)):
            try:
                as_bytes = bytes.fromhex(labels.get(name, ""))
            except ValueError:
                continue
            if len(as_bytes) == size:
                setattr(exemplar, name, as_bytes)
                del labels[name]
        exemplar.filtered_attributes.extend(_attributes(tuple(sorted(labels.items()))))
        found.append(exemplar)
    return found
