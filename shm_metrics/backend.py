"""MetricsBackend: one segment, and all that can be done with what is counted there."""

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
from shm_metrics.segment.location import place_for

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

    name: of the segment, in /dev/shm; default: what SHM_METRICS_SEGMENT says, else "default". Or path: any file.
    rows: workers at once; slots: numbers to keep (a counter takes 1, a gauge 2 or 3, a histogram its buckets + 3).
        They count when the segment is made; one that is joined keeps its own.
    keep: carry the totals over when nobody was using the segment; otherwise it begins anew.
    read_only: claim no row, write nothing. Raises FileNotFoundError when there is no segment.
    role: what people should read about this worker (`gunicorn worker`).
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
        place, layout = place_for(name, path), Layout(rows, slots)
        if cache is not None:  # what cannot be meant is said now, not by a thread later
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
        """key -> name, type, labels and value(s) of every series; the key is `name{label="value",...}`."""
        from shm_metrics.exporters.dictionaries import metrics_of

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
        from shm_metrics.exporters.dictionaries import stats_of

        return stats_of(self.snapshot(), self.scraper.figures(), self.created_at, time.time())

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
        from shm_metrics.events.handler import EventHandler

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
        from shm_metrics.cluster.config import SyncConfig

        told = self._arguments
        options = {"interval": told["sync_interval"], "namespace": told["namespace"], **(told["sync_options"] or {})}
        known = [field.name for field in fields(SyncConfig)]
        for option in options:
            if option not in known:
                raise InvalidMetricError(f"sync_options: there is no {option!r}; there are {', '.join(known)}")
        return SyncConfig(**options)

    @cached_property
    def sync_agent(self) -> SyncAgent:
        """What publishes this segment and reads the cluster; its thread runs after start_sync().

        Raises SyncError when the package that the cache needs is not installed, SegmentError after close().
        """
        from shm_metrics.cluster.agent import SyncAgent

        if self._ended:  # nobody would close the agent
            raise SegmentError(f"{self.place.path}: closed by this process; make another MetricsBackend to sync it")
        return SyncAgent(self, self._arguments["cache"], self.sync_config)

    @property
    def has_cache(self) -> bool:
        """Whether this backend was given a cache, and so the segment's leader is whoever holds its lease there."""
        return self._arguments["cache"] is not None

    @property
    def syncing(self) -> bool:
        """Whether start_sync() was called, and its thread runs."""
        agent = self.__dict__.get("sync_agent")
        return agent is not None and bool(agent.running)

    def start_sync(self) -> SyncAgent | None:
        """Begin the thread that keeps the cluster informed, if a cache is configured; in a child of fork it begins by
        itself. The hooks for gunicorn and uWSGI call this; elsewhere call it in each process, or before the fork.

        Raises what sync_agent raises; nothing when the cache does not answer.
        """
        if self._arguments["cache"] is None or self.read_only:
            return None
        self.sync_agent.start()
        return self.sync_agent

    def sync_to_cache(self) -> dict[str, Any]:
        """Publish now; what came of it (see sync/report.py): success, or False and an `error`. Never raises, and never
        claims success. A cache that cannot be meant was refused when the backend was made."""
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
        """As export(), over all instances that the cache knows, as they were published last.

        distributed: whether it is that, and not this segment alone, for want of a cache, of the package that it needs,
        or of its answer (`warning`). include_instances: also each instance's own metrics. See docs/cluster.md.
        Raises nothing else than export().
        """
        from shm_metrics.cluster.distributed import export_distributed

        return export_distributed(self, include_instances=include_instances)

    @cached_property
    def cache_strategy(self) -> CacheStrategy:
        """What the cache can do."""
        from shm_metrics.cluster.strategy import CacheStrategy

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

    def close(self) -> None:
        """Give this process' row up; its totals stay in the segment. Series still held count nowhere from here on."""
        self._stop_sync()
        super().close()

    def unlink(self) -> None:
        """Close, and remove the segment; processes that still have it count on, unseen."""
        self._stop_sync()
        super().unlink()

    def _stop_sync(self) -> None:
        self._ended = True
        agent = self.__dict__.pop("sync_agent", None)
        if agent is not None:
            agent.stop()


def _reattach(arguments: dict[str, Any]) -> MetricsBackend:
    return MetricsBackend(**arguments)
