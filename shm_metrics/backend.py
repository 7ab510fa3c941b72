"""MetricsBackend: one segment, with metrics made by asking for them, and everything a scrape shows of it.

Lives here: the façade over writer and reader. May not: know HTTP, text formats or declared metrics.
"""

from __future__ import annotations

import logging
import math
import os
import time
import weakref
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from shm_metrics import series as S
from shm_metrics.cells import lookup
from shm_metrics.definitions import define
from shm_metrics.errors import InvalidMetricError, MetricConflictError, SegmentError
from shm_metrics.families import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    INFO,
    STATESET,
    SUMMARY,
    AnyFamily,
    Exemplar,
    Family,
    LabelPairs,
)
from shm_metrics.gauge_modes import MODES
from shm_metrics.handles import FamilyHandle, sample_names
from shm_metrics.kept import cached_property
from shm_metrics.labels import check_label_names, label_pairs
from shm_metrics.layout import DEFAULT_ROWS, DEFAULT_SLOTS, Layout
from shm_metrics.place import Place
from shm_metrics.segment import Segment
from shm_metrics.writer import Writer

if TYPE_CHECKING:
    from shm_metrics.arrays import FloatArray
    from shm_metrics.events.handling import EventHandler
    from shm_metrics.events.router import EventRouter
    from shm_metrics.events.rules import EventRules
    from shm_metrics.scraping import Scraper
    from shm_metrics.snapshot import Snapshot
    from shm_metrics.sync.agent import SyncAgent
    from shm_metrics.sync.config import SyncConfig
    from shm_metrics.sync.strategy import CacheStrategy

__all__ = ["DEFAULT_NAME", "MetricsBackend", "place_for"]

log = logging.getLogger("shm_metrics")

DEFAULT_NAME = "default"
SEGMENT_VARIABLE = "SHM_METRICS_SEGMENT"


def place_for(name: str | None = None, path: str | os.PathLike[str] | None = None, *, uid: int | None = None) -> Place:
    """Where the segment is: a path, a name, or what SHM_METRICS_SEGMENT says (a path if it has a slash).

    uid: whose segment of that name; this process' own user's if left out.
    """
    if name is not None and path is not None:
        raise InvalidMetricError(f"name {name!r} and path {path!r}: give one of them")
    if path is not None:
        return Place.at(path)
    told = name if name is not None else os.environ.get(SEGMENT_VARIABLE) or DEFAULT_NAME
    if name is None and "/" in told:
        return Place.at(told)
    try:
        return Place.named(told, os.geteuid() if uid is None else uid)
    except InvalidMetricError as error:
        raise error if name is not None else InvalidMetricError(f"{SEGMENT_VARIABLE}: {error}") from None


class MetricsBackend(lookup.Getters):
    """The metrics of all processes that use one segment.

    name: of the segment, in /dev/shm; default: what SHM_METRICS_SEGMENT says, else "default". Or path: any file.
    rows: workers at once; slots: numbers to keep (a counter takes 1, a gauge 2 or 3, a histogram its buckets + 3).
        They count when the segment is made; one that is joined keeps its own.
    keep: carry the totals over when nobody was using the segment; otherwise it begins anew.
    read_only: claim no row, write nothing. Raises FileNotFoundError when there is no segment.
    role: what people should read about this worker (`gunicorn worker`).
    cache: where the cluster meets: a URL (redis://, valkey://, memcached://), a client of redis-py, valkey-py or
        pymemcache, a file, or None. sync_interval: seconds between two publishes; namespace: of the cluster, the same
        on all hosts; sync_options: any other field of SyncConfig. See docs/cluster.md.
    process_metrics: CPU, memory, descriptors and threads of the live workers; per_worker: also one series a worker.

    Raises InvalidMetricError, SegmentFormatError, SegmentFullError or SegmentError.
    """

    if TYPE_CHECKING:

        def counter(self, name: str, documentation: str = "", *, unit: str = "", **labels: object) -> S.CounterSeries:
            """The counter series with these labels, made at first use."""

        def gauge(
            self, name: str, documentation: str = "", *, unit: str = "", multiprocess_mode: str = "", **labels: object
        ) -> S.SharedGaugeSeries | S.GaugeSeries:
            """The gauge series with these labels, made at first use."""

        def histogram(
            self,
            name: str,
            documentation: str = "",
            *,
            unit: str = "",
            buckets: Iterable[float] | None = None,
            **labels: object,
        ) -> S.HistogramSeries:
            """The histogram series with these labels, made at first use."""

        def summary(self, name: str, documentation: str = "", *, unit: str = "", **labels: object) -> S.SummarySeries:
            """The summary series with these labels, made at first use."""

    else:
        counter = lookup.counter_method
        gauge = lookup.gauge_method
        histogram = lookup.histogram_method
        summary = lookup.summary_method

    def __init__(
        self,
        name: str | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        rows: int = DEFAULT_ROWS,
        slots: int = DEFAULT_SLOTS,
        keep: bool = False,
        read_only: bool = False,
        role: str = "",
        process_metrics: bool = True,
        per_worker: bool = False,
        cache: Any = None,
        sync_interval: float = 15.0,
        namespace: str = "shm_metrics",
        sync_options: Mapping[str, Any] | None = None,
        _private: bool = False,
        _pid: int | None = None,
    ) -> None:
        self.forget_series()
        self._arguments: dict[str, Any] = {
            "name": name,
            "path": path,
            "rows": rows,
            "slots": slots,
            "keep": keep,
            "read_only": read_only,
            "role": role,
            "process_metrics": process_metrics,
            "per_worker": per_worker,
            "cache": cache,
            "sync_interval": sync_interval,
            "namespace": namespace,
            "sync_options": sync_options,
            "_private": _private,
            "_pid": _pid,
        }
        self.place = place_for(name, path)
        self.layout = Layout(rows, slots)
        self.detached = _private
        self._handles: dict[str, FamilyHandle] = {}
        self._sample_names: dict[str, Family] = {}
        self._functions: weakref.WeakKeyDictionary[Any, Callable[[], float]] = weakref.WeakKeyDictionary()
        if cache is not None:
            self.sync_config  # noqa: B018  # what cannot be meant is said now, not by a thread later
        self._writer_or_none: Writer | None = None
        if not read_only:
            self._writer_or_none = Writer(self.place, self.layout, keep=keep, private=_private, role=role, pid=_pid)
        if read_only:
            self._scraper.segment()  # raises now, not at the first scrape, when there is no segment

    @cached_property
    def _scraper(self) -> Scraper:
        """The reading half. It loads numpy; a process that only counts never comes here."""
        from shm_metrics.scraping import Scraper

        return Scraper(
            self.place,
            self._writer_or_none,
            process_metrics=self._arguments["process_metrics"],
            per_worker=self._arguments["per_worker"],
            detached=self.detached,
        )

    @property
    def _segment(self) -> Segment:
        return self._scraper.segment() if self._writer_or_none is None else self._writer_or_none.segment

    def __reduce__(self) -> Any:
        return _reattach, (self._arguments,)

    def __repr__(self) -> str:
        return f"<MetricsBackend {self.place.path}{' read only' if self.read_only else ''}>"

    @property
    def read_only(self) -> bool:
        return self._writer_or_none is None

    @property
    def _writer(self) -> Writer:
        if self._writer_or_none is None:
            raise SegmentError(f"{self.place.path}: opened read_only; open it without to count")
        return self._writer_or_none

    @property
    def instance_id(self) -> str:
        """32 hex digits that no other life of the segment has."""
        return self._segment.header.incarnation.hex()

    @property
    def created_at(self) -> float:
        """Unix seconds at which the segment was made."""
        return self._segment.header.created_at

    @property
    def row(self) -> int | None:
        """This process' row, or None (read only, or none was free)."""
        writer = self._writer_or_none
        return None if writer is None or writer.lease is None else writer.lease.row

    def set_role(self, role: str) -> None:
        """What people should read about this worker."""
        self._writer.set_role(role)

    # -- getting and making series --------------------------------------------------------------------------------

    def make_series(self, kind: str, names: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """What counter(), gauge(), histogram() and summary() do when the series is not cached."""
        key = lookup.cache_key(names[0], keywords) if len(names) == 1 else None
        if len(names) not in (1, 2):
            raise TypeError(f"{kind}() takes a name, and its documentation; labels go by keyword")
        labels = dict(keywords)
        documentation = names[1] if len(names) == 2 else labels.pop("documentation", "")
        told = {option: labels.pop(option, None) for option in ("unit", *_OPTIONS.get(kind, ()))}
        given = {option: value for option, value in told.items() if _says_something(value)}
        wanted = define(kind, names[0], documentation, **given)
        check_label_names(labels, kind, wanted.name)
        series = self.series(wanted, given, label_pairs(labels))
        if key is not None and not series.overflowed:
            self.series_cache(kind)[key] = series
        return series

    def series(self, wanted: Family, given: Mapping[str, Any], pairs: LabelPairs) -> Any:
        """The series of a family with these labels; of its definition, only what is `given` was asked for."""
        handle = self.handle(self._as_known(wanted, given), None, bool(pairs))
        return handle.child(pairs, series_class(handle.family).of)

    def check_family(self, wanted: Family, given: Mapping[str, Any]) -> None:
        """Raise the MetricConflictError that asking for such a series would raise; nothing is made."""
        known = self._handles.get(wanted.name)
        if known is None:
            self._check_names(wanted)
        else:
            _check_same(known.family, self._as_known(wanted, given))

    def has_series(self, wanted: Family, given: Mapping[str, Any], pairs: LabelPairs | None = None) -> bool:
        """Whether some process has made the family already, and the series if `pairs` are given; nothing is made."""
        return self._writer.has(self._as_known(wanted, given), pairs)

    def _as_known(self, wanted: Family, given: Mapping[str, Any]) -> Family:
        """The family as it was made before, if what is `given` of its definition says nothing else."""
        known = self._handles.get(wanted.name)
        if known is None or known.family.type != wanted.type:
            return wanted
        left_out = {field: getattr(known.family, field) for option, field in _FIELDS.items() if option not in given}
        return replace(wanted, **left_out)

    def _check_names(self, family: Family) -> None:
        for sample_name in sample_names(family):
            other = self._sample_names.get(sample_name)
            if other is not None and other.name != family.name:
                raise MetricConflictError(
                    f"{family.type} {family.name}: its sample {sample_name} is already one of "
                    f"{other.type} {other.name}; choose another name"
                )

    def handle(self, family: Family, labelnames: tuple[str, ...] | None, labelled: bool) -> FamilyHandle:
        """This process' hold on a family. labelnames: as declared, if it is; labelled: whether its series have labels.

        Raises MetricConflictError when its names are taken by another definition.
        """
        known = self._handles.get(family.name)
        if known is None:
            self._check_names(family)
            # setdefault: threads that declare a family at the same moment must get the same hold on it
            known = self._handles.setdefault(family.name, FamilyHandle(self, family, labelnames))
            try:
                known.writer.family(known.family, labelled)
            except BaseException:  # it cannot be recorded: its name is not taken
                self._handles.pop(family.name, None)
                raise
            self._sample_names.update(dict.fromkeys(sample_names(known.family), known.family))
        _check_same(known.family, family)
        if labelnames is not None:
            if known.labelnames is not None and set(known.labelnames) != set(labelnames):
                raise MetricConflictError(
                    f"{family.name}: declared with labels {known.labelnames!r} before, now with {labelnames!r}"
                )
            known.labelnames = labelnames
        return known

    def _bounds(self, family: Family) -> memoryview:
        return memoryview(array("d", family.bounds or (math.inf,)))

    # -- values ---------------------------------------------------------------------------------------------------

    def _columns(self, family: Family, pairs: LabelPairs) -> FloatArray:
        entry = self._scraper.entry(family, pairs)
        if entry is None:
            from numpy import zeros

            return zeros(max(1, len(family.bounds)) + 1)
        total = self._writer.reader.column_totals(family, entry.slot)
        return total - entry.baseline if entry.baseline.size else total

    def _total(self, family: Family, pairs: LabelPairs) -> float:
        entry = self._scraper.entry(family, pairs)
        if entry is None:
            return 0.0
        if family.type == COUNTER:
            return float(self._columns(family, pairs)[0])
        known = family if family.type == GAUGE else Family(family.name, GAUGE, mode="mostrecent")
        return self._writer.reader.gauge_value(known, entry.slot, entry.born, entry.baseline)

    def _exemplar(self, family: Family, pairs: LabelPairs, positions: range) -> Exemplar | None:
        entry = self._scraper.entry(family, pairs)
        if entry is None:
            return None
        return self._writer.reader.exemplar([entry.slot + position for position in positions], entry.born)

    def _set_function(self, series: Any, function: Callable[[], float]) -> None:
        if not callable(function):
            raise InvalidMetricError(f"set_function({function!r}): give a callable")
        self._functions[series] = function

    # -- reading --------------------------------------------------------------------------------------------------

    def snapshot(self, *, stamps: bool = False) -> Snapshot:
        """All families as one scan found them. Immutable. stamps: also when gauges were set, at a small cost."""
        return self._scraper.snapshot(stamps)

    def collect(self) -> list[AnyFamily]:
        """Everything a scrape shows: the segment's families, the workers' processes, the engine, custom collectors."""
        self.run_functions()
        return self._scraper.collect()

    def run_functions(self, handle: FamilyHandle | None = None) -> None:
        """Set each gauge (of one family) that has a function of this process to what the function says now."""
        functions = self._functions.items()
        self._scraper.run_functions({s: function for s, function in functions if handle in (None, s._handle)})

    def run_collector(self, collector: Any) -> list[AnyFamily]:
        """The families of a collector that is not registered here; none, and a line in the log, when it fails."""
        return self._scraper.run(collector)

    def register_collector(self, collector: Any) -> None:
        """Run `collector` once a scrape: a callable that gives families, or an object with collect().

        A family is a SampleFamily or a prometheus_client Metric.
        """
        self._scraper.register(collector)

    def unregister_collector(self, collector: Any) -> None:
        """Undo register_collector. Raises ValueError when it was not registered."""
        self._scraper.unregister(collector)

    def all_metrics(self) -> dict[str, dict[str, Any]]:
        """key -> name, type, labels and value(s) of every series; the key is `name{label="value",...}`."""
        from shm_metrics.export import metrics_of

        return metrics_of(self.snapshot())

    def export(self) -> dict[str, Any]:
        """timestamp, backend_created_at, total_metrics and metrics (as all_metrics gives them)."""
        metrics = self.all_metrics()
        return {
            "timestamp": time.time(),
            "backend_created_at": self.created_at,
            "total_metrics": len(metrics),
            "metrics": metrics,
        }

    def export_as(self, name: str, **options: Any) -> bytes:
        """What the exporter of this name makes of a scrape (`text`, `json`, ...), or what it sent and was taken.

        options: the exporter's own, see docs/exporters.md. Raises InvalidMetricError for a name or option that there
        is not, ExportError when not all of it could be delivered.
        """
        from shm_metrics.exporters.registry import exporter

        return exporter(name, **options).export(self)

    def stats(self) -> dict[str, Any]:
        """How many metrics of which type, and the segment's own figures."""
        from shm_metrics.export import stats_of

        return stats_of(self.snapshot(), self._scraper.figures(), self.created_at, time.time())

    def another_worker(self, *, pid: int | None = None, role: str = "") -> MetricsBackend:
        """One more worker on the same segment, with a row of its own, in this process.

        pid: as which process it is shown; this one if left out.
        """
        if self.detached:
            return self
        return MetricsBackend(path=self.place.path, role=role, _pid=pid)

    # -- events ---------------------------------------------------------------------------------------------------

    @cached_property
    def _events(self) -> EventHandler:
        from shm_metrics.events.handling import EventHandler

        return EventHandler(self)

    def handle_event(self, event_name: str, payload: Mapping[str, Any] | None = None) -> bool:
        """Count an event by the first of `event_rules` that matches it; an event that none matches does nothing.

        False: it is not valid, and nothing was counted; one warning is logged for each kind of reason. Never raises.
        See docs/events.md.
        """
        return self._events.handle(event_name, payload)

    def handle_sampled_event(self, event_name: str, payload: Mapping[str, Any] | None, sampling_rate: float) -> bool:
        """Count an event that stands for 1 / sampling_rate of them; what it moves has the label `sampling_rate`."""
        return self._events.handle_sampled(event_name, payload, sampling_rate)

    @property
    def event_rules(self) -> EventRules:
        """What events do, in this process; add, replace and remove rules here."""
        return self._events.rules

    def register_event_router(self, router: EventRouter, name: str = "metrics") -> None:
        """Take part in `router` under this name: mappings that name it send their events here."""
        router.register_backend(name, self)

    def forget_series(self) -> None:
        """Look everything up anew: some series were removed."""
        super().forget_series()
        events = self.__dict__.get("_events")
        if events is not None:
            events.forget()

    # -- the cluster ----------------------------------------------------------------------------------------------

    @cached_property
    def sync_config(self) -> SyncConfig:
        """How this backend takes part in its cluster."""
        from shm_metrics.sync.config import SyncConfig

        told = self._arguments
        options = {"interval": told["sync_interval"], "namespace": told["namespace"], **(told["sync_options"] or {})}
        known = [field.name for field in fields(SyncConfig)]
        for option in options:
            if option not in known:
                raise InvalidMetricError(f"sync_options: there is no {option!r}; there are {', '.join(known)}")
        return SyncConfig(**options)

    @cached_property
    def sync_agent(self) -> SyncAgent:
        """What publishes this segment and reads the cluster; its thread runs after start_sync()."""
        from shm_metrics.sync.agent import SyncAgent

        return SyncAgent(self, self._arguments["cache"], self.sync_config)

    @property
    def closed(self) -> bool:
        """Whether close() was called, here or in the parent of this process."""
        return self._writer_or_none is not None and self._writer_or_none.closed

    @property
    def has_cache(self) -> bool:
        """Whether this backend was given a cache, and so the segment's leader is whoever holds its lease there."""
        return self._arguments["cache"] is not None

    @property
    def leads_by_byte(self) -> bool:
        """Whether this backend's agent has the segment's leader byte, as it does where there is no cache."""
        agent: SyncAgent | None = self.__dict__.get("sync_agent")
        return agent is not None and not self.has_cache and agent.leads

    @property
    def syncing(self) -> bool:
        """Whether start_sync() was called, and its thread runs."""
        agent = self.__dict__.get("sync_agent")
        return agent is not None and bool(agent.running)

    def start_sync(self) -> SyncAgent | None:
        """Begin the thread that keeps the cluster informed, if a cache is configured; in a child of fork it begins by
        itself. The hooks for gunicorn and uWSGI call this; elsewhere call it in each process, or before the fork."""
        if self._arguments["cache"] is None or self.read_only:
            return None
        self.sync_agent.start()
        return self.sync_agent

    def sync_to_cache(self) -> dict[str, Any]:
        """Publish now; what came of it (see sync/report.py). Never raises, and never claims success."""
        return self.sync_agent.sync_now()

    def export_distributed_metrics(self, *, include_instances: bool = False) -> dict[str, Any]:
        """As export(), over all instances that the cache knows, as they were published last.

        distributed: whether it is that, and not this segment alone, for want of a cache or of its answer (`warning`).
        include_instances: also each instance's own metrics. See docs/cluster.md.
        """
        from shm_metrics.sync.distributed import export_distributed

        return export_distributed(self, self.sync_agent, include_instances=include_instances)

    @cached_property
    def cache_strategy(self) -> CacheStrategy:
        """What the cache can do."""
        from shm_metrics.sync.strategy import CacheStrategy

        return CacheStrategy.detect(self._arguments["cache"], instance_id=self.instance_id)

    @property
    def cache_capabilities(self) -> dict[str, Any]:
        """The same as a dict."""
        return self.cache_strategy.export_capabilities()

    @property
    def sync_strategy(self) -> str:
        """distributed_atomic, distributed_basic or local_only."""
        return self.cache_strategy.coordination_mode

    # -- ending ---------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Hide every series, in every process, from the next scrape on; counting goes on from 0."""
        mine = dict(self._handles)
        for name, family in self._scraper.families().items():
            handle = mine.get(name) or FamilyHandle(self, family, None)
            handle.clear()

    def close(self) -> None:
        """Give this process' row up; its totals stay in the segment. Series still held count nowhere from here on."""
        self._stop_sync()
        if self._writer_or_none is not None:
            self._writer_or_none.close()
        if "_scraper" in self.__dict__:
            self._scraper.close()

    def _stop_sync(self) -> None:
        agent = self.__dict__.pop("sync_agent", None)
        if agent is not None:
            agent.stop()

    def unlink(self) -> None:
        """Close, and remove the segment; processes that still have it count on, unseen."""
        self._stop_sync()
        self._writer.close(unlink=True)
        if "_scraper" in self.__dict__:
            self._scraper.close()


# What the get-or-create calls may be told beside name and labels, by kind; and which field of a Family it is.
_OPTIONS = {GAUGE: ("multiprocess_mode",), HISTOGRAM: ("buckets",)}
_FIELDS = {"unit": "unit", "multiprocess_mode": "mode", "buckets": "bounds"}

_SERIES: Mapping[str, Any] = {
    COUNTER: S.CounterSeries,
    HISTOGRAM: S.HistogramSeries,
    SUMMARY: S.SummarySeries,
    INFO: S.InfoSeries,
    STATESET: S.EnumSeries,
    **{
        mode.name: S.SharedGaugeSeries if mode.slots == 3 else S.GaugeSeries if mode.moves else S.NewestGaugeSeries
        for mode in MODES.values()
    },
}


def series_class(family: Family) -> Any:
    """The class of the family's series."""
    return _SERIES[family.mode if family.type == GAUGE else family.type]


def _says_something(option: object) -> bool:
    return bool(option) if isinstance(option, str) else option is not None


def _check_same(known: Family, wanted: Family) -> None:
    for what in ("type", "mode", "unit", "bounds", "states"):
        before, now = getattr(known, what), getattr(wanted, what)
        if before != now:
            raise MetricConflictError(f"{wanted.name}: declared with {what} {before!r} before, now with {now!r}")


def _reattach(arguments: dict[str, Any]) -> MetricsBackend:
    return MetricsBackend(**arguments)
