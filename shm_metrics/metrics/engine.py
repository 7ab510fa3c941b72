"""Engine: one segment as this process has it, with metrics made by asking for them, and what a scrape collects."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from shm_metrics.errors import SegmentError
from shm_metrics.metrics.family_handle import FamilyHandle
from shm_metrics.metrics.registry import Registry
from shm_metrics.model.declarations import define
from shm_metrics.model.families import GAUGE, HISTOGRAM, AnyFamily
from shm_metrics.model.labels import check_label_names, label_pairs
from shm_metrics.native.implementation import lookup
from shm_metrics.runtime import forks
from shm_metrics.runtime.cached_property import cached_property
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.location import SegmentLocation
from shm_metrics.segment.segment import Segment
from shm_metrics.writer.writer import Writer

if TYPE_CHECKING:
    from shm_metrics.metrics.declared import Counter, Gauge, Histogram, Summary
    from shm_metrics.model.gauge_modes import ModeName
    from shm_metrics.model.snapshot import Snapshot
    from shm_metrics.scrape.scraper import Scraper

__all__ = ["Engine"]

# What the get-or-create calls may be told beside name, unit and labels, by kind.
_OPTIONS = {GAUGE: ("multiprocess_mode",), HISTOGRAM: ("buckets",)}


class Engine(lookup.Getters):
    """private: on a segment that only this process and its children have. pid: as which process it is shown.

    The others: see MetricsBackend. Raises what Segment.attach raises; FileNotFoundError when it is read_only and there
    is no segment.
    """

    if TYPE_CHECKING:

        def counter(self, name: str, documentation: str = "", *, unit: str = "", **labels: object) -> Counter:
            """The counter series with these labels, made at first use."""

        def gauge(
            self,
            name: str,
            documentation: str = "",
            *,
            unit: str = "",
            multiprocess_mode: ModeName | Literal[""] = "",
            **labels: object,
        ) -> Gauge:
            """The gauge series with these labels, made at first use."""

        def histogram(
            self,
            name: str,
            documentation: str = "",
            *,
            unit: str = "",
            buckets: Iterable[float] | None = None,
            **labels: object,
        ) -> Histogram:
            """The histogram series with these labels, made at first use."""

        def summary(self, name: str, documentation: str = "", *, unit: str = "", **labels: object) -> Summary:
            """The summary series with these labels, made at first use."""

    else:
        counter = lookup.counter_method
        gauge = lookup.gauge_method
        histogram = lookup.histogram_method
        summary = lookup.summary_method

    def __init__(
        self,
        place: SegmentLocation,
        layout: Layout,
        *,
        keep: bool,
        read_only: bool,
        role: str,
        process_metrics: bool,
        per_worker: bool,
        private: bool,
        pid: int | None,
    ) -> None:
        self.forget_series()
        self.place = place
        self.layout = layout
        self.detached = private
        self.families = Registry(self)
        self.functions: weakref.WeakKeyDictionary[Any, Callable[[], float]] = weakref.WeakKeyDictionary()
        self._process_metrics = process_metrics
        self._per_worker = per_worker
        self._writer_or_none: Writer | None = None
        if not read_only:
            self._writer_or_none = Writer(place, layout, keep=keep, private=private, role=role, pid=pid)
        if read_only:
            self._scraper.segment()  # raises now, not at the first scrape, when there is no segment

    @cached_property
    def _scraper(self) -> Scraper:
        """The reading half. It loads numpy; a process that only counts never comes here."""
        with forks.block_forks():
            from shm_metrics.scrape.scraper import Scraper

        return Scraper(
            self.place,
            self._writer_or_none,
            process_metrics=self._process_metrics,
            per_worker=self._per_worker,
            detached=self.detached,
        )

    @property
    def _segment(self) -> Segment:
        return self._scraper.segment() if self._writer_or_none is None else self._writer_or_none.segment

    @property
    def read_only(self) -> bool:
        return self._writer_or_none is None

    @property
    def _writer(self) -> Writer:
        if self._writer_or_none is None:
            raise SegmentError(f"{self.place.path}: opened read_only; open it without to count")
        return self._writer_or_none

    @property
    def writer(self) -> Writer:
        """This process as a writer of the segment. Raise SegmentError when it is read-only."""
        return self._writer

    @property
    def segment(self) -> Segment:
        """The segment that this process has mapped."""
        return self._segment

    @property
    def scraper(self) -> Scraper:
        """What reads the segment for scrapes."""
        return self._scraper

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

    @property
    def closed(self) -> bool:
        """Whether close() was called, here or in the parent of this process."""
        return self._writer_or_none is not None and self._writer_or_none.closed

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
        self.families.check_labels(wanted, labels)
        series = self.families.series(wanted, given, label_pairs(labels))
        if key is not None and not series.overflowed:
            self.series_cache(kind)[key] = series
        return series

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
        functions = self.functions.items()
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

    # -- ending ---------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Hide every series, in every process, from the next scrape on; counting goes on from 0.

        Raises SegmentError, with some series hidden, when another process keeps the catalog to itself for seconds.
        """
        mine = dict(self.families.handles)
        for name, family in self._scraper.families().items():
            handle = mine.get(name) or self.families.new_handle(family)
            handle.clear()

    def close(self) -> None:
        """Give this process' row up; its totals stay in the segment. Series still held count nowhere from here on."""
        if self._writer_or_none is not None:
            self._writer_or_none.close()
        self._close_scraper()

    def unlink(self) -> None:
        """Close, and remove the segment; processes that still have it count on, unseen."""
        self._writer.close(unlink=True)
        self._close_scraper()

    def _close_scraper(self) -> None:
        if "_scraper" in self.__dict__:
            self._scraper.close()


def _says_something(option: object) -> bool:
    return bool(option) if isinstance(option, str) else option is not None
