"""Gauges that several processes move, and what they are once their workers are dead."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from shm_metrics import MetricsBackend
from tests.support.processes import Child, Link, die


def obey(link: Link, backend: MetricsBackend) -> None:
    """Do what the parent says, (mode, method, value), until it says None."""
    link.say(backend.row)
    while (told := link.hear()) is not None:
        mode, method, value = told
        getattr(backend.gauge(f"g_{mode}", multiprocess_mode=mode), method)(value)
        link.say("done")
    die()


def tell(child: Child, mode: str, method: str, value: float) -> None:
    child.say((mode, method, value))
    assert child.hear() == "done"


def start(fork: Callable[..., Child], backend: MetricsBackend) -> tuple[Child, int]:
    child = fork(obey, backend)
    return child, child.hear()


def value(backend: MetricsBackend, mode: str) -> float | None:
    return backend.snapshot().value(f"g_{mode}")


def test_a_shared_gauge_is_one_value_that_any_process_sets_and_moves(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    (a, _), (b, _), (c, _) = (start(fork, backend) for _ in range(3))
    steps = [
        (a, "set", 5.0, 5.0),
        (b, "inc", 2.0, 7.0),
        (c, "dec", 4.0, 3.0),
        (b, "set", 10.0, 10.0),  # a set forgets all that was before, whoever did it
        (a, "inc", 1.0, 11.0),
        (c, "set", -1.0, -1.0),
        (c, "inc", 0.5, -0.5),
        (a, "set", 0.0, 0.0),
    ]
    for child, method, amount, then in steps:
        tell(child, "shared", method, amount)
        assert value(backend, "shared") == then
        assert backend.gauge("g_shared").value == then


def test_a_shared_gauge_outlives_its_workers_and_goes_on_under_the_next(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    (a, first), (b, _) = (start(fork, backend) for _ in range(2))
    tell(a, "shared", "set", 5.0)
    tell(b, "shared", "inc", 2.0)
    a.kill()
    b.kill()
    assert value(backend, "shared") == 7.0
    c, row = start(fork, backend)
    assert row == first
    assert value(backend, "shared") == 7.0
    tell(c, "shared", "inc", 1.0)
    assert value(backend, "shared") == 8.0
    tell(c, "shared", "set", 3.0)
    assert value(backend, "shared") == 3.0


def step(link: Link, backend: MetricsBackend, n: int) -> None:
    gauge = backend.gauge("in_flight")
    link.say("ready")
    link.hear()
    for _ in range(n):
        gauge.inc()
        gauge.inc(2)
        gauge.dec()


@pytest.mark.parametrize("before", [0.0, 100.0])
def test_increments_of_a_shared_gauge_from_several_processes_add_up(
    before: float, attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    if before:
        backend.gauge("in_flight").set(before)
    children = [fork(step, backend, 10_000) for _ in range(4)]
    for child in children:
        child.hear()
    for child in children:
        child.say("go")
    for child in children:
        child.result()
    assert backend.gauge("in_flight").value == before + 4 * 2 * 10_000
    backend.gauge("in_flight").set(1.0)
    assert backend.snapshot().value("in_flight") == 1.0


# mode -> (what the dead worker set, what a worker set after it took the row, what is shown in the end)
FOLDED = {"min": (3.0, 5.0, 3.0), "max": (5.0, 3.0, 5.0), "mostrecent": (5.0, 3.0, 3.0), "sum": (5.0, 3.0, 3.0)}


@pytest.mark.parametrize("mode", ["min", "max", "mostrecent", "sum", "all"])
def test_what_a_dead_workers_gauge_was_stays_until_its_row_has_a_new_owner(
    mode: str, attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    dead, row = start(fork, backend)
    tell(dead, mode, "set", 5.0)
    dead.kill()
    found = backend.snapshot().family(f"g_{mode}")
    assert found is not None
    assert found.values.tolist() == [5.0]
    if mode == "all":
        assert found.labels[0] == (("pid", str(dead.pid)),)
    _, heir = start(fork, backend)
    assert heir == row
    found = backend.snapshot().family(f"g_{mode}")
    assert (found.values.tolist() if found else []) == ([] if mode == "all" else [5.0])


@pytest.mark.parametrize("mode", list(FOLDED))
def test_dead_and_living_workers_values_are_combined_by_the_mode(
    mode: str, attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    first, second, then = FOLDED[mode]
    backend = attach()
    dead, row = start(fork, backend)
    tell(dead, mode, "set", first)
    dead.kill()
    heir, same = start(fork, backend)
    assert same == row
    tell(heir, mode, "set", second)
    assert value(backend, mode) == then
    heir.kill()
    assert value(backend, mode) == then
    start(fork, backend)
    assert value(backend, mode) == then


def test_a_value_set_later_by_another_worker_wins_over_one_that_was_folded(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    (dead, row), (other, _) = (start(fork, backend) for _ in range(2))
    tell(dead, "mostrecent", "set", 1.0)
    tell(other, "mostrecent", "set", 2.0)
    tell(dead, "mostrecent", "set", 3.0)
    dead.kill()
    _, heir = start(fork, backend)
    assert heir == row
    assert value(backend, "mostrecent") == 3.0
    tell(other, "mostrecent", "set", 4.0)
    assert value(backend, "mostrecent") == 4.0


MANY = 4_000  # series, so that a scrape takes long; only the last one has a value, so that moving it takes no time


def set_one(link: Link, backend: MetricsBackend, level: float) -> None:
    backend.gauge("high", multiprocess_mode="max", n=str(MANY - 1)).set(level)
    die()


def employ(link: Link, backend: MetricsBackend) -> None:
    """Let one worker after another have the same row, and each set more than the one before."""
    link.say("ready")
    for n in range(150):
        Child(set_one, (backend, float(n))).wait()


@pytest.mark.slow
def test_no_scrape_misses_a_maximum_while_rows_change_hands(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    """A new owner moves what it finds to the ledger row: a scrape meanwhile must find it here or there."""
    backend = attach(slots=16_384)
    for n in range(MANY):
        backend.gauge("high", multiprocess_mode="max", n=str(n))
    employer = fork(employ, backend)
    employer.hear()
    seen = [0.0]
    while not employer.link.poll():
        family = backend.snapshot().family("high")
        assert family is not None
        seen.append(float(family.values[-1]))
    employer.result()
    assert seen == sorted(seen)
    assert len(set(seen)) > 50


def test_gauges_of_opposite_infinities_are_scraped_without_a_warning(attach: Callable[..., MetricsBackend]) -> None:
    first, second = attach(), attach()
    for worker, level in ((first, math.inf), (second, -math.inf)):
        worker.counter("steps_total").inc()
        worker.gauge("level", multiprocess_mode="sum").set(level)
        worker.gauge("shared_level").inc(level)
        worker.histogram("level_seconds").observe(level)
    snapshot = first.snapshot()
    assert snapshot.value("steps_total") == 2.0
    assert snapshot.value("level_seconds") == 2.0
    for value in (snapshot.value("level"), first.gauge("shared_level").value, first.histogram("level_seconds").sum):
        assert value is not None
        assert math.isnan(value)
