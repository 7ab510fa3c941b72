"""Families and workers for the tests of the engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from unittest import mock

from shm_metrics.families import COUNTER, GAUGE, HISTOGRAM, Family

JOBS = Family("jobs", COUNTER, "Jobs done.")
DEPTH = Family("depth", GAUGE, "Jobs waiting.", mode="shared")
SECONDS = Family("seconds", HISTOGRAM, "Seconds a job takes.", bounds=(1.0, 2.0, inf))


@contextmanager
def process_id(pid: int) -> Iterator[None]:
    """What is made inside takes `pid` for that of its process."""
    with mock.patch.object(os, "getpid", return_value=pid):
        yield


def shown(backend, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """labels -> value of one family's series, as a scrape finds them; the count of histograms."""
    family = backend.snapshot().family(name)
    if family is None:
        return {}
    return {labels: float(value.sum()) for labels, value in zip(family.labels, family.values, strict=True)}
