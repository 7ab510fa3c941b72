"""Updates that come in on top of others: from signal handlers, from __del__, in children forked in the middle.

Each runs in a forked child: a deadlock there is a child that does not answer in time.
"""

from __future__ import annotations

import gc
import itertools
import random
import signal
import sys
import threading
import time
from collections.abc import Callable

import pytest

from shm_metrics import MetricsBackend
from shm_metrics.native.implementation import COMPILED
from tests.support.processes import PATIENCE, Child, Link

LONGEST = 2e-4  # seconds from the end of one handler to the next signal
SIGNALS = 2_000 if COMPILED else 500
FORKS = 100 if COMPILED else 30


def totals(backend: MetricsBackend, *names: str) -> list[float]:
    """Sums over all series of each family."""
    snapshot = backend.snapshot()
    return [0.0 if (found := snapshot.family(name)) is None else float(found.values.sum()) for name in names]


def settled(backend: MetricsBackend, expected: list[float], *names: str) -> list[float]:
    """The totals once they are as expected: what was put aside is moved in by a thread, once a second."""
    deadline = time.monotonic() + PATIENCE / 3
    while (found := totals(backend, *names)) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


class Interruptions:
    """Calls `work(n)` from a signal handler, at random moments while the block runs."""

    def __init__(self, work: Callable[[int], None]) -> None:
        self.work = work
        self.done = 0
        self.rng = random.Random(11)

    def __enter__(self) -> Interruptions:
        signal.signal(signal.SIGALRM, self._handle)
        self._set()
        return self

    def _set(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self.rng.uniform(1e-6, LONGEST))

    def _handle(self, *_: object) -> None:
        self.work(self.done)
        self.done += 1
        self._set()

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)


def interrupt_updates(link: Link, backend: MetricsBackend) -> tuple[int, int]:
    counter = backend.counter("updates_total")
    histogram = backend.histogram("updates_seconds", buckets=(1.0, 2.0))
    gauge = backend.gauge("level")

    def update(_: int = 0) -> None:
        counter.inc()
        histogram.observe(1.0)
        gauge.inc(2.0)

    n = 0
    with Interruptions(update) as interruptions:
        while interruptions.done < SIGNALS:
            update()
            n += 1
    return n, interruptions.done


@pytest.mark.slow
@pytest.mark.both_builds
def test_updates_from_a_signal_handler_on_top_of_updates_of_the_same_series_are_exact(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    n, interrupted = fork(interrupt_updates, backend).result()
    assert interrupted >= SIGNALS
    total = float(n + interrupted)
    assert totals(backend, "updates_total", "updates_seconds", "level") == [total, total, 2 * total]
    histogram = backend.snapshot().family("updates_seconds")
    assert histogram is not None
    assert histogram.sums is not None
    assert histogram.sums.tolist() == [total]


def interrupt_creation(link: Link, backend: MetricsBackend) -> tuple[int, int]:
    """Series made by a handler, while series are made by what it interrupts: the same ones, and others."""

    def create(n: int, who: str) -> None:
        backend.counter("made_total", who=who, n=str(n)).inc()
        backend.counter("same_total", n=str(n)).inc()
        backend.histogram("made_seconds", who=who, n=str(n % 50)).observe(1.0)
        backend.counter(f"family_{n % 100}_total").inc()

    n = 0
    with Interruptions(lambda k: create(k, "handler")) as interruptions:
        while interruptions.done < SIGNALS:
            create(n, "main")
            n += 1
    total = float(n + interruptions.done)
    names = ["made_total", "same_total", "made_seconds", *(f"family_{k}_total" for k in range(100))]
    wanted = [total] * 3 + [float(len(range(k, n, 100)) + len(range(k, interruptions.done, 100))) for k in range(100)]
    assert settled(backend, wanted, *names) == wanted
    return n, interruptions.done


@pytest.mark.slow
@pytest.mark.both_builds
def test_series_made_in_a_signal_handler_on_top_of_the_making_of_series_lose_nothing(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach(slots=262_144)
    n, interrupted = fork(interrupt_creation, backend).result()
    found = backend.snapshot().family("made_total")
    assert found is not None
    assert len(found.labels) == n + interrupted  # none of them twice, and none in an overflow
    assert backend.stats()["overflowed_updates"] == 0.0


class Cycle:
    """Garbage that only the collector finds, and that counts when it does."""

    def __init__(self, count: Callable[[], None]) -> None:
        self.me = self
        self.count = count

    def __del__(self) -> None:
        self.count()


def collect_garbage(link: Link, backend: MetricsBackend) -> None:
    counter = backend.counter("alive_total")
    numbers = itertools.count()

    def when_found() -> None:
        n = next(numbers)
        counter.inc()
        backend.counter("found_total", n=str(n % 500)).inc()

    gc.set_threshold(50, 2, 2)  # the collector runs inside nearly everything
    made = 5_000
    for n in range(made):
        Cycle(when_found)
        counter.inc()
        backend.counter("making_total", n=str(n)).inc()
    gc.set_threshold(700, 10, 10)
    gc.collect()
    wanted = [2.0 * made, float(made), float(made)]
    assert settled(backend, wanted, "alive_total", "found_total", "making_total") == wanted


@pytest.mark.slow
@pytest.mark.both_builds
def test_updates_and_new_series_from_del_during_garbage_collection_are_exact(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    fork(collect_garbage, attach(slots=16_384)).result()


def fork_among_threads(link: Link, backend: MetricsBackend) -> None:
    """Children forked at any moment of what three threads do, each of which counts and makes series of its own."""
    sys.setswitchinterval(1e-5)
    stop = threading.Event()
    counted = [0, 0, 0]

    def count(which: int) -> None:
        counter, histogram = backend.counter("threads_total"), backend.histogram("threads_seconds")
        for n in itertools.count():
            counter.inc()
            histogram.observe(0.25)
            backend.counter("made_total", thread=str(which), n=str(n // 20)).inc()
            counted[which] += 1
            if stop.is_set():
                return

    threads = [threading.Thread(target=count, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()

    def child(link: Link, which: int) -> None:
        counter = backend.counter("threads_total")
        for n in range(10):
            counter.inc()
            backend.histogram("threads_seconds").observe(0.25)
            backend.counter("forked_total", child=str(which), n=str(n)).inc()

    for which in range(FORKS):
        Child(child, (which,)).result()
    stop.set()
    for thread in threads:
        thread.join()
    total = float(sum(counted) + 10 * FORKS)
    wanted = [total, total, 10.0 * FORKS, float(sum(counted))]
    assert settled(backend, wanted, "threads_total", "threads_seconds", "forked_total", "made_total") == wanted


@pytest.mark.slow
@pytest.mark.both_builds
def test_children_forked_while_other_threads_write_and_create_neither_hang_nor_lose_anything(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    fork(fork_among_threads, attach(slots=262_144)).result()
