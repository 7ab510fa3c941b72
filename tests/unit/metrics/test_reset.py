"""Counter.reset(): back to zero for all processes, with a new time of creation."""

from __future__ import annotations

import os

import prometheus_client
import pytest

from shm_metrics import Counter
from shm_metrics.exposition import render_openmetrics
from tests.support.repairing import repaired


@pytest.fixture
def worker(make_backend):
    return lambda **options: make_backend(rows=8, slots=512, process_metrics=False, **options)


def created(backend, name: str) -> list[float]:
    return backend.snapshot().family(name).created.tolist()


@pytest.mark.parametrize("labelled", [False, True])
def test_a_reset_counter_begins_at_zero_for_every_worker(labelled, worker):
    one, other = worker(), worker()
    mine = Counter("jobs", "", ["shop"] if labelled else [], registry=one)
    series = mine.labels("a") if labelled else mine
    theirs = other.counter("jobs", **({"shop": "a"} if labelled else {}))
    series.inc(3)
    theirs.inc(4)
    before = created(one, "jobs")
    series.reset()
    assert created(one, "jobs") > before
    assert (series.value, theirs.value) == (0.0, 0.0)
    labels = {"shop": "a"} if labelled else {}
    assert one.snapshot().value("jobs", **labels) == other.snapshot().value("jobs", **labels) == 0.0
    series.inc(2)
    theirs.inc()
    assert (series.value, theirs.value) == (3.0, 3.0)
    if labelled:
        assert mine.labels("a") is series
        assert one.counter("jobs", shop="a") is series


def test_a_reset_leaves_the_other_series_alone(worker):
    backend = worker()
    counter = Counter("jobs", "", ["shop"], registry=backend)
    counter.labels("a").inc(3)
    counter.labels("b").inc(4)
    counter.labels("a").reset()
    assert [counter.labels(shop).value for shop in "ab"] == [0.0, 4.0]


def test_a_series_by_name_can_be_reset_again_and_again(worker):
    backend = worker()
    for turn in range(20):
        series = backend.counter("jobs", shop="a")
        series.inc(turn)
        assert series.value == turn
        series.reset()
        assert backend.counter("jobs", shop="a").value == 0.0
    assert backend.stats()["slots_used"] == 16 + 2, "in the slots it had (one is the overflow's)"


def test_a_reset_is_seen_by_forked_children_that_go_on_counting(worker):
    backend = worker()
    counter = Counter("jobs", "", registry=backend)
    counter.inc(5)
    to_child, to_parent = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        counter.inc(7)
        os.write(to_parent[1], b"1")
        os.read(to_child[0], 1)
        counter.inc(2)
        os._exit(0)
    os.read(to_parent[0], 1)
    assert counter.value == 12.0
    counter.reset()
    os.write(to_child[1], b"1")
    assert os.waitpid(pid, 0)[1] == 0
    assert counter.value == 2.0
    for end in (*to_child, *to_parent):
        os.close(end)


def test_a_reset_forgets_exemplars(worker):
    backend = worker()
    counter = Counter("jobs", "", registry=backend)
    counter.inc(1, {"trace_id": "old"})
    counter.reset()
    counter.inc()
    assert counter.exemplar() is None
    assert b"old" not in render_openmetrics(backend.collect())
    counter.inc(1, {"trace_id": "new"})
    assert counter.exemplar().labels == {"trace_id": "new"}


def test_an_overflowed_counter_takes_its_place_when_there_is_one(worker):
    backend = worker()
    n = 0
    while not backend.counter("jobs", n=n).overflowed:
        n += 1
    lost = backend.counter("jobs", n="lost")
    lost.inc()
    lost.reset()
    assert lost.overflowed
    lost.inc()
    assert backend.snapshot().value("jobs", overflow="true") == backend.stats()["overflowed_updates"] == 2.0


def test_what_a_worker_without_a_row_counted_is_reset_too(make_backend):
    first = make_backend(rows=1, slots=512, process_metrics=False)
    rowless = make_backend(rows=1, slots=512, process_metrics=False)
    series = rowless.counter("jobs", shop="a")
    series.inc(5)
    first.counter("jobs", shop="a").inc(1)
    series.reset()
    series.inc(2)
    first.close()
    assert repaired(rowless._writer)
    assert series.value == 2.0


def test_created_is_new_after_reset_and_removal(worker):
    backend = worker()
    counter = Counter("jobs", "", ["shop"], registry=backend)
    plain = Counter("alone", "", registry=backend)
    counter.labels("a").inc()
    plain.inc()
    before = created(backend, "jobs"), created(backend, "alone")
    counter.remove("a")
    counter.labels("a").inc()
    plain.reset()
    assert created(backend, "jobs") > before[0]
    assert created(backend, "alone") > before[1]


def test_reset_is_called_as_prometheus_client_has_it(worker):
    theirs = prometheus_client.Counter("a", "", registry=None)
    theirs.inc(3)
    assert theirs.reset() is None
    ours = Counter("a", "", registry=worker())
    ours.inc(3)
    assert ours.reset() is None
    assert ours.value == theirs._value.get() == 0.0
