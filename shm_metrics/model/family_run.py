"""A run: many families of one shape whose values lie in one array.

Ten thousand unlabelled counters are ten thousand families of one series. Handed over one by one, each costs an object
and a dictionary look-up; as one run they cost what one family of ten thousand series costs:

    families   (requests, [()])  (errors, [(path=/a), (path=/b)])  (bytes, [()])
    values     [  17.0,             2.0,      0.0,                   4096.0   ]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from shm_metrics.model.arrays import FloatArray
from shm_metrics.model.families import Exemplar, Exemplars, Family, FamilySnapshot, SeriesLabels
from shm_metrics.model.line_shape import line_shape

__all__ = ["FamilyRun", "RunFamilies"]


class RunFamilies(tuple[tuple[Family, SeriesLabels], ...]):
    """The families of a run with their series, in the order of its values.

    All have one `line_shape`: counters, gauges and infos may be mixed; histograms have equally many buckets.
    Like SeriesLabels, the reader keeps it while the shown series have not changed, and it carries a renderer's cache.
    """

    cache: dict[Any, Any]

    def __new__(cls, families: Iterable[tuple[Family, SeriesLabels]] = ()) -> RunFamilies:
        self = super().__new__(cls, families)
        if len(shapes := {line_shape(family) for family, _ in self}) > 1:
            raise ValueError(f"the families of a run must have one shape, not {shapes}: make a run of each")
        self.cache = {}
        return self


@dataclass(frozen=True, slots=True)
class FamilyRun:
    """The values of several families at one scan; all is as in FamilySnapshot, series counted through all families."""

    families: RunFamilies
    values: FloatArray
    sums: FloatArray | None = None
    created: FloatArray | None = None
    exemplars: Exemplars | None = None

    def split(self) -> Iterator[FamilySnapshot]:
        """Return one snapshot a family; their arrays are views of this run's."""
        start = 0
        kept = deque(sorted((self.exemplars or {}).items(), key=itemgetter(0)))
        for family, labels in self.families:
            stop = start + len(labels)
            cut = slice(start, stop)
            sums = None if self.sums is None else self.sums[cut]
            created = None if self.created is None else self.created[cut]
            exemplars: dict[tuple[int, int], Exemplar] = {}
            while kept and kept[0][0][0] < stop:
                (index, bucket), exemplar = kept.popleft()
                exemplars[index - start, bucket] = exemplar
            yield FamilySnapshot(family, labels, self.values[cut], sums, created, exemplars or None)
            start = stop
