"""The scraper: collects everything that a page shows, of a segment that this process writes or watches."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from shm_metrics.errors import SegmentError
from shm_metrics.model.families import AnyFamily, Family, FamilySnapshot, LabelPairs
from shm_metrics.model.snapshot import Snapshot
from shm_metrics.reader.catalog_view import SeriesEntry
from shm_metrics.reader.reader import Reader
from shm_metrics.runtime import forks
from shm_metrics.runtime.log_once import LogOnce
from shm_metrics.runtime.process_usage import ProcessUsage, WorkerUsage
from shm_metrics.runtime.procfs import read_worker
from shm_metrics.scrape.cpu_ledger import CpuLedger
from shm_metrics.scrape.process_families import process_families
from shm_metrics.scrape.self_metrics import EngineFigures, self_families
from shm_metrics.segment import catalog_records
from shm_metrics.segment import layout as L
from shm_metrics.segment.location import SegmentLocation
from shm_metrics.segment.presence import watch
from shm_metrics.segment.segment import Segment
from shm_metrics.segment.slot_table import FREE
from shm_metrics.writer.writer import Writer

__all__ = ["Scraper"]

log = logging.getLogger("shm_metrics")


class Scraper:
    """Collects one segment.

    writer: this process as a writer of the segment, or None to watch it read-only.
    present: keep the segment alive while watching it, also when no worker lives.
    """

    def __init__(
        self,
        place: SegmentLocation,
        writer: Writer | None,
        *,
        process_metrics: bool,
        per_worker: bool,
        detached: bool = False,
        present: bool = False,
    ) -> None:
        self.place = place
        self.process_metrics = process_metrics
        self.per_worker = per_worker
        self.detached = detached
        self.present = present
        self.last_seconds = 0.0
        self.errors = 0
        self._writer = writer
        self._watched: Reader | None = None
        self._collectors: list[Any] = []
        self._log_once = LogOnce(log)
        self._ledger: CpuLedger | None = None
        if writer is None:
            self._reader()

    # -- the segment ----------------------------------------------------------------------------------------------

    def segment(self) -> Segment:
        return self._reader().segment

    def _reader(self) -> Reader:
        forks.detect_unannounced_fork()
        if self._writer is not None:
            if self._writer.closed:
                raise SegmentError(f"{self.place.path}: closed by this process; make another MetricsBackend to read it")
            return self._writer.reader
        watched = self._watched
        if watched is not None:
            watched.segment.check_size()
        if watched is not None and not watched.segment.in_place:
            watched.segment.close()
            watched = self._watched = None
        if watched is None:
            watched = self._watched = Reader(watch(self.place, present=self.present))
        return watched

    def close(self) -> None:
        if self._watched is not None:
            self._watched.segment.close()
            self._watched = None

    def snapshot(self, stamps: bool = False) -> Snapshot:
        return self._reader().snapshot(time.time(), time.monotonic() if stamps else None)

    def families(self) -> dict[str, Family]:
        """name -> the newest definition, of all families in the segment."""
        return {name: entry.family for name, entry in self._reader().refreshed().families.items()}

    def entry(self, family: Family, pairs: LabelPairs) -> SeriesEntry | None:
        """Return the catalog entry of a series of this definition, or None; a removed one if it was used since."""
        catalog_view, key = self._reader().refreshed(), catalog_records.family_key(family)
        for found in (catalog_view.families.get(family.name), *catalog_view.older):
            if (
                found is not None
                and found.family.name == family.name
                and catalog_records.family_key(found.family) == key
            ):
                entry = found.series.get(catalog_records.series_key(found.id, pairs))
                if entry is not None and catalog_view.table.state(entry.slot, entry.hash) != FREE:
                    return entry
        return None

    # -- collecting -----------------------------------------------------------------------------------------------

    def collect(self) -> list[AnyFamily]:
        """Collect all families. Raise SegmentFormatError or FileNotFoundError rather than return a part."""
        began = time.perf_counter()
        snapshot = self.snapshot()
        families: list[Any] = list(snapshot.items)
        if self.process_metrics:
            families += self._processes(snapshot)
        families.append(self_families(self.figures(snapshot)))
        for collector in list(self._collectors):
            families += self.run(collector)
        self.last_seconds = time.perf_counter() - began
        return families

    def _processes(self, snapshot: Snapshot) -> list[AnyFamily]:
        segment, table = self.segment(), self._reader().workers
        workers: list[WorkerUsage] = []
        seen: dict[int, ProcessUsage] = {}
        for row in snapshot.live_rows:
            worker = table.read(row)
            usage = read_worker(row, worker.pid, worker.role, worker.start_ticks)
            workers.append(usage)
            if usage.usage is not None:
                seen[row] = usage.usage
        if self._ledger is None or self._ledger.segment is not segment:
            self._ledger = CpuLedger(segment)
        retired = self._ledger.retired_seconds(snapshot.used_rows, seen)
        self._ledger.note(seen)
        return list(process_families(workers, retired, self.per_worker))

    def figures(self, snapshot: Snapshot | None = None) -> EngineFigures:
        """Return the segment's own state."""
        snapshot = snapshot or self.snapshot()
        reader = self._reader()
        segment = reader.segment
        overflowed, dropped = reader.engine_totals(
            snapshot.used_rows, L.SLOT_OVERFLOWED_UPDATES, L.SLOT_DROPPED_EXEMPLARS
        )
        return EngineFigures(
            rows=segment.layout.rows,
            rows_used=len(snapshot.used_rows),
            reaped_rows=reader.workers.reaped(),
            workers_without_row=reader.workers.rowless() + self._rowless_ourselves(),
            slots=segment.layout.slots,
            slots_used=segment.slots_used,
            series=snapshot.series,
            shadowed_series=snapshot.shadowed_series,
            damaged_records=snapshot.damaged_records,
            counters_near_limit=snapshot.counters_near_limit,
            overflowed_updates=overflowed,
            dropped_exemplars=dropped,
            segment_bytes=segment.allocated_bytes(),
            detached=self.detached or self._removed(segment),
            collector_errors=self.errors,
            last_scrape_seconds=self.last_seconds,
        )

    def _rowless_ourselves(self) -> int:
        return int(self._writer is not None and not self._writer.closed and self._writer.lease is None)

    def _removed(self, segment: Segment) -> bool:
        """Return whether the file is gone while we count in it; new processes then count in another one, so log it."""
        if self._writer is None or segment.in_place:  # a process that only watches follows to the next segment
            return False
        self._log_once.error(
            "removed",
            "shm_metrics: %s was removed while it is in use: processes that start from now on count in another "
            "one; restart those that run",
            self.place.path,
        )
        return True

    # -- collectors of the application ----------------------------------------------------------------------------

    def register(self, collector: Any) -> None:
        if not callable(collector) and not callable(getattr(collector, "collect", None)):
            raise TypeError(
                f"collector {collector!r}: give a callable that returns families, or an object with collect()"
            )
        if collector not in self._collectors:
            self._collectors.append(collector)

    def unregister(self, collector: Any) -> None:
        self._collectors.remove(collector)

    def run(self, collector: Any) -> list[AnyFamily]:
        """Return a collector's families; none if it fails, which is counted and logged once."""
        try:
            collect: Callable[[], Iterable[AnyFamily]] = getattr(collector, "collect", collector)
            families = list(collect())
            for family in families:
                _check_family(family)
            return families
        except Exception as error:
            self._failed(f"collector {collector!r}", error)
            return []

    def run_functions(self, functions: Mapping[Any, Callable[[], float]]) -> None:
        for series, function in list(functions.items()):
            try:
                series.set(float(function()))
            except Exception as error:
                self._failed(f"function of gauge {series._handle.family.name}", error)

    def _failed(self, what: str, error: Exception) -> None:
        self.errors += 1
        self._log_once.warning(what, "shm_metrics: %s failed, the scrape goes on without it: %r", what, error)


def _check_family(family: Any) -> None:
    """Raise TypeError for what is no family: it would break the whole page."""
    if isinstance(family, FamilySnapshot):
        return
    texts = [getattr(family, field, None) for field in ("name", "documentation", "type", "unit")]
    if not all(isinstance(text, str) for text in texts) or not isinstance(getattr(family, "samples", None), Sequence):
        raise TypeError(f"it gave {family!r}; give SampleFamily or prometheus_client's Metric")
    for sample in family.samples:
        if not isinstance(sample.name, str):
            raise TypeError(f"{family.name}: sample {sample!r}: give its whole name")
        hash(tuple(sample.labels.items()))
