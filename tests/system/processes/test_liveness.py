"""Who is alive is what the kernel says: no hook takes part in it, and no pid."""

from __future__ import annotations

import os
import random
import select
import struct
from collections.abc import Callable

import pytest

from shm_metrics import MetricsBackend
from shm_metrics.exposition import render_text
from shm_metrics.native.implementation import COMPILED
from shm_metrics.runtime.procfs import own_start_ticks
from shm_metrics.segment import layout as L
from tests.support.processes import PATIENCE, Child, Link, die

KILLS = 40 if COMPILED else 20
LIVE_MODES = ("livesum", "liveall", "livemin", "livemax", "livemostrecent")


def set_gauges(link: Link, backend: MetricsBackend, value: float) -> None:
    for mode in LIVE_MODES:
        backend.gauge(mode, multiprocess_mode=mode).set(value)
    backend.counter("set_total").inc()
    link.say(backend.row)
    link.hear()
    die()


def only_count(link: Link, backend: MetricsBackend) -> None:
    backend.counter("set_total").inc()
    link.say(backend.row)
    link.hear()


def shown(backend: MetricsBackend) -> dict[str, list[float]]:
    snapshot = backend.snapshot()
    return {
        mode: [] if (found := snapshot.family(mode)) is None else sorted(found.values.tolist()) for mode in LIVE_MODES
    }


NOBODY = {"livesum": [0.0], "liveall": [], "livemin": [], "livemax": [], "livemostrecent": []}


def test_a_killed_workers_live_gauges_vanish_with_it(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    first, second = fork(set_gauges, backend, 3.0), None
    first.hear()
    second = fork(set_gauges, backend, 5.0)
    second.hear()
    assert shown(backend) == {
        "livesum": [8.0],
        "liveall": [3.0, 5.0],
        "livemin": [3.0],
        "livemax": [5.0],
        "livemostrecent": [5.0],
    }
    second.kill()
    assert shown(backend) == {mode: [3.0] for mode in LIVE_MODES}
    first.kill()
    assert shown(backend) == NOBODY
    assert backend.snapshot().value("set_total") == 2.0


def test_the_next_owner_of_a_row_inherits_its_counters_and_none_of_its_live_gauges(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    dead = fork(set_gauges, backend, 3.0)
    row = dead.hear()
    dead.kill()
    heir = fork(only_count, backend)
    assert heir.hear() == row
    assert shown(backend) == NOBODY
    assert backend.snapshot().value("set_total") == 2.0
    heir.say("end")
    heir.result()


def test_a_reused_pid_revives_nothing(attach: Callable[..., MetricsBackend], fork: Callable[..., Child]) -> None:
    backend = attach()
    dead = fork(set_gauges, backend, 3.0)
    row = dead.hear()
    dead.kill()
    # The worst that reuse could bring: pid and start time of a process that is alive and well.
    segment = backend._writer.segment
    at = segment.layout.worker(row) + L.WORKER_PID_OFFSET
    segment.bytes[at : at + 16] = struct.pack("<QQ", os.getpid(), own_start_ticks())
    assert shown(backend) == NOBODY
    assert row not in backend.snapshot().live_rows


def test_a_worker_is_alive_whatever_the_worker_table_says(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    dead = fork(only_count, backend)
    dead.hear()
    gone = dead.pid
    dead.say("end")
    dead.result()
    alive = fork(set_gauges, backend, 3.0)
    row = alive.hear()
    segment = backend._writer.segment
    at = segment.layout.worker(row) + L.WORKER_PID_OFFSET
    segment.bytes[at : at + 16] = struct.pack("<QQ", gone, 1)
    assert shown(backend) == {mode: [3.0] for mode in LIVE_MODES}
    assert row in backend.snapshot().live_rows


def test_a_worker_whose_parent_dies_stays_alive_and_the_parents_row_does_not(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()

    def parent(link: Link) -> None:
        backend.gauge("livesum", multiprocess_mode="livesum").set(10.0)
        ours, theirs = os.pipe()
        if os.fork() == 0:
            os.close(theirs)
            backend.gauge("livesum", multiprocess_mode="livesum").set(1.0)
            link.say((backend.row, os.getpid()))
            link.hear()
            die()
        os.close(ours)
        link.say(backend.row)
        os.read(os.open("/dev/zero", os.O_RDONLY), 0)
        while True:
            os.waitpid(-1, 0)

    family = fork(parent)
    said = [family.hear(), family.hear()]
    grandchild_row, grandchild = next(told for told in said if isinstance(told, tuple))
    parent_row = next(told for told in said if isinstance(told, int))
    assert backend.snapshot().value("livesum") == 11.0
    os.kill(family.pid, 9)
    os.waitpid(family.pid, 0)
    family.status = -9
    snapshot = backend.snapshot()
    assert snapshot.value("livesum") == 1.0
    assert grandchild_row in snapshot.live_rows
    assert parent_row not in snapshot.live_rows
    gone = os.pidfd_open(grandchild)
    os.kill(grandchild, 9)
    assert select.select([gone], [], [], PATIENCE)[0]
    os.close(gone)
    assert backend.snapshot().value("livesum") == 0.0


def count(link: Link, backend: MetricsBackend) -> None:
    link.say("ready")
    counter = backend.counter("steps_total", by="anybody")
    summary = backend.summary("strides")
    histogram = backend.histogram("strides_seconds")
    while True:
        counter.inc()
        summary.observe(2.0)
        histogram.observe(2.0)


def counters(backend: MetricsBackend) -> dict[str, float]:
    """Every sample of a counter, histogram or summary in one scrape, by the text before its value."""
    types: dict[str, str] = {}
    found = {}
    for line in render_text(backend.collect()).decode().splitlines():
        if line.startswith("# TYPE "):
            _, _, family, type_ = line.split(" ")
            types[family] = type_
        elif not line.startswith("#"):
            sample, value = line.rsplit(" ", 1)
            names = [sample.partition("{")[0].removesuffix(ending) for ending in ("", "_count", "_sum", "_bucket")]
            if {"counter", "summary", "histogram"} & {types.get(name) for name in names}:
                found[sample] = float(value)
    return found


@pytest.mark.slow
@pytest.mark.both_builds
@pytest.mark.parametrize("kills", [KILLS, pytest.param(50 * KILLS, marks=pytest.mark.torture)])
def test_no_counter_falls_in_any_scrape_while_workers_are_killed_and_recycled(
    kills: int, attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach(process_metrics=True)
    rng = random.Random(5)
    children = [fork(count, backend) for _ in range(4)]
    before: dict[str, float] = {}
    fell: list[str] = []

    def scrape() -> None:
        now = counters(backend)
        fell.extend(
            f"{key} from {before[key]} to {value}" for key, value in now.items() if value < before.get(key, 0.0)
        )
        before.update(now)

    for _ in range(kills):
        for _ in range(rng.randrange(6)):
            scrape()
        victim = rng.randrange(len(children))
        children[victim].kill()
        scrape()
        children[victim] = fork(count, backend)
        scrape()
    assert fell == []
    assert before["process_cpu_seconds_total"] > 0.0
    assert before["shm_metrics_reaped_rows_total"] > kills / 2
    assert before['steps_total{by="anybody"}'] > 0.0
    assert before["strides_count"] > 0.0


def test_a_worker_that_comes_and_does_nothing_changes_no_total_by_a_single_bit(
    attach: Callable[..., MetricsBackend],
) -> None:
    """Prometheus takes the smallest fall of a counter for a reset, and counts all of it again."""
    rng = random.Random(7)
    shapes = [[float(n) for n in range(1, size)] for size in range(2, 22)]

    def totals() -> dict[str, float]:
        return {key: value for key, value in counters(backend).items() if not key.startswith("shm_metrics_")}

    def count(worker: MetricsBackend) -> None:
        worker.counter("added_total").inc(rng.random())
        worker.summary("amounts").observe(rng.random())
        for buckets in shapes:
            worker.histogram(f"amounts_{len(buckets)}_seconds", buckets=buckets).observe(rng.random())

    backend = attach(rows=64)
    for _ in range(60):
        worker = attach()
        before = totals()
        count(worker)
        then = totals()
        assert all(value >= before.get(key, 0.0) for key, value in then.items())
        newcomer = attach()
        assert totals() == then
        newcomer.close()
