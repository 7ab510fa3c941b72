"""Families and workers for the tests of the engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from unittest import mock

from shm_metrics.model.families import COUNTER, GAUGE, HISTOGRAM, Family
from shm_metrics.segment import layout as L
from shm_metrics.segment.file_locks import FileLocks
from shm_metrics.segment.segment import Segment

JOBS = Family("jobs", COUNTER, "Jobs done.")
DEPTH = Family("depth", GAUGE, "Jobs waiting.", mode="shared")
SECONDS = Family("seconds", HISTOGRAM, "Seconds a job takes.", bounds=(1.0, 2.0, inf))


@contextmanager
def process_id(pid: int) -> Iterator[None]:
    """What is made inside takes `pid` for that of its process."""
    with mock.patch.object(os, "getpid", return_value=pid):
        yield


@contextmanager
def catalog_held(segment: Segment) -> Iterator[None]:
    """Another process has the catalog lock: another description of the same file holds its byte."""
    locks = FileLocks(os.open(segment.place.path, os.O_RDWR))
    try:
        assert locks.wait_exclusive(L.LOCK_CATALOG, 30.0)
        yield
    finally:
        locks.close()


def shown(backend, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """labels -> value of one family's series, as a scrape finds them; the count of histograms."""
    family = backend.snapshot().family(name)
    if family is None:
        return {}
    return {labels: float(value.sum()) for labels, value in zip(family.labels, family.values, strict=True)}
