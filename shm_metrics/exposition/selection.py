"""The `name[]` filter of a scrape."""

from __future__ import annotations

from collections.abc import Iterable

from shm_metrics.exposition.lines import line_keys
from shm_metrics.exposition.names import page_entry
from shm_metrics.exposition.samples import MetricLike, Renderable, as_samples, base_name, one_by_one
from shm_metrics.model.families import FamilySnapshot, SampleFamily
from shm_metrics.model.family_run import FamilyRun
from shm_metrics.model.line_shape import line_shape

__all__ = ["filter_families"]


def filter_families(families: Iterable[Renderable], names: Iterable[str]) -> list[Renderable]:
    """Return the part of `families` that `names` select; nothing for no names.

    A sample name (`x_total`, `x_bucket`, `x_info`) keeps the samples of that name, as in prometheus_client's
    restricted_registry. A family name (`x`) keeps the whole family; there, prometheus_client shows gauges only, and
    nothing of a counter or histogram.
    """
    wanted = frozenset(names)
    chosen: list[Renderable] = []
    for item in families:
        if isinstance(item, FamilyRun) and wanted.isdisjoint(page_entry(item).names):
            continue
        for part in one_by_one((item,)):
            kept = _kept_part(part, wanted)
            if kept is not None:
                chosen.append(kept)
    return chosen


def _kept_part(item: FamilySnapshot | MetricLike, wanted: frozenset[str]) -> Renderable | None:
    if isinstance(item, FamilySnapshot):
        family = item.family
        shown = {name for name, _ in line_keys(family, line_shape(family))}
        # The snapshot itself, where all of it is wanted, keeps the fast path.
        if family.name in wanted or shown <= wanted:
            return item
        if shown.isdisjoint(wanted):
            return None
        metric = as_samples(item)
    else:
        metric = item
        if base_name(metric.name, metric.type) in wanted:
            return metric
    samples = [sample for sample in metric.samples if sample.name in wanted]
    if not samples:
        return None
    return SampleFamily(metric.name, metric.documentation, metric.type, samples, metric.unit)
