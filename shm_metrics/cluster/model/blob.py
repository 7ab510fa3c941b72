"""What is published: an instance's absolute aggregate, and the totals of the instances that are gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from shm_metrics.cluster.model.tables import Table
from shm_metrics.model.arrays import FloatArray
from shm_metrics.model.families import FamilySnapshot

__all__ = ["Blob", "Folded", "Part", "Retired"]


@dataclass(frozen=True, eq=False)
class Part:
    """Some families with their values.

    low: what the cells lack of the exact sums, in the retired totals (see compensated_sum.py); None: nothing.
    """

    table: Table
    cells: FloatArray
    stamps: FloatArray
    low: FloatArray | None = None

    def families(self) -> Iterator[FamilySnapshot]:
        yield from self.table.snapshots(self.cells, self.stamps)


@dataclass(frozen=True, eq=False)
class Blob:
    """The absolute aggregate of one instance. Publishing is idempotent.

    instance: 32 hex digits, one incarnation of one segment. host, pid: for people.
    sequence: grows with each publish of the instance. token: the fencing token it was published under.
    created_at, published_at: Unix seconds. interval: seconds until the next one is due.
    parts: the series that instances of one application have in common, and those that are an instance's own (gauges
        with a pid, infos). Apart, because the table of the first then has the same bytes for all instances.
    """

    instance: str
    host: str
    pid: int
    created_at: float
    published_at: float
    sequence: int
    token: int
    interval: float
    parts: tuple[Part, ...]

    @property
    def series(self) -> int:
        return sum(part.table.series for part in self.parts)

    def families(self) -> list[FamilySnapshot]:
        """Return the families of this instance alone."""
        return [found for part in self.parts for found in part.families()]


class Folded(NamedTuple):
    """How much of an instance is in the retired totals: its blobs up to `sequence`. at: Unix seconds of the fold."""

    sequence: int
    at: float


@dataclass(frozen=True, eq=False)
class Retired:
    """The totals of the instances that are gone.

    version: grows with each fold. token: the fencing token of the leader that wrote it.
    folded: instance -> which of its blobs are in `part`, so that one write of the record is the whole fold.
    forgotten: the greatest sequence of instances in `part` that `folded` no longer lists; 0: none.
    """

    version: int = 0
    token: int = 0
    folded: Mapping[str, Folded] = field(default_factory=dict)
    part: Part = Part(Table(()), np.empty(0), np.empty(0))
    forgotten: int = 0
