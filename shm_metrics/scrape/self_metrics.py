"""Self-metrics of the engine: the `shm_metrics_*` families."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shm_metrics.model.families import COUNTER, GAUGE, Family, SeriesLabels
from shm_metrics.model.family_run import FamilyRun, RunFamilies

__all__ = ["EngineFigures", "self_families"]


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """A segment's own state at one moment."""

    rows: int
    rows_used: int
    reaped_rows: int
    workers_without_row: int
    slots: int
    slots_used: int
    series: int
    shadowed_series: int
    damaged_records: int
    counters_near_limit: int
    overflowed_updates: float
    dropped_exemplars: float
    segment_bytes: int
    detached: bool
    collector_errors: int
    last_scrape_seconds: float


_FAMILIES = (
    ("rows", GAUGE, "Worker rows of the segment"),
    ("rows_used", GAUGE, "Rows that ever had a worker: the greatest number of workers alive at once"),
    ("reaped_rows", COUNTER, "Rows taken over from a worker that was gone"),
    ("workers_without_row", GAUGE, "Workers that count in private memory because no row is free"),
    ("slots", GAUGE, "Slots of the segment"),
    ("slots_used", GAUGE, "Slots given to series so far"),
    ("series", GAUGE, "Series shown"),
    ("shadowed_series", GAUGE, "Series hidden because their name was declared again with another definition"),
    ("damaged_records", GAUGE, "Catalog records and exemplars that could not be read"),
    (
        "counters_near_limit",
        GAUGE,
        "Counters of which a worker's part is 2^52 or more; from 2^53 on an amount of 1 is lost",
    ),
    ("overflowed_updates", COUNTER, "Updates that went to an overflow series, or nowhere, for want of slots or memory"),
    ("dropped_exemplars", COUNTER, "Exemplars left out for want of memory"),
    ("segment_bytes", GAUGE, "Memory that the segment takes"),
    ("detached", GAUGE, "1 if this process found no segment to share, or the one that it counts in was removed"),
    ("collector_errors", COUNTER, "Failures of custom collectors and gauge functions in the scraped process"),
    ("last_scrape_seconds", GAUGE, "Seconds that the scrape before this one took in the scraped process"),
)


_RUN = RunFamilies(
    (Family(f"shm_metrics_{name}", type_, documentation), SeriesLabels([()]))
    for name, type_, documentation in _FAMILIES
)


def self_families(figures: EngineFigures) -> FamilyRun:
    """Return one family a figure, without labels."""
    return FamilyRun(_RUN, np.array([float(getattr(figures, name)) for name, _, _ in _FAMILIES]))
