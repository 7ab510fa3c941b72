"""The segment as prometheus_client's Metric objects, for its registries and collectors.

Two kinds of registry:
    whole     the default one, and any with a MultiProcessCollector: everything in the segment, whichever process
              declared it, the workers' processes, and the custom collectors of this process
    others    the metrics registered in it, each with the series and totals of all workers
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from copy import copy
from typing import Any

from shm_metrics.exposition.names import page_entry, resolve_conflicts
from shm_metrics.exposition.samples import as_samples, one_by_one
from shm_metrics.exposition.selection import filter_families
from shm_metrics.model.families import GAUGE, HISTOGRAM, INFO, AnyFamily, FamilySnapshot
from shm_metrics.model.family_run import FamilyRun
from shm_metrics.model.gauge_modes import MODES
from shm_metrics.prometheus.collectors import GC_FAMILIES, PLATFORM_FAMILY
from shm_metrics.prometheus.installation import Installation, current
from shm_metrics.prometheus.patched_methods import originals
from shm_metrics.prometheus.values import of_all_workers

__all__ = ["is_whole", "whole_families"]


# -- which families ---------------------------------------------------------------------------------------------------


def is_whole(registry: Any) -> bool:
    """Whether the registry stands for the whole segment."""
    return registry is current().client.REGISTRY or _has_all_workers(registry)


def _has_all_workers(registry: Any) -> bool:
    """Whether a MultiProcessCollector is registered there."""
    from prometheus_client.multiprocess import MultiProcessCollector

    registered = list(getattr(registry, "_collector_to_names", ()))  # at once: another thread may register one
    return any(isinstance(each, MultiProcessCollector) for each in registered)


def whole_families(registry: Any = None) -> list[AnyFamily]:
    """Return everything: the segment, processes and engine figures, and the custom collectors of this process.

    registry: of the page; its custom collectors are shown beside those of the default registry.
    """
    installation = current()
    client, backend = installation.client, installation.backend
    registered = client.REGISTRY._collector_to_names
    hidden = _unregistered(registry)
    if client.GC_COLLECTOR not in registered:
        hidden.update(name for name, _ in GC_FAMILIES.values())
    if client.PLATFORM_COLLECTOR not in registered:
        hidden.add(PLATFORM_FAMILY)
    # First, as they may count: a gauge that is set in its own collect(), or in that of a collector.
    own, custom = _run(installation, _foreign(installation, registry))
    families = list(backend.collect())
    if client.PROCESS_COLLECTOR not in registered:
        families = [family for family in families if not _is_process(family)]
    if hidden:
        families = [family for item in families for family in _without(item, hidden)]
    # Of two samples with the same name and labels a page has the first.
    return [*own, *families, *custom]


def _unregistered(registry: Any) -> set[str]:
    """Return the families that the page of this registry leaves out because they were unregistered.

    A MultiProcessCollector is independent of registrations: it shows everything that was counted.
    """
    installation = current()
    of_its_own = registry is installation.client.REGISTRY and not _has_all_workers(registry)
    return set(installation.hidden) if of_its_own else set()


def _run(installation: Installation, collectors: Iterable[Any]) -> tuple[list[AnyFamily], list[AnyFamily]]:
    """What metrics say of themselves that count in the segment, and what others give."""
    own: list[AnyFamily] = []
    custom: list[AnyFamily] = []
    with of_all_workers():
        for collector in collectors:
            found = installation.backend.run_collector(collector)
            if installation.counts(collector):
                own += [_without_created(family) for family in found]
            else:
                custom += found
    return own, custom


def _without_created(metric: Any) -> Any:
    made = copy(metric)
    made.samples = [sample for sample in metric.samples if sample.name != metric.name + "_created"]
    return made


def _is_process(family: Any) -> bool:
    return getattr(family, "name", "").startswith("process_")


def _without(item: Any, hidden: set[str]) -> Iterable[Any]:
    if isinstance(item, FamilyRun):
        if page_entry(item).names.isdisjoint(hidden):
            return [item]
        return [part for part in item.split() if part.family.name not in hidden]
    name = item.family.name if isinstance(item, FamilySnapshot) else item.name
    return () if name in hidden else [item]


def _foreign(installation: Installation, registry: Any) -> list[Any]:
    """The collectors, of the default registry and of this one, whose families are not in the segment."""
    from prometheus_client.multiprocess import MultiProcessCollector

    from shm_metrics.metrics.declared import Metric

    client = installation.client
    known = (client.GC_COLLECTOR, client.PLATFORM_COLLECTOR, client.PROCESS_COLLECTOR)
    found: list[Any] = []
    for each in (client.REGISTRY, registry):
        for collector in list(getattr(each, "_collector_to_names", ())):
            if collector in known or collector in found or isinstance(collector, MultiProcessCollector):
                continue
            if isinstance(collector, Metric):
                handle = getattr(collector, "_handle", None)  # none yet: it is just being made
                if handle is None or handle.backend is installation.backend:
                    continue
            if not _is_ours(installation, collector):
                found.append(collector)
    return found


def _is_ours(installation: Installation, collector: Any) -> bool:
    """Whether a collector is a metric that counts in the segment, and says nothing else of itself."""
    from prometheus_client.metrics import MetricWrapperBase

    return (
        isinstance(collector, MetricWrapperBase)
        and installation.counts(collector)
        and type(collector).collect is MetricWrapperBase.collect
        and _makes_usual_samples(type(collector))
    )


def _makes_usual_samples(cls: type) -> bool:
    """Whether a class of metrics says of its values what prometheus_client's own classes say."""
    makers = [getattr(cls, name) for name in ("_samples", "_multi_samples", "_child_samples")]
    return all(maker.__module__ == "prometheus_client.metrics" for maker in makers)


# -- families as Metric -----------------------------------------------------------------------------------------------


def _metric(item: Any, *, created: bool, sum_first: bool = False) -> Any:
    """A family as prometheus_client's Metric."""
    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Sample

    if isinstance(item, Metric):
        return item
    family = as_samples(item, created=created)
    metric = Metric(family.name, family.documentation, family.type, family.unit)
    fields = len(Sample._fields)  # earlier releases know fewer
    samples = [Sample(*sample[:fields]) for sample in family.samples]
    if sum_first and family.type == HISTOGRAM:
        samples = _sum_first(family.name, samples)
    metric.samples = samples
    return metric


def _sum_first(name: str, samples: list[Any]) -> list[Any]:
    """Each histogram's sum before its buckets, as prometheus_client's MultiProcessCollector has it."""
    ordered: list[Any] = []
    series: list[Any] = []
    for sample in samples:
        if sample.name == name + "_sum":
            ordered += [sample, *series]
            series = []
        else:
            series.append(sample)
    return ordered + series


class _View:
    """One scan, from which several metrics are read."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        backend = installation.backend
        backend.run_functions()
        self._families = {found.family.name: found for found in backend.snapshot().families}

    def of(self, metric: Any, *, sum_first: bool = False) -> Any:
        """Return a metric's family, over all workers, with what it shows before its first update."""
        from prometheus_client import metrics

        found = self._families.get(metric._name)
        made = metric._get_metric() if found is None else _metric(found, created=metrics._use_created)
        if found is not None and found.family.bounds and found.family.bounds[0] < 0:
            made.samples = [each for each in made.samples if each.name != metric._name + "_sum"]
        made.samples += self._first(metric, made.samples)
        return made

    def _first(self, metric: Any, samples: list[Any]) -> Iterator[Any]:
        """Samples of what exists in this process and has no sample yet: gauges that vanish, and infos."""
        for each in [metric] if metric._is_observable() else list(metric._metrics.values()):
            if each in self._installation.metrics:
                yield from first_samples(each, samples)


def first_samples(metric: Any, samples: list[Any]) -> Iterator[Any]:
    """Yield what prometheus_client shows of a new gauge or info: 0, and no labels of its own."""
    from prometheus_client.samples import Sample

    labels = dict(zip(metric._labelnames, metric._labelvalues, strict=False))
    if metric._type == GAUGE:
        mode = MODES[metric._shm_family.mode]
        if mode.combine == "each":
            backend = metric._value.worker.living
            if backend is None:
                return
            labels = {**labels, "pid": str(backend.writer.pid)}
        if not any(sample.labels == labels for sample in samples):
            yield Sample(metric._name, labels, 0.0)
    elif metric._type == INFO and not any(labels.items() <= sample.labels.items() for sample in samples):
        yield Sample(metric._name + "_info", labels, 1.0)


def whole_metrics(registry: Any = None) -> list[Any]:
    """Return everything, with what the metrics of this process show before their first update."""
    resolved, _ = resolve_conflicts(whole_families(registry))
    made = {
        metric.name: metric
        for metric in (_metric(item, created=False, sum_first=True) for item in one_by_one(resolved))
    }
    hidden = _unregistered(registry)
    for metric in current().metrics:
        if metric._type in (GAUGE, INFO) and metric._name not in hidden:
            found = made.get(metric._name)
            first = list(first_samples(metric, found.samples if found else []))
            if first:
                found = made.setdefault(metric._name, found or metric._get_metric())
                found.samples += first
    return list(made.values())


# -- what stands in prometheus_client's classes -----------------------------------------------------------------------


def metric_collect(self: Any) -> Iterable[Any]:
    """MetricWrapperBase.collect; also what a subclass adds to."""
    installation = current()
    if installation.counts(self) and _makes_usual_samples(type(self)):
        return [_View(installation).of(self)]
    with of_all_workers():
        return originals["MetricWrapperBase", "collect"](self)  # type: ignore[no-any-return]


def registry_collect(self: Any) -> Iterator[Any]:
    """CollectorRegistry.collect"""
    installation = current()
    with self._lock:
        collectors = list(self._collector_to_names)
        target = self._target_info_metric() if self._target_info else None
    if target is not None:
        yield target
    if is_whole(self):
        yield from whole_metrics(self)
        return
    view: _View | None = None
    for collector in collectors:
        if _is_ours(installation, collector):
            view = view or _View(installation)
            yield view.of(collector)
        else:
            yield from collector.collect()


def restricted_collect(self: Any) -> Iterator[Any]:
    """RestrictedRegistry.collect"""
    registry = self._registry
    if not is_whole(registry):
        yield from originals["RestrictedRegistry", "collect"](self)
        return
    for item in one_by_one(restricted_families(self)):
        kept = _metric(item, created=False)._restricted_metric(self._name_set)
        if kept:
            yield kept


def restricted_families(restricted: Any) -> list[Any]:
    """The part of the whole that a RestrictedRegistry asks for."""
    registry, names = restricted._registry, restricted._name_set
    families: list[Any] = list(filter_families(whole_families(registry), names))
    with registry._lock:
        if "target_info" in names and registry._target_info:
            families.insert(0, registry._target_info_metric())
    return families


def registry_register(self: Any, collector: Any) -> None:
    """CollectorRegistry.register"""
    originals["CollectorRegistry", "register"](self, collector)
    current().registered(self, collector, _family_name(collector))


def registry_unregister(self: Any, collector: Any) -> None:
    """CollectorRegistry.unregister"""
    originals["CollectorRegistry", "unregister"](self, collector)
    current().unregistered(self, collector, _family_name(collector))


def _family_name(collector: Any) -> str:
    """The name of a metric's family, prometheus_client's or ours; empty for a custom collector."""
    if hasattr(collector, "_labelnames"):
        return str(getattr(collector, "_name", "") or getattr(collector, "name", ""))
    return ""


def multiprocess_init(self: Any, registry: Any, path: str | None = None) -> None:
    """MultiProcessCollector.__init__; a path is checked, and not needed."""
    if path is not None and not os.path.isdir(path):
        raise ValueError(f"MultiProcessCollector path {path!r} is not a directory; leave it out")
    self._path = path
    if registry:
        registry.register(self)


def multiprocess_describe(self: Any) -> Iterable[Any]:
    """MultiProcessCollector.describe, which prometheus_client has not: it takes no name for itself.

    A registry that asks collect() instead, as the default one does, would refuse each metric that is in the segment.
    """
    return []


def multiprocess_collect(self: Any) -> Iterable[Any]:
    """MultiProcessCollector.collect"""
    return whole_metrics()


def process_collect(self: Any) -> Iterable[Any]:
    """ProcessCollector.collect: of all workers, where it asks for its own process."""
    if str(self._pid()) not in ("self", str(os.getpid())) or self._proc != "/proc":
        return originals["ProcessCollector", "collect"](self)  # type: ignore[no-any-return]
    made = [_metric(family, created=False) for family in current().backend.collect() if _is_process(family)]
    for metric in made:
        metric.name = self._prefix + metric.name.removeprefix("process_")
        metric.samples = [
            sample._replace(name=self._prefix + sample.name.removeprefix("process_")) for sample in metric.samples
        ]
    return made
