"""A process as a writer of one segment: what becomes of its cells when there is no row, no slot, no lock."""

from __future__ import annotations

import gc
import os
import time
from array import array

import pytest

from shm_metrics import MetricsBackend
from shm_metrics.errors import SegmentError, SegmentFullError
from shm_metrics.native.implementation import cells
from shm_metrics.segment import layout as L
from shm_metrics.segment.segment import Segment
from shm_metrics.segment.worker_rows import WorkerTable
from shm_metrics.writer.writer import Writer, set_process_role
from tests.support.repairing import repaired
from tests.support.segments import catalog_held, shown


@pytest.fixture
def no_thread(monkeypatch):
    """Repairs are made when the test says so."""
    monkeypatch.setattr(Writer, "_start_repairs", lambda self: None)


@pytest.fixture
def worker(make_backend):
    return lambda rows=1, **options: make_backend(rows=rows, slots=2048, **options)


def use_everything(backend, times=1):
    """Some updates of every kind of series."""
    for _ in range(times):
        backend.counter("jobs", shop="a").inc(2)
        backend.histogram("seconds", buckets=[1], shop="a").observe(0.25)
        backend.histogram("seconds", buckets=[1], shop="a").observe(3)
        backend.summary("bytes").observe(10)
        backend.gauge("moved").inc(3)
        backend.gauge("live", multiprocess_mode="livesum").inc(4)
    backend.gauge("level").set(7)
    backend.gauge("least", multiprocess_mode="min").set(-2)


def everything(backend):
    snapshot = backend.snapshot()
    names = ("jobs", "seconds", "bytes", "moved", "live", "level", "least")
    found = {name: list(shown(backend, name).values()) for name in names}
    for name in ("seconds", "bytes"):
        if snapshot.family(name) is not None:
            found[name] += snapshot.family(name).sums.tolist()
    return found


ONCE = {
    "jobs": [2.0],
    "seconds": [2.0, 3.25],
    "bytes": [1.0, 10.0],
    "moved": [3.0],
    "live": [4.0],
    "level": [7.0],
    "least": [-2.0],
}
THRICE = {**ONCE, "jobs": [6.0], "seconds": [6.0, 9.75], "bytes": [3.0, 30.0], "moved": [9.0], "live": [12.0]}


# -- no row -----------------------------------------------------------------------------------------------------------


def test_a_worker_without_a_row_counts_on_and_says_so_once(worker, no_thread, caplog):
    first, second = worker(), worker()
    use_everything(second)
    assert second.row is None
    assert shown(first, "jobs") == {(("shop", "a"),): 0.0}, "known to all, but nobody sees what is private"
    assert first.stats()["workers_without_row"] == second.stats()["workers_without_row"] == 1
    assert [record.getMessage().count("no free row") for record in caplog.records] == [1]
    assert "raise rows=" in caplog.text


def test_a_worker_that_gets_a_row_brings_along_what_it_counted(worker, no_thread):
    first, second = worker(), worker()
    use_everything(second)
    assert not second._writer.repair()
    first.close()
    assert repaired(second._writer)
    assert second.row == 1
    assert everything(second) == ONCE
    use_everything(second, 2)
    assert everything(second) == THRICE
    assert second.stats()["workers_without_row"] == 0


def test_what_it_brings_is_added_to_what_the_row_holds_already(worker, no_thread):
    first, second = worker(), worker()
    use_everything(first)
    use_everything(second, 2)
    first.close()
    assert repaired(second._writer)
    assert everything(second) == {**THRICE, "live": [8.0]}, "the first one's live gauge went with it"


def test_series_of_a_worker_that_came_without_a_row_can_be_made_later(worker, no_thread):
    first, second = worker(), worker()
    first.close()
    assert repaired(second._writer)
    use_everything(second)
    assert everything(second) == ONCE


def test_a_worker_without_a_row_takes_one_by_itself(worker, monkeypatch):
    monkeypatch.setattr("shm_metrics.writer.writer.REPAIR_SECONDS", 0.002)
    first, second = worker(), worker()
    second.counter("jobs").inc(5)
    first.close()
    patience = time.monotonic() + 60
    while shown(second, "jobs") != {(): 5.0} and time.monotonic() < patience:
        time.sleep(0.002)
    assert shown(second, "jobs") == {(): 5.0}


def test_what_was_counted_does_not_die_with_the_object_that_counted_it(worker, no_thread):
    first, second = worker(), worker()
    second.counter("jobs", shop="a").inc(3)
    second.forget_series()
    second.families.handles["jobs"].series.clear()
    first.close()
    assert repaired(second._writer)
    assert shown(second, "jobs") == {(("shop", "a"),): 3.0}


def test_overflows_of_a_worker_without_a_row_are_counted_too(worker, no_thread):
    first, second = worker(), worker()
    n = 0
    while not second.counter("jobs", n=n).overflowed:
        n += 1
    second.counter("jobs", n="lost").inc()
    first.close()
    assert repaired(second._writer)
    assert second.stats()["overflowed_updates"] == 1.0
    assert shown(second, "jobs")[(("overflow", "true"),)] == 1.0


@pytest.mark.parametrize("observed", [(), (0.5,), (0.5, 0.25, 3.0)], ids=len)
def test_observations_put_together_slot_by_slot_keep_their_sum_when_they_move(observed):
    """As the drop-in counts them: buckets and sum by themselves, beside others that were observed."""
    cell, place = cells.HistogramCell(), cells.private_row(16)
    cell.set_bounds(memoryview(array("d", [1.0, 2.0, float("inf")])))
    private = cells.private_row(6)
    cell.bind(private, 0)
    for value in observed:
        cell.observe(value)
    n = len(observed)
    private.add(1, 2.0)
    private.add(4 + (n & 1), 1.75)
    cell.move(place, 4)
    counts = [place.read(slot) for slot in (5, 6, 7)]
    assert counts == [2.0 + sum(value <= 1 for value in observed), 0.0, float(sum(value > 2 for value in observed))]
    assert place.read(8 + (n & 1)) == 1.75 + sum(observed)
    assert [private.read(slot) for slot in range(6)] == [0.0] * 6


@pytest.mark.parametrize("values", [(float("inf"),), (float("inf"), 1.0, 2.0), (1e308, 1e308, 1e308)])
def test_observations_of_infinity_move_with_their_sum(values):
    cell, place = cells.HistogramCell(), cells.private_row(16)
    cell.set_bounds(memoryview(array("d", [1.0, 2.0, float("inf")])))
    cell.bind(cells.private_row(6), 0)
    for value in values:
        cell.observe(value)
    cell.move(place, 4)
    assert sum(place.read(slot) for slot in (5, 6, 7)) == len(values)
    assert place.read(8 + (len(values) & 1)) == float("inf")


# -- the catalog cannot be had ----------------------------------------------------------------------------------------


@pytest.fixture
def held(worker, no_thread, monkeypatch):
    """(a worker, a context in which another holds the catalog lock)."""
    monkeypatch.setattr("shm_metrics.writer.allocator.CATALOG_SECONDS", 0.005)
    monkeypatch.setattr("shm_metrics.writer.allocator.IMPATIENT_SECONDS", 0.0)
    first, second = worker(rows=4), worker()
    return first, catalog_held(second._writer.segment)


def test_what_is_to_be_removed_while_the_catalog_is_locked_is_an_error_of_the_tree(held):
    backend, locked = held
    backend.counter("jobs_total").inc()
    with locked:
        with pytest.raises(SegmentError, match="has been locked"):
            backend.clear()
    backend.clear()
    assert shown(backend, "jobs") == {}


def test_series_asked_for_while_the_catalog_is_locked_count_and_come_in_later(held, caplog):
    backend, locked = held
    with locked:
        use_everything(backend)
        assert backend.snapshot().series == 0
        assert not backend._writer.repair()
    assert repaired(backend._writer)
    assert everything(backend) == ONCE
    use_everything(backend, 2)
    assert everything(backend) == THRICE
    assert "what it counts is kept" in caplog.text


def test_a_series_is_the_same_object_before_and_after_it_has_its_place(held):
    backend, locked = held
    with locked:
        series = backend.counter("jobs", shop="a")
        series.inc()
        assert backend.counter("jobs", shop="a") is series
    assert repaired(backend._writer)
    assert backend.counter("jobs", shop="a") is series
    series.inc()
    assert series.value == 2.0


def test_what_comes_in_is_added_to_what_others_counted_meanwhile(held, worker):
    backend, locked = held
    with locked:
        use_everything(backend)
    other = worker()
    use_everything(other, 2)
    assert repaired(backend._writer)
    assert everything(backend) == THRICE


def test_a_series_that_waits_and_finds_no_slot_overflows(held):
    backend, locked = held
    known = backend.counter("jobs", shop="known")
    with locked:
        late = backend.counter("jobs", shop="late")
        late.inc(3)
    segment = backend._writer.segment
    segment.set(L.SLOTS_USED_OFFSET, segment.layout.slots)
    known.inc()
    assert repaired(backend._writer)
    late.inc()
    assert shown(backend, "jobs") == {(("shop", "known"),): 1.0, (("overflow", "true"),): 4.0}


def test_updates_within_a_creation_in_the_same_thread_are_not_lost(worker, no_thread):
    """As from a signal handler or a __del__ that comes in on top of a creation."""
    backend = worker()
    backend._writer.allocator.run_locked(lambda: use_everything(backend))
    assert repaired(backend._writer)
    assert everything(backend) == ONCE


# -- no memory --------------------------------------------------------------------------------------------------------


def test_without_memory_for_a_page_updates_are_counted_as_lost_and_nothing_else_happens(worker, monkeypatch, caplog):
    backend = worker()
    backend.counter("jobs", n=0).inc()

    def full(self, offset, length):
        raise SegmentFullError("no room for it")

    monkeypatch.setattr(Segment, "reserve", full)
    for n in range(1, 700):  # more than the first page holds
        backend.counter("jobs", n=n).inc()
    total = sum(shown(backend, "jobs").values())
    assert total == 700.0
    lost = backend.stats()["overflowed_updates"]
    assert lost == shown(backend, "jobs")[(("overflow", "true"),)] > 100
    assert caplog.text.count("no room for it") == 1


def test_without_memory_for_a_row_a_worker_counts_in_private_memory_until_there_is_some(worker, no_thread, monkeypatch):
    first = worker(rows=4)
    real = Segment.reserve

    def full(self, offset, length):
        raise SegmentFullError("no room for it")

    monkeypatch.setattr(Segment, "reserve", full)
    second = worker(rows=4)
    second.counter("jobs").inc(2)
    assert second.row is None
    monkeypatch.setattr(Segment, "reserve", real)
    assert repaired(second._writer)
    second.counter("jobs").inc(1)
    assert shown(first, "jobs") == {(): 3.0}


# -- the end ----------------------------------------------------------------------------------------------------------


def test_a_closed_worker_leaves_its_totals_and_its_series_count_nowhere(worker):
    first, second = worker(rows=2), worker()
    use_everything(first)
    held = first.counter("jobs", shop="a")
    first.close()
    first.close()
    held.inc()
    first.counter("jobs", shop="a").inc()
    first.counter("new").inc()
    first.histogram("seconds", buckets=[1], shop="new").observe(1)
    assert everything(second) == {**ONCE, "live": [0.0]}
    assert second.stats()["live_workers"] == 1
    for read in (first.snapshot, first.collect, first.stats, lambda: held.value, first.clear):
        with pytest.raises(SegmentError, match="closed by this process"):
            read()


def test_a_row_goes_with_the_backend_that_had_it(make_backend, worker):
    keeper = worker(rows=2)
    name = keeper.place.path.rpartition("/")[2].split("-", 2)[2]
    forgotten = MetricsBackend(name)
    forgotten.counter("jobs").inc()
    assert keeper.stats()["live_workers"] == 2
    del forgotten
    gc.collect()
    assert keeper.stats()["live_workers"] == 1
    assert shown(keeper, "jobs") == {(): 1.0}


def test_a_role_is_shown_from_the_beginning_and_when_it_changes(worker):
    backend = worker(role="web")
    table = WorkerTable(backend._writer.segment)
    assert table.read(backend.row).role == "web"
    backend.set_role("worker")
    assert table.read(backend.row).role == "worker"
    assert table.read(backend.row).pid == os.getpid()


def test_a_process_role_is_shown_where_the_backend_has_none(worker):
    named, plain = worker(rows=4, role="web"), worker()
    set_process_role("gunicorn worker")
    try:
        later = worker()
        table = WorkerTable(plain._writer.segment)
        assert [table.read(backend.row).role for backend in (named, plain, later)] == [
            "web",
            "gunicorn worker",
            "gunicorn worker",
        ]
    finally:
        set_process_role("")


def test_a_forked_child_takes_a_row_of_its_own(worker):
    backend = worker(rows=4)
    series = backend.counter("jobs")
    series.inc()
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            series.inc(10)
            os.write(write, str(backend.row).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 10) == b"2"
    os.close(read)
    os.close(write)
    series.inc()
    assert shown(backend, "jobs") == {(): 12.0}
    assert backend.snapshot().live_rows == (1,)
    assert backend.snapshot().used_rows == (1, 2)


def test_a_forked_child_does_not_report_what_its_parent_counted_in_private_memory(worker, no_thread):
    holder, parent = worker(), worker()
    parent.counter("jobs").inc(100)
    parent.histogram("seconds", buckets=[1]).observe(1)
    pid = os.fork()
    if not pid:
        try:
            parent.counter("jobs").inc(10)
            holder.close()
            parent._writer.repair()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert shown(holder, "jobs") == {(): 0.0}, "the row is the holder's still, so the child had none to put it in"
    holder.close()
    assert repaired(parent._writer)
    assert shown(parent, "jobs") == {(): 100.0}
