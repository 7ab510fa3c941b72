"""No scrape shows a bucket without its sum, whoever writes and reads, and whoever is killed meanwhile."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator

import pytest

from shm_metrics import MetricsBackend
from shm_metrics.exposition import render_text
from shm_metrics.native.implementation import COMPILED
from tests.support.observers import Watch, observe
from tests.support.processes import Child, Link, start_module

WRITERS = 4
SCRAPES = 5_000 if COMPILED else 1_500
KILLS = 40 if COMPILED else 20


def write(link: Link, backend: MetricsBackend) -> None:
    link.say("ready")
    observe(backend)


@pytest.mark.slow
@pytest.mark.both_builds
@pytest.mark.parametrize("scrapes", [SCRAPES, pytest.param(80 * SCRAPES, marks=pytest.mark.torture)])
def test_every_scrape_under_load_has_sum_and_count_and_inf_bucket_equal(
    scrapes: int, attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    for _ in range(WRITERS):
        assert fork(write, backend).hear() == "ready"
    watch = Watch()
    while watch.seen < scrapes:
        watch.check(backend.snapshot())
    assert len(backend.snapshot().live_rows) == WRITERS + 1


@pytest.mark.slow
@pytest.mark.both_builds
@pytest.mark.parametrize("kills", [KILLS, pytest.param(75 * KILLS, marks=pytest.mark.torture)])
def test_no_scrape_is_torn_while_writers_are_killed_and_replaced(
    kills: int, attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    rng = random.Random(3)
    children = [fork(write, backend) for _ in range(WRITERS)]
    watch = Watch()
    for _ in range(kills):
        for _ in range(rng.randrange(15)):
            watch.check(backend.snapshot())
        victim = rng.randrange(WRITERS)
        children[victim].kill()
        watch.check(backend.snapshot())
        children[victim] = fork(write, backend)
    assert watch.seen > 5 * kills
    assert len(backend.snapshot().used_rows) == WRITERS + 1


@pytest.mark.slow
def test_the_exposed_text_of_every_scrape_under_load_agrees_with_itself(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    for _ in range(WRITERS):
        assert fork(write, backend).hear() == "ready"
    for _ in range(500):
        lines = render_text(list(backend.snapshot().families)).decode().splitlines()
        shown = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        for of in ("a", "b", "c"):
            counts = {
                next(value for sample, value in shown.items() if 'le="+Inf"' in sample and f'of="{of}"' in sample),
                shown[f'ones_seconds_count{{of="{of}"}}'],
                shown[f'ones_seconds_sum{{of="{of}"}}'],
            }
            assert len(counts) == 1


@pytest.fixture
def writers() -> Iterator[list[subprocess.Popen[str]]]:
    made: list[subprocess.Popen[str]] = []
    yield made
    for process in made:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["compiled", "interpreted"])
@pytest.mark.parametrize("writer", ["compiled", "interpreted"])
def test_each_build_reads_untorn_what_the_other_writes(
    writer: str, reader: str, attach: Callable[..., MetricsBackend], writers: list[subprocess.Popen[str]], path: str
) -> None:
    holder = attach()
    for _ in range(2):
        writers.append(start_module("tests.support.observers", "write", path, interpreted=writer == "interpreted"))
    while holder.snapshot().value("ones_total") is None or len(holder.snapshot().live_rows) < 3:
        assert all(process.poll() is None for process in writers)
    watching = start_module("tests.support.observers", "read", path, "1000", interpreted=reader == "interpreted")
    writers.append(watching)
    watching.communicate(timeout=60)
    assert watching.returncode == 0
