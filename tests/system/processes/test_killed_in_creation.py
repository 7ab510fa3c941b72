"""Workers killed while they create families and series as fast as they can."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from shm_metrics import MetricsBackend, Snapshot
from shm_metrics.model.families import Family
from tests.support.processes import Child, Link
from tests.support.soundness import check_sound

SEGMENTS = 15
KILLS = 20  # a segment: the more series it has, the longer a scrape takes
LONGEST_LIFE = 2e-3
MOST = 200  # of each kind in a life: one that nobody finds the time to end must not fill the segment
AT_ONCE = 1.0  # seconds: half of what anybody waits for the catalog before giving up


def create(link: Link, backend: MetricsBackend, life: str) -> None:
    link.say("ready")
    for n in range(MOST):
        one = str(n)
        backend.counter("made_total", life=life, n=one).inc()
        backend.gauge("made_now", multiprocess_mode="sum", life=life, n=one).inc()
        backend.histogram("made_seconds", buckets=(1.0, 2.0), life=life, n=one).observe(1.0)
        if n % 8 == 0:
            backend.counter(f"made_{life}_{one}_total", "A family").inc()
    link.hear()


def check_whole(snapshot: Snapshot, lives: int) -> None:
    """Everything that is shown is complete: its labels, its shape, and a value that it can have."""
    assert snapshot.damaged_records == 0
    assert snapshot.shadowed_series == 0
    for found in snapshot.families:
        assert len(found.labels) == len(found.values)
        assert set(found.values.flat) <= {0.0, 1.0}, found.family.name
        if found.family.documentation:
            assert found.family.documentation == "A family"
            assert list(found.labels) in ([()], [])
        elif found.family.name.startswith("made"):
            for labels in found.labels:
                assert [label for label, _ in labels] == ["life", "n"]
                assert all(value.isdecimal() for _, value in labels)
                assert int(labels[0][1]) < lives
        if found.sums is not None:
            assert found.values.shape[1:] == (3,)
            assert list(found.sums) == list(found.values.sum(axis=1))


def kill_and_go_on(fork: Callable[..., Child], backend: MetricsBackend, life: int, rng: random.Random) -> Snapshot:
    child = fork(create, backend, str(life))
    assert child.hear() == "ready"
    deadline = time.perf_counter() + rng.uniform(0.0, LONGEST_LIFE)
    while True:
        check_whole(backend.snapshot(), life + 1)
        if time.perf_counter() >= deadline:
            break
    child.kill()
    began = time.perf_counter()
    backend.counter("survived_total", life=str(life)).inc()
    waited = time.perf_counter() - began
    snapshot = backend.snapshot()
    check_whole(snapshot, life + 1)
    assert waited < AT_ONCE
    assert snapshot.value("survived_total", life=str(life)) == 1.0  # and not put aside
    return snapshot


def ask_for(backend: MetricsBackend, family: Family, labels: dict[str, str]) -> None:
    if family.type == "histogram":
        backend.histogram(family.name, buckets=(1.0, 2.0), **labels)
    elif family.type == "gauge":
        backend.gauge(family.name, multiprocess_mode="sum", **labels)
    else:
        backend.counter(family.name, **labels)


def counted(snapshot: Snapshot) -> dict[Any, float]:
    return {
        (found.family.name, labels): float(found.values[position].sum())
        for found in snapshot.families
        for position, labels in enumerate(found.labels)
    }


@pytest.mark.slow
@pytest.mark.parametrize("segments", [SEGMENTS, pytest.param(66 * SEGMENTS, marks=pytest.mark.torture)])
def test_kills_inside_series_creation_never_damage_a_segment(
    segments: int, attach: Callable[..., MetricsBackend], fork: Callable[..., Child], path: str
) -> None:
    rng = random.Random(20)
    cut_short = 0
    for _ in range(segments):
        backend = attach(slots=65_536)
        for life in range(KILLS):
            kill_and_go_on(fork, backend, life, rng)
        before = counted(backend.snapshot())
        cut_short += sum(value == 0.0 for value in before.values())
        # A newcomer finds every series there is, and makes none a second time.
        newcomer = attach(path=path)
        for found in backend.snapshot().families:
            for labels in found.labels:
                ask_for(newcomer, found.family, dict(labels))
        after = counted(newcomer.snapshot())
        assert after == before
        assert check_sound(newcomer._writer.segment) == len(before)
        newcomer.close()
        backend.unlink()
    assert cut_short  # some were killed between a series' creation and its first update
