"""What is installed, and where it counts."""

from __future__ import annotations

import gc
import logging
import os
import weakref
from collections.abc import Callable, Iterator
from threading import RLock
from typing import Any

from shm_metrics.backend import MetricsBackend
from shm_metrics.errors import MetricConflictError, MetricsError
from shm_metrics.metrics.default_backend import follow_default, get_backend
from shm_metrics.metrics.family_handle import FamilyHandle
from shm_metrics.model.families import Family
from shm_metrics.prometheus import binding, patched_methods, workers
from shm_metrics.prometheus.collectors import RuntimeCollectors
from shm_metrics.prometheus.patching import Patches
from shm_metrics.prometheus.values import SegmentValue, value_class
from shm_metrics.prometheus.weak_identity_set import WeakIdentitySet
from shm_metrics.prometheus.workers import IdentifiedWorker, Worker
from shm_metrics.runtime import forks

__all__ = ["Installation", "current", "existing", "install", "uninstall"]

log = logging.getLogger("shm_metrics")

_installed: Installation | None = None
_lock = RLock()


def current() -> Installation:
    """Return the current installation. Raise MetricsError when there is none."""
    if _installed is None:
        raise MetricsError("shm_metrics.prometheus is not installed; call shm_metrics.prometheus.install()")
    return _installed


def install(backend: MetricsBackend | None) -> MetricsBackend:
    global _installed
    with _lock:
        if _installed is None:
            made = Installation(backend or get_backend(), follows_default=backend is None)
            _installed = made
            try:
                made.put_in_place()
            except BaseException:
                made.take_out()
                _installed = None
                raise
        elif backend is not None and backend is not _installed.backend:
            raise MetricsError(
                f"shm_metrics.prometheus is installed with {_installed.backend!r}, and now asked for {backend!r}; "
                "call uninstall() first, or install() once"
            )
        return _installed.backend


def uninstall() -> None:
    global _installed
    with _lock:
        if _installed is not None:
            try:
                _installed.take_out()
            finally:
                _installed = None


class Installation:
    """The installed drop-in.

    backend: where metrics count. follows_default: whether they move when another backend becomes the default one.
    """

    def __init__(self, backend: MetricsBackend, *, follows_default: bool) -> None:
        if backend.read_only:
            raise MetricsError(f"{backend!r}: it is read only, and metrics must count; open it without read_only")
        try:
            import prometheus_client
        except ImportError as error:
            raise MetricsError("prometheus_client is not installed; pip install prometheus_client") from error
        self.client: Any = prometheus_client
        self.worker = Worker(backend)
        self.metrics = WeakIdentitySet()
        """All that count in the segment: metrics without labels, and children."""
        self.parents = WeakIdentitySet()
        """Metrics with labels."""
        self.hidden: set[str] = set()
        """Families that were unregistered from the default registry in this process."""
        self._given_up = WeakIdentitySet()
        """Metrics that were unregistered, and are in no registry that is known."""
        self._registries: weakref.WeakSet[Any] = weakref.WeakSet([prometheus_client.REGISTRY])
        self._handles: weakref.WeakSet[FamilyHandle] = weakref.WeakSet()
        """Families that this process knows by their metrics, and not by the engine's own API."""
        self._follows_default = follows_default
        self._patches = Patches()
        self._runtime = RuntimeCollectors()

    @property
    def backend(self) -> MetricsBackend:
        return self.worker.backend

    # -- in place -------------------------------------------------------------------------------------------------

    def put_in_place(self) -> None:
        """Patch prometheus_client, and adopt the existing metrics."""
        from prometheus_client import exposition, metrics, multiprocess, registry, values
        from prometheus_client.openmetrics import exposition as openmetrics

        from shm_metrics.prometheus import pages, registry_views

        put = self._patches
        self._original_value_class = values.ValueClass
        put.attribute(values, "ValueClass", value_class(self.worker))
        put.function(values.MultiProcessValue, lambda _: self._identified_value_class)
        put.function(values.get_value_class, lambda _: lambda: value_class(self.worker))
        put.function(multiprocess.mark_process_dead, lambda _: lambda pid, path=None: workers.mark_dead(pid))
        put.function(exposition.generate_latest, pages.text)
        put.function(openmetrics.generate_latest, pages.openmetrics)
        for owner, name, method in (
            *[(getattr(metrics, owner), name, method) for owner, name, method in _methods()],
            (metrics.MetricWrapperBase, "__init__", _init),
            (metrics.Enum, "__init__", _enum_init),
            (metrics.MetricWrapperBase, "collect", registry_views.metric_collect),
            (registry.CollectorRegistry, "collect", registry_views.registry_collect),
            (registry.CollectorRegistry, "register", registry_views.registry_register),
            (registry.CollectorRegistry, "unregister", registry_views.registry_unregister),
            (registry.RestrictedRegistry, "collect", registry_views.restricted_collect),
            (multiprocess.MultiProcessCollector, "__init__", registry_views.multiprocess_init),
            (multiprocess.MultiProcessCollector, "collect", registry_views.multiprocess_collect),
            (multiprocess.MultiProcessCollector, "describe", registry_views.multiprocess_describe),
            (self.client.ProcessCollector, "collect", registry_views.process_collect),
        ):
            before = put.attribute(owner, name, method)
            if before is not None:
                patched_methods.originals[owner.__name__, name] = before
        self._runtime.start(self.backend, self.client)
        self._adopt(existing(metrics.MetricWrapperBase))
        if self._follows_default:
            follow_default(self)

    def take_out(self) -> None:
        """Restore everything; each metric continues in process memory from what this worker's row holds."""
        self._runtime.stop()
        self._patches.restore()
        for metric in self.metrics:
            self._give_back(metric)
        for metric in self.parents:
            vars(metric).pop(binding.FAMILY, None)
        workers.close_identified()

    def _identified_value_class(self, process_identifier: Callable[[], object] = os.getpid) -> type[SegmentValue]:
        """MultiProcessValue."""
        if process_identifier is os.getpid:
            return value_class(self.worker)
        return value_class(IdentifiedWorker(self.backend, process_identifier))

    def counts(self, metric: Any) -> bool:
        """Whether a metric, or its children, count in the segment."""
        return metric in self.metrics or metric in self.parents

    # -- metrics --------------------------------------------------------------------------------------------------

    def take_in(self, metric: Any) -> None:
        """Make a new metric count in the segment."""
        if metric._type not in binding.KINDS:
            return  # a foreign type: its values count in the segment, and it renders them itself
        if not metric._is_observable():
            self._take_in_parent(metric)
            return
        values = _values_of(metric)
        if not all(isinstance(value, SegmentValue) for value in values):
            return  # the application chose another value class
        metric._shm_family = binding.family_of(metric)
        for value in values:
            value.family = metric._shm_family
        worker = values[0].worker if values else self.worker
        if worker.identified:
            values[0].series  # noqa: B018  # it is shown from now on
        elif binding.bind(metric, worker.backend, self._handle) is None:
            self._give_back(metric)
            return
        self.metrics.add(metric)

    def _handle(
        self, backend: MetricsBackend, family: Family, labelnames: tuple[str, ...], labelled: bool
    ) -> FamilyHandle:
        """Return this process' handle of a family. It replaces one whose metrics were all unregistered.

        Raise MetricConflictError.
        """
        families = backend.families
        before = families.handles.get(family.name)
        try:
            handle = families.handle(family, labelnames, labelled)
        except MetricConflictError:
            if before is None or before not in self._handles or self._is_wanted(before):
                raise
            handle = families.redefine(family, labelnames, labelled)
        if handle is not before:
            self._handles.add(handle)
        return handle

    def _is_wanted(self, handle: FamilyHandle) -> bool:
        """Whether a metric of this definition exists that was not unregistered."""
        return any(
            metric._name == handle.family.name
            and not metric._labelvalues
            and metric not in self._given_up
            and binding.declares(metric, handle)
            for metric in (*self.metrics, *self.parents)
        )

    def registered(self, registry: Any, collector: Any, name: str) -> None:
        """Note that a collector was registered. name: of its family, if it is a metric."""
        self._registries.add(registry)
        self._given_up.discard(collector)
        if registry is self.client.REGISTRY:
            self.hidden.discard(name)

    def unregistered(self, registry: Any, collector: Any, name: str) -> None:
        """Note that a collector was unregistered."""
        if name and not any(collector in each._collector_to_names for each in self._registries):
            self._given_up.add(collector)
        if name and registry is self.client.REGISTRY:
            self.hidden.add(name)

    def _take_in_parent(self, metric: Any) -> None:
        if metric._type in binding.KINDS:
            metric._shm_family = binding.family_of(metric)
        self.parents.add(metric)

    def _give_back(self, metric: Any) -> None:
        """Make a metric count in process memory again, from what this worker's row holds."""
        from prometheus_client import values

        numbers = _numbers(metric) if metric in self.metrics else []
        series = vars(metric).pop(binding.SERIES, None)
        vars(metric).pop(binding.FAMILY, None)
        self.metrics.discard(metric)
        if not _values_of(metric):
            return
        now, values.ValueClass = values.ValueClass, self._original_value_class
        try:
            _renew_values(metric)
        finally:
            values.ValueClass = now
        for value, number in zip(_values_of(metric), numbers, strict=False):
            value.set(number)
        if series is not None:
            binding.remember(metric, series.handle.backend.instance_id, binding.counted(metric))
            binding.keep_function(metric, series, patched_methods.originals["Gauge", "set_function"])

    def _adopt(self, metrics: list[Any]) -> None:
        inherited = binding.begun_by_another(metrics)
        # Of two definitions of one name, that of the default registry wins.
        registered = {id(collector) for collector in self.client.REGISTRY._collector_to_names}
        known = [metric for metric in metrics if id(metric) in registered]
        wanted = {id(each) for metric in known for each in (metric, *getattr(metric, "_metrics", {}).values())}
        metrics.sort(key=lambda metric: id(metric) not in wanted)
        left: list[str] = []
        for metric in metrics:
            if not metric._is_observable():
                self._take_in_parent(metric)
                continue
            before = binding.counted_since(metric, self.backend.instance_id)
            if _values_of(metric):
                _renew_values(metric)
            self.take_in(metric)
            series = vars(metric).get(binding.SERIES)
            if series is None:
                continue
            function = binding.function_of(metric)
            if function is not None:
                series.set_function(function)
            elif not inherited or metric._type in ("info", "stateset"):
                binding.carry(metric, series, before)
            elif any(before[0]) if isinstance(before, tuple) else before:
                left.append(metric._name)
        if left:
            log.warning(
                "shm_metrics: install() in a forked process: what its parent counted before the fork is the parent's "
                "to report, and was left out of %s; call install() before the fork",
                ", ".join(sorted(set(left))),
            )

    # -- following ------------------------------------------------------------------------------------------------

    def attach(self, backend: MetricsBackend, *, move: bool = False) -> None:
        """Count in `backend` from now on. move: also move what this process has counted so far."""
        self.worker.backend = backend
        started: set[int] = set()  # two metrics of one name have one series, which moves once
        for metric in self.metrics:
            series = vars(metric).get(binding.SERIES)
            if series is None or id(series) in started:
                continue
            try:
                handle = self._handle(backend, series.handle.family, tuple(metric._labelnames), bool(series.pairs))
            except MetricConflictError as error:
                binding.log_left_out(metric, error)
                self._give_back(metric)
                continue
            series.start(handle, series.pairs, move=move)
            handle.series.setdefault(series.pairs, series)
            started.add(id(series))
        self._runtime.attach(backend)

    def after_fork(self) -> None:
        """In the child, renew the locks of metrics: threads of the parent may have held them."""
        for metric in (*self.metrics, *self.parents):
            patched_methods.renew_locks(metric)


def _methods() -> Iterator[tuple[str, str, Callable[..., Any]]]:
    for owner, replaced in patched_methods.METHODS.items():
        for name, method in replaced.items():
            yield owner, name, method


def _init(self: Any, *args: Any, **kwargs: Any) -> None:
    patched_methods.originals["MetricWrapperBase", "__init__"](self, *args, **kwargs)
    if self._type != "stateset":  # which does not know its states yet
        current().take_in(self)


def _enum_init(self: Any, *args: Any, **kwargs: Any) -> None:
    patched_methods.originals["Enum", "__init__"](self, *args, **kwargs)
    current().take_in(self)


def _values_of(metric: Any) -> list[Any]:
    """Return the values of a metric, in a fixed order; [] for types without value objects."""
    if metric._type in ("info", "stateset"):
        return []
    found = [getattr(metric, name) for name in ("_value", "_count", "_sum") if hasattr(metric, name)]
    # The buckets before the sum: they make the count, which says where the sum is kept.
    return [*getattr(metric, "_buckets", ()), *found]


def _numbers(metric: Any) -> list[float]:
    try:
        return [value.get() for value in _values_of(metric)]
    except MetricsError as error:
        log.warning("shm_metrics: %s starts from zero in its process' memory: %s", metric._name, error)
        return []


def _renew_values(metric: Any) -> None:
    created = getattr(metric, "_created", None)
    metric._metric_init()
    if created is not None:
        metric._created = created


def existing(base: type) -> list[Any]:
    """Return all metrics of this process, also those that gc.freeze() hid before a fork."""
    # freeze() takes all there is: while the class itself is not frozen, none of its instances is. The count says less,
    # since CPython 3.12 begins with some frozen objects of its own.
    if id(base) in map(id, gc.get_objects()):
        return _instances(base)
    gc.unfreeze()
    try:
        return _instances(base)
    finally:
        gc.freeze()


def _instances(base: type) -> list[Any]:
    # By way of their classes, to which they refer: to ask each of a million objects what it is takes six times as long.
    classes = [base]
    for each in classes:
        classes += each.__subclasses__()
    referrers = gc.get_referrers(*classes)
    return [found for found in referrers if issubclass(type(found), base) and "_labelvalues" in vars(found)]


@forks.in_child(forks.STATE)
def _after_fork_in_child() -> None:
    if _installed is not None:
        _installed.after_fork()
