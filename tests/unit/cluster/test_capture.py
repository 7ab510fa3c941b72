"""Snapshots of real segments as blobs."""

from __future__ import annotations

import time

import pytest

from shm_metrics import Enum, Info
from shm_metrics.cluster.codec import wire
from shm_metrics.cluster.model.capture import Capture
from tests.support.blobs import plain, sent


@pytest.fixture
def backend(make_backend):
    return make_backend(rows=8, slots=8192)


def publish(backend, capture=None, **more):
    told = {"host": "web-1", "pid": 7, "created_at": backend.created_at, "sequence": 1, **more}
    return (capture or Capture()).blob(backend.snapshot(stamps=True), **told)


def test_a_blob_says_what_the_segment_says(backend, make_backend):
    for worker in (backend, make_backend()):
        worker.counter("jobs", "Jobs done.", shop="b").inc(2)
        worker.counter("jobs", shop="a").inc(0.5)
        worker.counter("errors").inc()
        worker.gauge("depth").inc(3)
        worker.gauge("age", multiprocess_mode="max").set(float("inf"))
        worker.histogram("seconds", buckets=[1, 2], path="/b").observe(1.5)
        worker.histogram("seconds", buckets=[1, 2], path="/a").observe(5)
        worker.histogram("bytes", buckets=[10, 20]).observe(15)
        worker.summary("sizes", x="1").observe(10)
        worker.gauge("temperature", multiprocess_mode="all", room="x").set(21)
    Enum("light", "", states=["red", "green"], registry=backend).state("green")
    Info("build", "", ["part"], registry=backend).labels("core").info({"version": "2"})

    blob = sent(publish(backend))
    assert blob.instance == backend.instance_id
    assert blob.series == backend.snapshot().series

    def told(families):
        """Each series by itself: the blob has its own order."""
        return {
            (found.family, labels): (found.values[at].tolist(), found.sums is not None and float(found.sums[at]))
            for found in families
            for at, labels in enumerate(found.labels)
        }

    assert told(blob.families()) == told(backend.snapshot())
    (said,) = [found for found in blob.families() if found.family.name == "build"]
    assert said.labels == ((("part", "core"), ("version", "2")),)
    assert said.keys == ((("part", "core"),),)


@pytest.mark.parametrize("mode", ["shared", "min", "livemax", "sum", "mostrecent", "all"])
def test_a_gauge_says_when_it_was_set_by_the_wall_clock(backend, mode):
    series = backend.gauge("depth", multiprocess_mode=mode)
    before = time.time()
    series.set(3)
    (found,) = sent(publish(backend)).families()
    assert before - 0.01 <= found.stamps[0] <= time.time()


def test_a_gauge_that_was_never_set_says_so(backend):
    backend.gauge("depth")
    backend.gauge("moved").inc(5)
    found = {each.family.name: each for each in publish(backend).families()}
    assert (found["depth"].values.tolist(), found["depth"].stamps.tolist()) == ([0.0], [0.0])
    assert (found["moved"].values.tolist(), found["moved"].stamps.tolist()) == ([5.0], [0.0])


def test_of_many_workers_the_newest_set_counts(backend, make_backend):
    backend.gauge("depth").set(1)
    first = publish(backend).families()[0].stamps[0]
    make_backend().gauge("depth").set(2)
    (found,) = publish(backend).families()
    assert found.values.tolist() == [2.0]
    assert found.stamps[0] >= first


def test_a_snapshot_without_stamps_is_refused(backend):
    backend.gauge("depth").set(1)
    assert backend.snapshot().family("depth").stamps is None
    with pytest.raises(ValueError, match="stamps=True"):
        Capture().blob(backend.snapshot(), host="", pid=1, created_at=0.0, sequence=1)


def test_the_table_is_made_once_while_the_series_do_not_change(backend):
    capture = Capture()
    backend.counter("jobs", shop="a").inc()
    backend.gauge("depth", multiprocess_mode="all").set(1)
    first = publish(backend, capture)
    backend.counter("jobs", shop="a").inc()
    again = publish(backend, capture)
    assert [part.table for part in again.parts] == [part.table for part in first.parts]
    assert plain(again.families()) != plain(first.families())
    backend.counter("jobs", shop="0").inc(7)
    grown = publish(backend, capture)
    assert grown.parts[0].table is not first.parts[0].table
    assert plain(sent(grown).families())["jobs"][1] == ((("shop", "0"),), (("shop", "a"),))


def test_two_segments_with_the_same_series_have_the_same_table(make_backend, segment_name):
    told = []
    for name, order in ((f"{segment_name}-1", "abc"), (f"{segment_name}-2", "cab")):
        backend = make_backend(name)
        for shop in order:
            backend.counter("jobs", shop=shop).inc()
            backend.histogram(f"seconds_{shop}").observe(1)
        told.append(publish(backend))
        backend.unlink()
    assert told[0].parts[0].table.packed == told[1].parts[0].table.packed


def test_a_removed_series_is_not_published(backend):
    backend.counter("jobs", shop="a").inc()
    backend.counter("jobs", shop="b").inc()
    backend.clear()
    backend.counter("jobs", shop="b").inc(3)
    (found,) = sent(publish(backend)).families()
    assert dict(zip(found.labels, found.values.tolist(), strict=True)) == {(("shop", "b"),): 3.0}


def test_ten_thousand_counters_take_at_most_twenty_bytes_each(make_backend):
    backend = make_backend(slots=32_768)
    for number in range(10_000):
        labels = {"method": "GET", "path": f"/shop/{number // 50}/items", "status": str(200 + number % 50)}
        backend.counter("http_requests_total", **labels).inc(number * number % 99_991)
    assert len(wire.encode(publish(backend))) <= 20 * 10_000
