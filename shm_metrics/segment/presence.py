"""Presence: keep a segment alive without counting in it.

A segment lives while any process is present. All its workers may die at once; the next ones continue its totals.
"""

from __future__ import annotations

import weakref

from shm_metrics.runtime import forks
from shm_metrics.segment import layout as L
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.location import SegmentLocation
from shm_metrics.segment.segment import Segment

__all__ = ["Presence", "watch"]


class Presence:
    """Joins or makes the segment at `place` and keeps it alive, in this process only, until close().

    layout, keep: as for Segment.attach(). Raises what it raises.
    """

    def __init__(self, place: SegmentLocation, layout: Layout, *, keep: bool = False) -> None:
        self.place = place
        self._segment: Segment | None = Segment.attach(place, layout, keep=keep)
        _present.add(self)

    @property
    def segment(self) -> Segment | None:
        """None once it is closed, as it is in a forked child."""
        return self._segment

    @property
    def in_place(self) -> bool:
        """Whether a process that attaches at this location joins the segment that this keeps alive."""
        return self._segment is not None and self._segment.in_place

    def close(self) -> None:
        """Leave the segment. A second call does nothing."""
        segment, self._segment = self._segment, None
        _present.discard(self)
        if segment is not None:
            segment.close()


_present: weakref.WeakSet[Presence] = weakref.WeakSet()


@forks.in_child(forks.ROWS)
def _after_fork_in_child() -> None:
    # An inherited descriptor would keep the parent present for as long as the child lives.
    for presence in list(_present):
        presence.close()


def watch(place: SegmentLocation, *, present: bool = False) -> Segment:
    """Map the segment for reading only. present: also keep it alive until it is closed.

    Raise FileNotFoundError when there is none (yet), SegmentFormatError, or SegmentError without permission.
    """
    segment = Segment.open_read_only(place)
    if present and not _stay(segment):
        segment.close()
        raise FileNotFoundError(f"the metrics segment at {place.path} is just being replaced; try again")
    return segment


def _stay(segment: Segment) -> bool:
    """Be present, unless the segment was abandoned first: the process that abandons it holds presence exclusively."""
    if not segment.locks.try_shared(L.LOCK_PRESENCE):
        return False
    return segment.in_place
