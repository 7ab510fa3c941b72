"""Snapshots as plain dictionaries."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from shm_metrics.model.families import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    STATESET,
    SUMMARY,
    Exemplar,
    FamilySnapshot,
    LabelPairs,
)
from shm_metrics.model.quantiles import estimate
from shm_metrics.model.snapshot import Snapshot
from shm_metrics.scrape.self_metrics import EngineFigures

__all__ = ["QUANTILES", "metrics_of", "series_name", "stats_of"]

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def series_name(name: str, labels: LabelPairs) -> str:
    """Return `name{label="value",...}`, labels sorted by name: one text for each series."""
    if not labels:
        return name
    text = ",".join(f"{label}={_quoted(value)}" for label, value in labels)
    return f"{name}{{{text}}}"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def metrics_of(families: Iterable[FamilySnapshot]) -> dict[str, dict[str, Any]]:
    """Return key -> what export() returns for a series."""
    metrics = {}
    for found in families:
        shown = found.family.name + ("_total" if found.family.type == COUNTER else "")
        for position, labels in enumerate(found.labels):
            metrics[series_name(shown, labels)] = {
                "name": shown,
                "labels": dict(labels),
                "type": found.family.type,
                **_figures(found, position),
                **_exemplars(found, position),
                "created_at": None if found.created is None else float(found.created[position]),
            }
    return metrics


def _figures(found: FamilySnapshot, position: int) -> dict[str, Any]:
    if found.family.type == STATESET:
        index, states = found.values[position], found.family.states
        return {"value": states[int(index)] if 0 <= index < len(states) else ""}
    if found.family.type not in (HISTOGRAM, SUMMARY):
        return {"value": float(found.values[position])}
    assert found.sums is not None
    total = float(found.sums[position])
    if found.family.type == SUMMARY:
        count = _whole(found.values[position])
        return {"count": count, "sum": total, "average": total / count if count else 0.0}
    counts = found.values[position]
    cumulative = [_whole(n) for n in counts.cumsum()]
    count = cumulative[-1]
    return {
        "buckets": {_bound(bound): n for bound, n in zip(found.family.bounds, cumulative, strict=True)},
        "count": count,
        "sum": total,
        "average": total / count if count else 0.0,
        **{name: estimate(quantile, found.family.bounds, cumulative) for name, quantile in QUANTILES.items()},
    }


def _exemplars(found: FamilySnapshot, position: int) -> dict[str, Any]:
    """Return a counter's `exemplar` or a histogram's `exemplars` by bucket; {} if there is none."""
    if not found.exemplars:
        return {}
    if found.family.type == COUNTER:
        exemplar = found.exemplars.get((position, 0))
        return {} if exemplar is None else {"exemplar": _exemplar(exemplar)}
    kept = {
        _bound(bound): _exemplar(exemplar)
        for bucket, bound in enumerate(found.family.bounds)
        if (exemplar := found.exemplars.get((position, bucket))) is not None
    }
    return {"exemplars": kept} if kept else {}


def _exemplar(exemplar: Exemplar) -> dict[str, Any]:
    return {"labels": dict(exemplar.labels), "value": exemplar.value, "timestamp": exemplar.timestamp}


def _whole(count: float) -> float:
    """Return an int, unless the segment is damaged and the count is not finite."""
    return int(count) if math.isfinite(count) else float(count)


def _bound(bound: float) -> str:
    return "+Inf" if math.isinf(bound) else repr(bound)


def stats_of(snapshot: Snapshot, figures: EngineFigures, created_at: float, now: float) -> dict[str, Any]:
    """Return the dictionary of stats()."""
    by_type: dict[str, int] = {}
    for found in snapshot.families:
        by_type[found.family.type] = by_type.get(found.family.type, 0) + len(found.labels)
    return {
        "total_metrics": snapshot.series,
        "counter_metrics": by_type.get(COUNTER, 0),
        "gauge_metrics": by_type.get(GAUGE, 0),
        "histogram_metrics": by_type.get(HISTOGRAM, 0),
        "backend_uptime": now - created_at,
        "created_at": created_at,
        "incarnation": snapshot.incarnation,
        "live_workers": len(snapshot.live_rows),
        **{name: getattr(figures, name) for name in figures.__slots__},
    }
