"""Processes and threads that count and create the same series all at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from shm_metrics import MetricsBackend
from tests.support.processes import Child, Link

PROCESSES = 8
THREADS = 4
INCREMENTS = 25_000
SERIES = 50


def work(link: Link, backend: MetricsBackend) -> None:
    sys.setswitchinterval(2e-5)  # thousands of switches in the middle of updates, where the default gives none
    start = Barrier(THREADS)

    def count() -> None:
        start.wait()
        counter = backend.counter("increments_total")
        every = INCREMENTS // SERIES
        for n in range(SERIES):
            backend.counter("same_total", n=str(n)).inc()
            for _ in range(every):
                counter.inc()

    link.say("ready")
    link.hear()
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(count) for _ in range(THREADS)]:
            done.result()


@pytest.mark.slow
@pytest.mark.both_builds
def test_eight_processes_of_four_threads_lose_no_increment_and_make_no_series_twice(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    children = [fork(work, backend) for _ in range(PROCESSES)]
    for child in children:
        assert child.hear() == "ready"
    for child in children:
        child.say("go")
    for child in children:
        child.result()
    snapshot = backend.snapshot()
    assert snapshot.value("increments_total") == PROCESSES * THREADS * INCREMENTS
    assert snapshot.series == 1 + SERIES
    assert [snapshot.value("same_total", n=str(n)) for n in range(SERIES)] == [PROCESSES * THREADS] * SERIES
    assert len(snapshot.used_rows) == PROCESSES + 1


def test_threads_that_declare_the_same_families_at_the_same_moment_get_the_same_ones(
    attach: Callable[..., MetricsBackend],
) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for turn in range(30):
            backend = attach()
            start = Barrier(THREADS)

            def declare(backend: MetricsBackend = backend, start: Barrier = start) -> None:
                start.wait()
                for n in range(20):
                    backend.counter(f"family_{n}_total").inc()
                    backend.histogram(f"family_{n}_seconds").observe(n)

            with ThreadPoolExecutor(THREADS) as pool:
                for done in [pool.submit(declare) for _ in range(THREADS)]:
                    done.result()
            assert {found.values.sum() for found in backend.snapshot()} == {THREADS}, turn
            backend.unlink()
    finally:
        sys.setswitchinterval(before)
