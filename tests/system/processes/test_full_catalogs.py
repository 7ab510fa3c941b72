"""remove(), clear() and reset() need no room in the catalog: they work when it is full."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shm_metrics import Counter, Gauge, Histogram, MetricsBackend
from tests.support.processes import Child, Link

LONG = "x" * 8_000


@pytest.fixture
def full(attach: Callable[..., MetricsBackend]) -> MetricsBackend:
    """A segment whose catalog is full of living series; slots are left."""
    backend = attach(slots=1024)
    jobs = Counter("jobs", "", ["of"], registry=backend)
    seconds = Histogram("seconds", "", ["of"], registry=backend)
    level = Gauge("level", "", ["of"], registry=backend)
    for of in ("a", "b"):
        jobs.labels(of).inc(5)
        seconds.labels(of).observe(1.0)
        level.labels(of).set(7)
    size = 16_000
    while size >= 1:
        number = 0
        while not backend.counter("long_total", n=f"{number}{'x' * size}").overflowed:
            number += 1
        size //= 4
    assert backend.stats()["slots_used"] < 1000
    return backend


def value(backend: MetricsBackend, name: str, of: str) -> float | None:
    found = backend.snapshot().value(name, of=of)
    return None if found is None else float(found)


def test_what_is_removed_from_a_full_catalog_is_gone_and_counts_from_0(full: MetricsBackend) -> None:
    jobs = Counter("jobs", "", ["of"], registry=full)
    seconds = Histogram("seconds", "", ["of"], registry=full)
    level = Gauge("level", "", ["of"], registry=full)
    held = jobs.labels("a")
    jobs.remove("a")
    seconds.remove("a")
    level.remove("a")
    assert [value(full, name, "a") for name in ("jobs_total", "level")] == [None, None]
    held.inc()
    level.labels("a").inc()
    seconds.labels("a").observe(1.0)
    assert value(full, "jobs_total", "a") == value(full, "level", "a") == 1.0
    assert seconds.labels("a").count == 1.0
    assert value(full, "jobs_total", "b") == 5.0


def test_all_can_be_cleared_and_used_again(full: MetricsBackend) -> None:
    jobs = Counter("jobs", "", ["of"], registry=full)
    for _ in range(3):
        jobs.clear()
        assert value(full, "jobs_total", "a") is value(full, "jobs_total", "b") is None
        jobs.labels("a").inc(2)
        assert value(full, "jobs_total", "a") == 2.0
    full.clear()
    assert not any(
        family.values.any() for family in full.snapshot().families if not family.family.name.startswith("shm")
    )
    jobs.labels("new").inc()
    assert value(full, "jobs_total", "new") == 1.0, "what was cleared made room"


def test_a_counter_can_be_reset_again_and_again(full: MetricsBackend) -> None:
    series = Counter("jobs", "", ["of"], registry=full).labels("a")
    for n in range(1000):
        series.reset()
        series.inc(n)
        assert series.value == n
    assert value(full, "jobs_total", "b") == 5.0


def test_another_process_removes_and_resets_there(full: MetricsBackend, fork: Callable[..., Child]) -> None:
    def remove(link: Link) -> None:
        backend = MetricsBackend(path=full.place.path, process_metrics=False)
        jobs = Counter("jobs", "", ["of"], registry=backend)
        jobs.labels("a").inc()
        jobs.labels("a").reset()
        jobs.remove("b")
        backend.close()

    held = full.counter("jobs_total", of="a")
    assert fork(remove).result() is None
    assert value(full, "jobs_total", "a") == 0.0
    assert value(full, "jobs_total", "b") is None
    held.inc()
    assert value(full, "jobs_total", "a") == 1.0
