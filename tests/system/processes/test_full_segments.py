"""A full segment: what is known to be full takes no lock, and no process waits for another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shm_metrics import Counter, MetricsBackend
from shm_metrics.segment import layout as L
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.location import SegmentLocation
from shm_metrics.segment.segment import Segment
from shm_metrics.writer.allocator import _CatalogLock
from tests.support.processes import Child, Link

UNKNOWN = 300


@pytest.fixture
def full(attach: Callable[..., MetricsBackend]) -> MetricsBackend:
    """All slots of the segment are in use."""
    backend = attach(slots=1024)
    jobs = Counter("jobs", "", ["of"], registry=backend)
    number = 0
    while not jobs.labels(str(number)).overflowed:
        jobs.labels(str(number)).inc()
        number += 1
    assert backend.stats()["slots_used"] == 1024
    return backend


def count_locks(work: Callable[[], Any]) -> int:
    """How often `work()` takes the catalog lock in this process."""
    taken, real = [0], _CatalogLock.acquire

    def acquire(self: Any, frame: Any) -> None:
        taken[0] += 1
        real(self, frame)

    _CatalogLock.acquire = acquire  # type: ignore[method-assign]
    try:
        work()
    finally:
        _CatalogLock.acquire = real  # type: ignore[method-assign]
    return taken[0]


def count_unknown(link: Link, path: str, worker: int) -> tuple[int, int, int]:
    """How often a worker takes the lock for the first unknown label set, for the others, and for those that exist."""
    backend = MetricsBackend(path=path, process_metrics=False)
    jobs = Counter("jobs", "", ["of"], registry=backend)
    first = count_locks(lambda: jobs.labels(f"unknown {worker}").inc())
    link.say("it is full")
    link.hear()
    others = count_locks(lambda: [jobs.labels(f"unknown {worker} {n}").inc() for n in range(UNKNOWN)])
    existing = count_locks(lambda: [jobs.labels(str(n)).inc() for n in range(500)])
    backend.close()
    return first, others, existing


def test_the_catalog_lock_is_not_taken_for_what_is_known_to_be_full(
    full: MetricsBackend, fork: Callable[..., Child]
) -> None:
    before = full.snapshot().value("jobs_total", of="7")
    children = [fork(count_unknown, full.place.path, worker) for worker in range(4)]
    for child in children:
        assert child.hear() == "it is full"
    for child in children:
        child.say()
    assert [child.result() for child in children] == [(1, 0, 0)] * 4
    snapshot = full.snapshot()
    assert snapshot.value("jobs_total", overflow="true") == 4 * (1 + UNKNOWN)
    assert before == 1.0
    assert snapshot.value("jobs_total", of="7") == 5.0
    assert full.stats()["overflowed_updates"] == 4 * (1 + UNKNOWN)


def hold_the_catalog(link: Link, path: str) -> None:
    segment = Segment.attach(SegmentLocation.at(path), Layout(16, 1024))
    assert segment.locks.try_exclusive(L.LOCK_CATALOG)
    link.say("held")
    link.hear()
    segment.close()


def test_calls_return_at_once_while_another_process_holds_the_catalog(
    full: MetricsBackend, fork: Callable[..., Child], caplog: pytest.LogCaptureFixture
) -> None:
    jobs = Counter("jobs", "", ["of"], registry=full)
    assert jobs.labels("unknown").overflowed
    holder = fork(hold_the_catalog, full.place.path)
    assert holder.hear() == "held"
    caplog.clear()
    for n in range(UNKNOWN):
        series = jobs.labels(f"unknown {n}")
        series.inc()
        assert series.overflowed
    assert full.snapshot().value("jobs_total", overflow="true") == UNKNOWN
    assert caplog.messages == [], "none of them waited for the lock in vain"
    holder.say()
    assert holder.result() is None


def test_room_that_another_process_makes_is_used_at_once(full: MetricsBackend, fork: Callable[..., Child]) -> None:
    jobs = Counter("jobs", "", ["of"], registry=full)
    assert jobs.labels("unknown").overflowed

    def remove(link: Link) -> None:
        backend = MetricsBackend(path=full.place.path, process_metrics=False)
        Counter("jobs", "", ["of"], registry=backend).remove("7")
        backend.close()

    assert fork(remove).result() is None
    assert not jobs.labels("another").overflowed
    assert jobs.labels("one more").overflowed
    jobs.labels("another").inc(3)
    snapshot = full.snapshot()
    assert snapshot.value("jobs_total", of="another") == 3.0
    assert snapshot.value("jobs_total", of="7") is None


def test_another_shape_finds_room_that_the_first_one_does_not(full: MetricsBackend) -> None:
    """What is noted as full is the shape: a gauge fits where a gauge was removed, a counter does not."""
    jobs = Counter("jobs", "", ["of"], registry=full)
    jobs.remove("7")
    assert full.gauge("level", of="a").overflowed
    assert full.gauge("level", of="b").overflowed
    assert not jobs.labels("another").overflowed


def test_metrics_that_begin_in_a_full_segment_count_once_there_is_room(full: MetricsBackend) -> None:
    """A module declares its metrics once: what was declared too late must not be lost for the life of the process."""
    late = Counter("late", "", registry=full)
    jobs = full.families.handles["jobs"]
    held = Counter("jobs", "", ["of"], registry=full).labels("held")
    late.inc(3)
    held.inc()
    assert (late.overflowed, held.overflowed) == (True, True)
    jobs.remove((("of", "0"),))
    jobs.remove((("of", "1"),))
    late.inc(5)
    held.inc(2)
    snapshot = full.snapshot()
    assert (late.overflowed, held.overflowed) == (False, False)
    assert (snapshot.value("late_total"), snapshot.value("jobs_total", of="held")) == (8.0, 2.0)


def test_a_metric_that_is_not_shown_is_named_once(full: MetricsBackend, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        Counter("late", "", registry=full).inc()
    assert [record.getMessage() for record in caplog.records if "late: nothing" in record.getMessage()] == [
        "shm_metrics: late: nothing of it is shown until there is room for it"
    ]


def test_clear_hides_the_overflow(full: MetricsBackend) -> None:
    jobs = Counter("jobs", "", ["of"], registry=full)
    jobs.labels("unknown").inc()
    assert full.snapshot().value("jobs_total", overflow="true") is not None
    jobs.clear()
    assert full.snapshot().value("jobs_total", overflow="true") is None
    assert full.snapshot().value("jobs_total", of="0") is None
