"""SegmentObserver: a source of scrapes for a process that does not count, such as `shm-metrics serve`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from shm_metrics.model.families import AnyFamily
from shm_metrics.runtime.call_lock import CallLock, NestedCallError
from shm_metrics.scrape.scraper import Scraper
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.location import SegmentLocation
from shm_metrics.segment.presence import Presence

__all__ = ["SegmentObserver"]

T = TypeVar("T")


class SegmentObserver:
    """Scrapes the segment at `place` and stays attached to it, so that its totals outlive all workers.

    create: the capacities of the segment to make if there is none; then a job that starts and ends between two
        scrapes is counted too. Left out: wait until an application makes the segment.
    """

    def __init__(
        self,
        place: SegmentLocation,
        *,
        create: Layout | None = None,
        process_metrics: bool = True,
        per_worker: bool = False,
    ) -> None:
        self.place = place
        self._create = create
        self._options: dict[str, Any] = {"process_metrics": process_metrics, "per_worker": per_worker}
        self._presence: Presence | None = None
        self._scraper: Scraper | None = None
        # One call at a time: attach() may close the segment that a scrape is about to read.
        self._lock = CallLock()

    def attach(self) -> str:
        """Attach to the segment that exists now. Return its incarnation, in hex.

        Call it every few seconds: a segment that no process is attached to ends with its last worker.
        Raise FileNotFoundError while there is no segment, SegmentError if it cannot be made, joined or read.
        """
        try:
            return self._lock.run(self._attach)
        except NestedCallError:
            return self._on_a_copy(SegmentObserver.attach)

    def _attach(self) -> str:
        return self._attached().segment().header.incarnation.hex()

    def collect(self) -> list[AnyFamily]:
        """Return everything that a scrape shows. Raise what attach() raises."""
        try:
            return self._lock.run(self._collect)
        except NestedCallError:
            return self._on_a_copy(SegmentObserver.collect)

    def _collect(self) -> list[AnyFamily]:
        return self._attached().collect()

    def _on_a_copy(self, read: Callable[[SegmentObserver], T]) -> T:
        """Run `read` for a signal handler or __del__ that interrupts a call, whose segment must stay open."""
        copy = SegmentObserver(self.place, **self._options)
        try:
            return read(copy)
        finally:
            copy.close()

    def close(self) -> None:
        """Detach from the segment."""
        try:
            self._lock.run(self._close)
        except NestedCallError:
            self._close()  # the interrupted call fails

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
