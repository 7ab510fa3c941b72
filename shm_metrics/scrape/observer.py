"""A source of scrapes for a process that does not count: the exporter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from shm_metrics.model.families import AnyFamily
from shm_metrics.runtime.call_lock import CallLock, NestedCallError
from shm_metrics.scrape.scraper import Scraper
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.location import SegmentLocation
from shm_metrics.segment.presence import Presence

__all__ = ["Exporter"]

T = TypeVar("T")


class Exporter:
    """Watches the segment at `place` and is present, so that its totals outlive all workers.

    create: make the segment if there is none, with these capacities; a job that begins and ends between two looks is
        then counted too. Left out: wait for it.
    """

    def __init__(
        self, place: SegmentLocation, *, create: Layout | None = None, process_metrics: bool = True, per_worker: bool = False
    ) -> None:
        self.place = place
        self._create = create
        self._options: dict[str, Any] = {"process_metrics": process_metrics, "per_worker": per_worker}
        self._presence: Presence | None = None
        self._scraper: Scraper | None = None
        # One scrape at a time: a look may close the segment that a scrape is about to read.
        self._lock = CallLock()

    def look(self) -> str:
        """Be present at the segment that is there now; its incarnation, in hex.

        To be called now and then: a segment that nobody is present at ends with its last worker.
        Raises FileNotFoundError while there is none, SegmentError when it cannot be made, joined or read.
        """
        try:
            return self._lock.run(self._look)
        except NestedCallError:
            return self._beside(Exporter.look)

    def _look(self) -> str:
        return self._attached().segment().header.incarnation.hex()

    def collect(self) -> list[AnyFamily]:
        """Everything a scrape shows. Raises what look() raises."""
        try:
            return self._lock.run(self._collect)
        except NestedCallError:
            return self._beside(Exporter.collect)

    def _collect(self) -> list[AnyFamily]:
        return self._attached().collect()

    def _beside(self, read: Callable[[Exporter], T]) -> T:
        """For a signal handler or __del__ on top of a call of this thread, whose segment must stay open."""
        another = Exporter(self.place, **self._options)
        try:
            return read(another)
        finally:
            another.close()

    def close(self) -> None:
        """Be absent again."""
        try:
            self._lock.run(self._close)
        except NestedCallError:
            self._close()  # the call that this one came in on top of fails

    def _close(self) -> None:
        for held in (self._scraper, self._presence):
            if held is not None:
                held.close()
        self._scraper = self._presence = None

    def _attached(self) -> Scraper:
        if self._create is not None:
            held = self._presence
            if held is None or not held.in_place:
                self._presence = Presence(self.place, self._create, keep=True)
                if held is not None:
                    held.close()
        if self._scraper is None:
            self._scraper = Scraper(self.place, None, present=True, **self._options)
        return self._scraper
