"""MetricsBackend: one segment, and everything that you can do with its metrics."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from shm_metrics.errors import InvalidMetricError, SegmentError
from shm_metrics.metrics.engine import Engine
from shm_metrics.runtime.cached_property import cached_property
from shm_metrics.segment.layout import DEFAULT_ROWS, DEFAULT_SLOTS, Layout
from shm_metrics.segment.location import locate_segment

if TYPE_CHECKING:
    from shm_metrics.cluster.agent import SyncAgent
    from shm_metrics.cluster.config import SyncConfig
    from shm_metrics.cluster.strategy import CacheStrategy
    from shm_metrics.events.handler import EventHandler
    from shm_metrics.events.router import EventRouter
    from shm_metrics.events.rules import EventRules

__all__ = ["MetricsBackend"]


class MetricsBackend(Engine):
    """The metrics of all processes that use one segment.

    name: of the segment in /dev/shm, by default SHM_METRICS_SEGMENT or else "default". path: any file instead.
    rows: workers at once; slots: numbers to keep (a counter takes 1, a gauge 2 or 3, a histogram its buckets + 3).
        They apply when the segment is made; an existing one keeps its own.
    keep: carry the totals over if no process was using the segment; otherwise it starts from zero.
    read_only: claim no row, write nothing. Raises FileNotFoundError when there is no segment.
    role: a name for this worker in the worker table (`gunicorn worker`).
    cache: where the cluster meets: a URL (redis://, valkey://, memcached://), a client of redis-py, valkey-py or
        pymemcache, a file (its path has a slash), or None. sync_interval: seconds between two publishes; namespace: of
        the cluster, the same on all hosts; sync_options: any other field of SyncConfig. See docs/cluster.md.
    process_metrics: CPU, memory, descriptors and threads of the live workers; per_worker: also one series a worker.

    Raises InvalidMetricError, SegmentFormatError, SegmentFullError or SegmentError.
    """

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
        place, layout = locate_segment(name, path), Layout(rows, slots)
        if cache is not None:  # raise for an invalid cache now, not in a thread later
            from shm_metrics.cluster.store_factory import check_cache

            check_cache(cache)
            self.sync_config  # noqa: B018
        self._ended = False
        super().__init__(
            place,
            layout,
            keep=keep,
            read_only=read_only,
            role=role,
            process_metrics=process_metrics,
            per_worker=per_worker,
            private=_private,
            pid=_pid,
        )

    def __reduce__(self) -> Any:
        return _reattach, (self._arguments,)

    def __repr__(self) -> str:
        return f"<MetricsBackend {self.place.path}{' read only' if self.read_only else ''}>"

    # -- documents ------------------------------------------------------------------------------------------------

    def all_metrics(self) -> dict[str, dict[str, Any]]:
        """Return key -> name, type, labels and value(s) of every series; the key is `name{label="value",...}`."""
        from shm_metrics.exporters.dictionaries import metrics_of

        return metrics_of(self.snapshot())

    def export(self) -> dict[str, Any]:
        """Return timestamp, backend_created_at, total_metrics, and metrics (as all_metrics() returns them)."""
        metrics = self.all_metrics()
        return {
            "timestamp": time.time(),
            "backend_created_at": self.created_at,
            "total_metrics": len(metrics),
            "metrics": metrics,
        }

    def export_as(self, name: str, **options: Any) -> bytes:
        """Return what the exporter of this name renders (`text`, `json`, ...), or what it sent successfully.

        options: the exporter's own, see docs/exporters.md. Raise InvalidMetricError for an unknown name or option,
        ExportError when not everything was delivered.
        """
        from shm_metrics.exporters.registry import exporter

        return exporter(name, **options).export(self)

    def stats(self) -> dict[str, Any]:
        """Return the number of metrics by type, and the segment's own figures."""
        from shm_metrics.exporters.dictionaries import stats_of

        return stats_of(self.snapshot(), self.scraper.figures(), self.created_at, time.time())

    def another_worker(self, *, pid: int | None = None, role: str = "") -> MetricsBackend:
        """Return one more worker on the same segment, with a row of its own, in this process.

        pid: the process id to show for it; by default this one.
        """
        if self.detached:
            return self
        return MetricsBackend(path=self.place.path, role=role, _pid=pid)

    # -- events ---------------------------------------------------------------------------------------------------

    @cached_property
    def _events(self) -> EventHandler:
        from shm_metrics.events.handler import EventHandler

        return EventHandler(self)

    def handle_event(self, event_name: str, payload: Mapping[str, Any] | None = None) -> bool:
        """Count an event by the first of `event_rules` that matches it.

        Return True if the event was counted or matched no rule, False if it is invalid; each kind of reason is logged
        once. Never raise. See docs/events.md.
        """
        return self._events.handle(event_name, payload)

    def handle_sampled_event(self, event_name: str, payload: Mapping[str, Any] | None, sampling_rate: float) -> bool:
        """Count an event that stands for 1 / sampling_rate events; its series have the label `sampling_rate`."""
        return self._events.handle_sampled(event_name, payload, sampling_rate)

    @property
    def event_rules(self) -> EventRules:
        """The rules for events in this process; add, replace and remove rules here."""
        return self._events.rules

    def register_event_router(self, router: EventRouter, name: str = "metrics") -> None:
        """Register with `router` under this name: mappings that name it send their events here."""
        router.register_backend(name, self)

    def forget_series(self) -> None:
        """Look every series up again, because some were removed."""
        super().forget_series()
        events = self.__dict__.get("_events")
        if events is not None:
            events.forget()

    # -- the cluster ----------------------------------------------------------------------------------------------

    @cached_property
    def sync_config(self) -> SyncConfig:
        """The configuration of cluster sync."""
        from shm_metrics.cluster.config import SyncConfig

        given = self._arguments
        options = {"interval": given["sync_interval"], "namespace": given["namespace"], **(given["sync_options"] or {})}
        known = [field.name for field in fields(SyncConfig)]
        for option in options:
            if option not in known:
                raise InvalidMetricError(f"sync_options: there is no {option!r}; there are {', '.join(known)}")
        return SyncConfig(**options)

    @cached_property
    def sync_agent(self) -> SyncAgent:
        """The agent that publishes this segment and reads the cluster; its thread runs after start_sync().

        Raise SyncError when the package that the cache needs is not installed, SegmentError after close().
        """
        from shm_metrics.cluster.agent import SyncAgent

        if self._ended:  # nothing would close the agent
            raise SegmentError(f"{self.place.path}: closed by this process; make another MetricsBackend to sync it")
        return SyncAgent(self, self._arguments["cache"], self.sync_config)

    @property
    def has_cache(self) -> bool:
        """Whether this backend has a cache; then the segment's leader is the holder of its lease there."""
        return self._arguments["cache"] is not None

    @property
    def syncing(self) -> bool:
        """Whether the thread that start_sync() started runs."""
        agent = self.__dict__.get("sync_agent")
        return agent is not None and bool(agent.running)

    def start_sync(self) -> SyncAgent | None:
        """Start the sync thread, if a cache is configured. It restarts by itself in a child of fork.

        The hooks for gunicorn and uWSGI call this; elsewhere call it in each process, or before the fork.

        Raise what sync_agent raises, but nothing when the cache does not answer.
        """
        if self._arguments["cache"] is None or self.read_only:
            return None
        self.sync_agent.start()
        return self.sync_agent

    def sync_to_cache(self) -> dict[str, Any]:
        """Publish now. Return the report (cluster/report.py): `success`, or False with an `error`. Never raise.

        Success requires a confirmed response. An invalid cache was already refused when the backend was made.
        """
        from shm_metrics.cluster.report import no_round
        from shm_metrics.cluster.strategy import CacheStrategy

        try:
            agent = self.sync_agent
        except Exception as error:  # a package that is missing, a cache of Django without settings, a closed backend
            strategy = CacheStrategy.detect(self._arguments["cache"], instance_id="").coordination_mode
            instance = "" if self._ended else self.instance_id
            return no_round(error, strategy=strategy, instance_id=instance, timestamp=time.time())
        return agent.sync_now()

    def export_distributed_metrics(self, *, include_instances: bool = False) -> dict[str, Any]:
        """Return export() over all instances in the cache, as each published itself last.

        include_instances: add each instance's own metrics.

        The key `distributed` is False, with a `warning`, if the result is this segment alone: there is no cache, its
        package is missing, or it does not answer. See docs/cluster.md. Raises only what export() raises.
        """
        from shm_metrics.cluster.distributed import export_distributed

        return export_distributed(self, include_instances=include_instances)

    @cached_property
    def cache_strategy(self) -> CacheStrategy:
        """The capabilities of the cache."""
        from shm_metrics.cluster.strategy import CacheStrategy

        return CacheStrategy.detect(self._arguments["cache"], instance_id=self.instance_id)

    @property
    def cache_capabilities(self) -> dict[str, Any]:
        """The capabilities of the cache, as a dict."""
        return self.cache_strategy.export_capabilities()

    @property
    def sync_strategy(self) -> str:
        """The cache's strategy: distributed_atomic, distributed_basic or local_only."""
        return self.cache_strategy.coordination_mode

    # -- ending ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give this process' row up; its totals stay in the segment. Series that you still hold no longer count."""
        self._stop_sync()
        super().close()

    def unlink(self) -> None:
        """Close, and remove the segment; processes that still have it count on, but no scrape shows it."""
        self._stop_sync()
        super().unlink()

    def _stop_sync(self) -> None:
        self._ended = True
        agent = self.__dict__.pop("sync_agent", None)
        if agent is not None:
            agent.stop()


def _reattach(arguments: dict[str, Any]) -> MetricsBackend:
    return MetricsBackend(**arguments)
