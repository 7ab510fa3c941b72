"""Exemplars between real processes: the newest wins, forks and kills do no harm, no memory is no error."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable

import pytest

from shm_metrics import MetricsBackend, Snapshot
from shm_metrics.native.implementation import COMPILED
from shm_metrics.segment import layout as L
from tests.support.processes import PATIENCE, Child, Link
from tests.system.processes.test_exhaustion import SmallDisk, disk, warnings

__all__ = ["disk"]

BUCKETS = (1.0, 2.0, 4.0)
WORKERS = 3
KILLS = 60 if COMPILED else 30


def count(backend: MetricsBackend, who: str, n: int) -> None:
    """One update of each kind whose exemplar agrees with itself: the same number in label, value and length."""
    labels = {"who": who, "n": str(n), "filler": "x" * (n % 100)}
    backend.counter("jobs_total", shop=str(n % 3)).inc(n + 1, labels)
    backend.histogram("jobs_seconds", buckets=BUCKETS).observe(n % 5, labels)


def check(snapshot: Snapshot) -> int:
    """Every exemplar that is shown is whole, and where it belongs. Returns how many there are."""
    seen = 0
    assert snapshot.damaged_records == 0
    for found in snapshot.families:
        for (index, bucket), exemplar in (found.exemplars or {}).items():
            n = int(exemplar.labels["n"])
            assert len(exemplar.labels["filler"]) == n % 100
            assert exemplar.timestamp is not None
            if found.family.type == "counter":
                assert found.labels[index] == (("shop", str(n % 3)),)
                assert exemplar.value == n + 1
            else:
                assert exemplar.value == n % 5
                assert exemplar.value <= found.family.bounds[bucket]
                assert bucket == 0 or exemplar.value > found.family.bounds[bucket - 1]
            seen += 1
    return seen


def count_for_ever(link: Link, backend: MetricsBackend, who: str) -> None:
    link.say("ready")
    for n in itertools.count():
        count(backend, who, n)


def count_when_told(link: Link, backend: MetricsBackend, who: str) -> None:
    link.say(backend.row)
    while (n := link.hear()) is not None:
        count(backend, who, n)
        link.say("counted")


def newest(backend: MetricsBackend) -> dict[str, str]:
    found = backend.snapshot().family("jobs_total")
    assert found is not None
    return {
        found.labels[index][0][1]: exemplar.labels["who"] for (index, _), exemplar in (found.exemplars or {}).items()
    }


def test_the_newest_exemplar_of_several_processes_is_shown(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    children = {str(n): fork(count_when_told, backend, str(n)) for n in range(WORKERS)}
    rows = [child.hear() for child in children.values()]
    assert len({backend.row, *rows}) == WORKERS + 1
    rng = random.Random(7)
    last: dict[str, str] = {}
    for turn in range(60):
        who = rng.choice(list(children))
        n = turn % 3
        children[who].say(n)
        assert children[who].hear() == "counted"
        last[str(n)] = who
        assert newest(backend) == last
        check(backend.snapshot())
    for child in children.values():
        child.kill()
    assert newest(backend) == last


def test_a_forked_child_keeps_its_exemplars_in_a_row_of_its_own(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    series = backend.counter("jobs_total", shop="0")
    count(backend, "parent", 0)

    def work(link: Link) -> None:
        assert series.exemplar().labels["who"] == "parent"
        for n in range(10):
            count(backend, "child", 3 * n)

    before = table_of(backend, backend.row)
    fork(work).result()
    assert table_of(backend, backend.row) == before
    assert newest(backend) == {"0": "child"}
    count(backend, "parent", 0)
    assert newest(backend) == {"0": "parent"}


def table_of(backend: MetricsBackend, row: int | None) -> bytes:
    assert row is not None
    segment = backend._writer.segment
    at = segment.layout.exemplar_table(row)
    return bytes(segment.bytes[at : at + L.PAGE])


def test_rows_that_change_hands_take_no_more_memory_for_exemplars(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    backend.counter("jobs_total", shop="0")

    def work(link: Link) -> None:
        for n in range(30):
            count(backend, "child", n)

    fork(work).result()
    first = backend._writer.segment.allocated_bytes()
    for _ in range(30):
        fork(work).result()
    assert len(backend.snapshot().used_rows) == 2
    assert backend._writer.segment.allocated_bytes() == first
    assert check(backend.snapshot()) == 3 + len(BUCKETS)


@pytest.mark.slow
@pytest.mark.both_builds
@pytest.mark.parametrize("kills", [KILLS, pytest.param(66 * KILLS, marks=pytest.mark.torture)])
def test_workers_killed_while_they_keep_exemplars_leave_only_whole_ones(
    kills: int, attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    rng = random.Random(11)
    children = [fork(count_for_ever, backend, str(n)) for n in range(WORKERS)]
    seen = 0
    for kill in range(kills):
        deadline = time.perf_counter() + rng.uniform(0.0, 3e-3)
        victim = rng.randrange(WORKERS)
        assert children[victim].hear() == "ready"
        while time.perf_counter() < deadline:
            seen += check(backend.snapshot())
        children[victim].kill()
        seen += check(backend.snapshot())
        children[victim] = fork(count_for_ever, backend, f"{kill}")
    assert seen > kills
    assert len(backend.snapshot().used_rows) == WORKERS + 1
    for child in children:
        child.kill()
    # What was killed in the middle is used again: a worker without a past has as many entries as it needs.
    count(backend, "last", 0)
    assert newest(backend)["0"] == "last"
    check(backend.snapshot())


@pytest.mark.parametrize("leave", [0, 1, 2])
def test_when_the_file_system_is_full_exemplars_are_left_out_counted_and_logged_once(
    leave: int, disk: Callable[[int], SmallDisk], caplog: pytest.LogCaptureFixture
) -> None:
    small = disk(2048)
    backend = MetricsBackend(path=small.segment, rows=8, slots=4096, process_metrics=False)
    try:
        series = [backend.counter("jobs_total", n=str(n)) for n in range(40)]
        small.fill(leave=leave * L.PAGE)
        for n, each in enumerate(series):
            each.inc(1, {"n": str(n)})  # a SIGBUS would end the tests
        kept = leave * L.EXEMPLARS_PER_PAGE
        found = backend.snapshot().family("jobs_total")
        assert found is not None
        assert found.values.sum() == len(series)
        assert len(found.exemplars or {}) == kept
        assert backend.stats()["dropped_exemplars"] == len(series) - kept
        assert [told for told in warnings(caplog) if "exemplars are left out" in told] == warnings(caplog)
        assert len(warnings(caplog)) == 1
        small.make_room()
        series[-1].inc(1, {"n": "room"})
        last = series[-1].exemplar()
        assert last is not None
        assert last.labels == {"n": "room"}
    finally:
        backend.unlink()


def test_threads_of_one_worker_keep_theirs_in_one_table(attach: Callable[..., MetricsBackend]) -> None:
    backend = attach()
    begin = threading.Barrier(4)

    def work(who: str) -> None:
        begin.wait(PATIENCE)
        for n in range(600):
            count(backend, who, n)
            backend.counter("own_total", n=str(n % 300), who=who).inc(1, {"n": str(n), "who": who})

    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(3)]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        begin.wait(PATIENCE)
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
    finally:
        sys.setswitchinterval(switch)
    found = backend.snapshot().family("own_total")
    assert found is not None
    assert found.exemplars is not None
    for (index, _), exemplar in found.exemplars.items():
        assert dict(found.labels[index]) == {"n": str(int(exemplar.labels["n"]) % 300), "who": exemplar.labels["who"]}
    shown = sum(len(each.exemplars or {}) for each in backend.snapshot().families)
    assert shown == L.EXEMPLARS_PER_ROW, "of 906 counters and buckets: the table is full, and no slot is there twice"
    assert backend.snapshot().damaged_records == 0


def test_a_signal_handler_on_top_of_an_exemplar_counts_hangs_and_breaks_nothing(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()

    def work(link: Link) -> tuple[int, int]:
        for n in range(3):
            count(backend, "outer", n)  # a handler on top of a creation counts in private memory, without exemplars
        handled = itertools.count()
        done = 3

        depth = [0]

        def handle(*_: object) -> None:
            depth[0] += 1
            if depth[0] < 20:  # on a busy machine a signal comes before the handler of the one before has ended
                count(backend, "handler", next(handled))
            depth[0] -= 1

        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            count(backend, "outer", done)
            done += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        return done, next(handled)

    done, handled = fork(work).result()
    assert handled > 100
    snapshot = backend.snapshot()
    assert snapshot.value("jobs_seconds") == done + handled
    assert check(snapshot) == 6


@pytest.mark.slow
def test_a_handler_that_forks_on_top_of_an_exemplar_leaves_the_parents_table_alone(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()

    def work(link: Link) -> int:
        parent, forks = os.getpid(), 0

        def handle(*_: object) -> None:
            nonlocal forks
            forks += 1
            if os.fork() == 0:
                signal.signal(signal.SIGALRM, signal.SIG_IGN)
                forks = -1  # goes on in the middle of what the handler interrupted, and ends at the next turn

        signal.signal(signal.SIGALRM, handle)
        for n in range(3):
            count(backend, "parent", n)
        for n in itertools.count():
            signal.setitimer(signal.ITIMER_REAL, 2e-5)
            count(backend, "parent" if os.getpid() == parent else "child", n)
            if os.getpid() != parent:
                os._exit(0 if forks == -1 else 1)
            while forks:
                assert os.wait()[1] == 0
                forks -= 1
            if n == 200:
                break
        signal.setitimer(signal.ITIMER_REAL, 0)
        return n

    assert fork(work).result() == 200
    check(backend.snapshot())


@pytest.mark.slow
def test_damage_all_over_the_tables_is_skipped_and_counted(
    path: str, attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach(slots=1024)
    for n in range(40):
        count(backend, "a", n)
        backend.counter("more_total", n=str(n)).inc(1, {"who": "a"})
    segment = backend._writer.segment
    start, size = segment.layout.exemplar_table(1), 12 * L.PAGE

    def scribble(link: Link) -> int:
        rng = random.Random(13)
        most = 0
        for turn in range(300):
            for _ in range(rng.randrange(1, 200)):
                segment.bytes[start + rng.randrange(size)] = rng.randrange(256)
            most = max(most, backend.snapshot().damaged_records)
            if turn % 10 == 0:
                count(backend, "b", turn)
                if os.fork() == 0:
                    count(backend, "c", turn)
                    os._exit(0)
                assert os.wait()[1] == 0
        backend.close()
        heir = MetricsBackend(path=path, process_metrics=False)
        count(heir, "d", 0)
        assert newest(heir)["0"] == "d"
        return most

    assert fork(scribble).result() > 5
