"""The walk over the families of a page, and the lines of a family given sample by sample."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shm_metrics.exposition.dialect import Dialect
from shm_metrics.exposition.escaping import label_text, metric_name, utf8
from shm_metrics.exposition.exemplar_text import exemplar_text
from shm_metrics.exposition.floats import go_text
from shm_metrics.exposition.line_cache import make_line_cache
from shm_metrics.exposition.names import Dropped, OnDropped, resolve_conflicts
from shm_metrics.exposition.samples import MetricLike, Renderable, as_samples, base_name, one_by_one
from shm_metrics.model.families import COUNTER, GAUGE, FamilySnapshot
from shm_metrics.model.family_run import FamilyRun

__all__ = ["render_page"]

_TRAILING = ("_created", "_gsum", "_gcount")
"""Samples that format 0.0.4 does not know: each kind becomes a gauge of its own behind the family."""


def render_page(families: Iterable[Renderable], dialect: Dialect, on_dropped: OnDropped, created: bool) -> list[bytes]:
    """Return the text of each item. A family of samples that cannot be rendered is dropped and reported."""
    if created:
        families = [as_samples(item, created=True, openmetrics=dialect.openmetrics) for item in one_by_one(families)]
    page: list[bytes] = []
    for item, entry in zip(*resolve_conflicts(families, on_dropped), strict=True):
        if isinstance(item, FamilySnapshot | FamilyRun):
            assert entry is not None
            line_cache = entry.line_caches.get(dialect.key)
            if line_cache is None:
                line_cache = entry.line_caches[dialect.key] = make_line_cache(entry.families, dialect)
            exemplars = item.exemplars if dialect.openmetrics else None
            page.append(line_cache.render(item.values, item.sums, exemplars))
            continue
        try:
            page.append(utf8(_sample_family(item, dialect)))
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            on_dropped(Dropped(item.name, f"it cannot be rendered: {error!r}"))
    return page


def _sample_family(metric: MetricLike, dialect: Dialect) -> str:
    name = base_name(metric.name, metric.type)
    lines = [dialect.head(name, metric.type, metric.documentation, metric.unit)]
    trailing: dict[str, list[str]] = {}
    for sample in metric.samples:
        # None is a native histogram, or a gauge histogram without a sum; neither format supports them.
        if sample.value is None:
            continue
        line = _sample_line(sample, metric, dialect)
        suffix = sample.name[len(name) :] if sample.name.startswith(name) else ""
        if suffix in _TRAILING and not dialect.openmetrics:
            trailing.setdefault(suffix, []).append(line)
        else:
            lines.append(line)
    for suffix in sorted(trailing):
        lines.append(dialect.head(name + suffix, GAUGE, metric.documentation, ""))
        lines += trailing[suffix]
    return "".join(lines)


def _sample_line(sample: Any, metric: MetricLike, dialect: Dialect) -> str:
    labels = label_text(sorted((name, str(value)) for name, value in sample.labels.items()))
    line = metric_name(sample.name) + (f"{{{labels}}} " if labels else " ") + go_text(sample.value)
    if sample.timestamp is not None:
        # Milliseconds in 0.0.4; seconds in OpenMetrics, printed as given: a float has not a Timestamp's nanoseconds.
        line += f" {sample.timestamp}" if dialect.openmetrics else f" {int(float(sample.timestamp) * 1000)}"
    if dialect.openmetrics and sample.exemplar is not None:
        line += _exemplar(sample, metric.type)
    return f"{line}\n"


def _exemplar(sample: Any, type: str) -> str:
    """Return the exemplar, or "" where the standard allows none: it would make the whole page invalid."""
    allowed = (type == COUNTER and sample.name.endswith("_total")) or (
        type in ("histogram", "gaugehistogram") and sample.name.endswith("_bucket")
    )
    return exemplar_text(sample.exemplar) if allowed else ""
