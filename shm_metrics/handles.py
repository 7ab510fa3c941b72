"""One family in one backend of this process: its definition, its catalog place, the series this process has met.

Lives here: making and removing series by labels. May not: know the public classes (it is given the one to make).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from shm_metrics import records
from shm_metrics.families import COUNTER, HISTOGRAM, INFO, SUMMARY, Family, LabelPairs
from shm_metrics.writer import Writer

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

__all__ = ["FamilyHandle", "sample_names"]


def sample_names(family: Family) -> set[str]:
    """The names under which the family's samples appear, and its own."""
    endings = {
        COUNTER: ("", "_total", "_created"),
        HISTOGRAM: ("", "_bucket", "_sum", "_count", "_created"),
        SUMMARY: ("", "_sum", "_count", "_created"),
        INFO: ("", "_info"),
    }
    return {family.name + ending for ending in endings.get(family.type, ("",))}


class FamilyHandle:
    """labelnames: as declared, or None while only the get-or-create calls know the family."""

    def __init__(self, backend: MetricsBackend, family: Family, labelnames: tuple[str, ...] | None) -> None:
        self.backend = backend
        self.family = family
        self.labelnames = labelnames
        self.series: dict[LabelPairs, Any] = {}

    @property
    def writer(self) -> Writer:
        return self.backend._writer

    def child(self, pairs: LabelPairs, make: Callable[[FamilyHandle, LabelPairs], Any]) -> Any:
        """The series with these labels, the same object each time."""
        found = self.series.get(pairs)
        if found is None:
            made = make(self, pairs)
            # An overflowed one is not kept: its labels are what there are too many of.
            found = made if made.overflowed else self.series.setdefault(pairs, made)
        return found

    def release(self, gone: Iterable[LabelPairs]) -> None:
        """Forget these series: they count in another backend from now on."""
        for pairs in gone:
            self.series.pop(pairs, None)
        self.backend.forget_series()

    # -- removal --------------------------------------------------------------------------------------------------

    def remove(self, pairs: LabelPairs) -> None:
        """Hide one series, here and in every other process. Nothing happens when there is none."""
        self._remove([pairs])

    def remove_matching(self, wanted: Mapping[str, str]) -> None:
        """Hide every series that has all of these labels."""
        told = set(wanted.items())
        self._remove([pairs for pairs in self.labels() if told <= set(pairs)])

    def clear(self) -> None:
        """Hide all series."""
        self._remove(self.labels())

    def labels(self) -> list[LabelPairs]:
        """The label sets of all living series in the segment, whichever process made them."""
        return [entry.labels for entry in self._entries()]

    def _entries(self) -> list[Any]:
        from shm_metrics.mirror import Mirror

        mirror = Mirror(self.writer.segment)
        mirror.refresh()
        entry = mirror.families.get(self.family.name)
        if entry is None or entry.family.type != self.family.type:
            return []
        return [series for series in entry.series.values() if series.status == records.LIVE]

    def _remove(self, wanted: Iterable[LabelPairs]) -> None:
        gone, now, writer = set(wanted), time.monotonic(), self.writer
        payloads: dict[LabelPairs, list[LabelPairs]] = {}
        for entry in self._entries() if self.family.type == INFO else ():
            payloads.setdefault(entry.labels, []).append(entry.payload)
        for pairs in gone:
            for payload in payloads.get(pairs, [()]):
                place = writer.place_of(self.family, pairs, payload)
                if place is not None:
                    writer.allocator.remove(self.family, place, now)
            self.series.pop(pairs, None)
        self.backend.forget_series()
