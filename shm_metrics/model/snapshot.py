"""The result of one scan of a segment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shm_metrics.model.families import FamilySnapshot, LabelPairs
from shm_metrics.model.family_run import FamilyRun
from shm_metrics.runtime.cached_property import cached_property

__all__ = ["Snapshot"]


@dataclass(frozen=True)
class Snapshot:
    """All families of a segment at one moment.

    items: the families, those of one shape together in a run. taken_at: Unix seconds.

    incarnation: 32 hex digits that no other life of the segment has.
    live_rows, used_rows: rows of living workers, and of all there ever were.
    counters_near_limit: how many counters have a row with 2^52 or more; from 2^53 on a float64 does not see a 1.
    """

    items: tuple[FamilyRun | FamilySnapshot, ...]
    taken_at: float
    incarnation: str
    live_rows: tuple[int, ...]
    used_rows: tuple[int, ...]
    shadowed_series: int = 0
    damaged_records: int = 0
    counters_near_limit: int = 0

    def __repr__(self) -> str:
        families = sum(len(item.families) if isinstance(item, FamilyRun) else 1 for item in self.items)
        return (
            f"<Snapshot of {self.incarnation}: {families} families, {self.series} series, "
            f"{len(self.live_rows)} of {len(self.used_rows)} workers live>"
        )

    @cached_property
    def families(self) -> tuple[FamilySnapshot, ...]:
        """One snapshot a family."""
        found: list[FamilySnapshot] = []
        for item in self.items:
            if isinstance(item, FamilyRun):
                found += item.split()
            else:
                found.append(item)
        return tuple(found)

    def __iter__(self) -> Iterator[FamilySnapshot]:
        return iter(self.families)

    def family(self, name: str) -> FamilySnapshot | None:
        """Return the family of this name (a counter's with or without `_total`), or None."""
        for found in self.families:
            if name in (found.family.name, found.family.name + "_total"):
                return found
        return None

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of a counter, gauge or state index, or the count of a histogram or summary.

        Return None if there is no such series.
        """
        found = self.family(name)
        if found is None:
            return None
        wanted: LabelPairs = tuple(sorted(labels.items()))
        for position, pairs in enumerate(found.labels):
            if pairs == wanted:
                value = found.values[position]
                return float(value.sum())
        return None

    @property
    def series(self) -> int:
        """How many series are shown."""
        return sum(len(item.values) for item in self.items)
