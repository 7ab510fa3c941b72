"""Scans: what all rows together say, whole, by the newest definition, and harmless to what is read."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from shm_metrics.errors import SegmentFormatError
from shm_metrics.model.families import COUNTER, HISTOGRAM
from shm_metrics.segment import catalog_records
from shm_metrics.segment import layout as L
from shm_metrics.segment.catalog_records import CatalogRecord
from tests.support.segments import shown


def damage(backend, name, **labels):
    """Flip bits in the catalog record of a series, or of a family when there are no labels."""
    allocator = backend._writer.allocator
    key = catalog_records.family_key(backend.families.handles[name].family)
    if labels:
        key = catalog_records.series_key(allocator.index.hash(key), tuple(sorted(labels.items())))
    offset = allocator.index.find(key, allocator.index.hash(key))
    assert allocator.catalog.read(offset).key == key
    allocator.catalog.data[offset + catalog_records.HEAD_BYTES + 6] ^= 0xFF


@pytest.fixture
def worker(make_backend):
    return lambda **options: make_backend(rows=8, slots=4096, **options)


def test_a_total_is_the_sum_over_all_rows_of_the_living_and_the_dead(worker):
    scraper = worker()
    for n in range(1, 5):
        backend = worker()
        backend.counter("jobs", shop="a").inc(n)
        if n % 2:
            backend.close()
    assert shown(scraper, "jobs") == {(("shop", "a"),): 10.0}
    assert scraper.counter("jobs", shop="a").value == 10.0


def test_a_row_that_changes_hands_keeps_its_totals(worker):
    scraper = worker()
    for _ in range(20):
        backend = worker()
        backend.counter("jobs").inc()
        backend.histogram("seconds", buckets=[1]).observe(0.5)
        backend.close()
    snapshot = scraper.snapshot()
    assert snapshot.value("jobs") == 20.0
    assert snapshot.family("seconds").sums.tolist() == [10.0]
    assert len(snapshot.used_rows) == 2
    assert snapshot.live_rows == (1,)


def test_histograms_of_all_workers_add_up_bucket_by_bucket(worker):
    one, other = worker(), worker()
    for backend, values in ((one, [0.5, 1.0, 1.5, 99.0]), (other, [2.0, -5.0, float("inf")])):
        for value in values:
            backend.histogram("seconds", buckets=[1, 2], shop="a").observe(value)
    found = one.snapshot().family("seconds")
    assert found.values.tolist() == [[3, 2, 2]]
    assert found.sums.tolist() == [float("inf")]
    assert one.histogram("seconds", buckets=[1, 2], shop="a").count == 7


def test_a_summary_is_count_and_sum(worker):
    one, other = worker(), worker()
    one.summary("bytes").observe(10)
    other.summary("bytes").observe(5)
    found = one.snapshot().family("bytes")
    assert (found.values.tolist(), found.sums.tolist()) == ([2.0], [15.0])
    assert (other.summary("bytes").count, other.summary("bytes").sum) == (2.0, 15.0)


def test_histograms_of_many_shapes_stay_apart(worker):
    backend = worker()
    for n in (1, 2, 14, 40):
        series = backend.histogram(f"h{n}", buckets=range(n))
        for value in range(n + 1):
            series.observe(value)
    snapshot = backend.snapshot()
    for n in (1, 2, 14, 40):
        assert snapshot.family(f"h{n}").values.tolist() == [[1.0] * (n + 1)]
        assert snapshot.family(f"h{n}").sums.tolist() == [n * (n + 1) / 2]


def test_every_slot_counts_for_its_own_series_however_many_there_are(worker):
    """More series than a page has slots, of mixed shapes, of which each worker knows another part."""
    one, other = worker(), worker()
    for n in range(600):
        (one, other)[n % 2].counter("jobs", n=n).inc(n)
        if n % 10 == 0:
            (one, other)[n % 4 // 2].histogram("seconds", buckets=[300], n=n).observe(n)
            (one, other)[n % 3 // 2].gauge("depth", n=n).set(n)
    snapshot = one.snapshot()
    assert shown(one, "jobs") == {(("n", str(n)),): n for n in range(600)}
    assert shown(other, "depth") == {(("n", str(n)),): n for n in range(0, 600, 10)}
    seconds = snapshot.family("seconds")
    assert seconds.labels == tuple((("n", str(n)),) for n in range(0, 600, 10))
    assert seconds.values.tolist() == [[1, 0] if n <= 300 else [0, 1] for n in range(0, 600, 10)]
    assert seconds.sums.tolist() == list(range(0, 600, 10))


def test_series_and_families_alike_come_in_the_order_in_which_they_were_made(worker):
    one, other = worker(), worker()
    one.counter("b")
    one.gauge("g")
    other.counter("a", n=2)
    one.gauge("f")
    one.counter("a", n=1)
    families = {found.family.name: found for found in one.snapshot()}
    assert list(families) == ["b", "a", "g", "f"], "gauges stand together, and counters"
    assert families["a"].labels == ((("n", "2"),), (("n", "1"),))


def test_a_snapshot_says_when_each_series_was_first_asked_for(worker, monkeypatch):
    backend = worker()
    monkeypatch.setattr(time, "time", lambda: 1234.5)
    backend.counter("jobs")
    monkeypatch.undo()
    assert backend.snapshot().family("jobs").created.tolist() == [1234.5]


def test_the_newest_definition_of_a_name_is_shown_and_the_older_counted_as_shadowed(worker):
    """A rolling deploy: the old release and the new one name the same histogram with other buckets."""
    old, new = worker(), worker()
    old.histogram("seconds", buckets=[1], shop="a").observe(1)
    old.histogram("seconds", buckets=[1], shop="b").observe(1)
    assert old.snapshot().shadowed_series == 0
    new.histogram("seconds", buckets=[1, 2], shop="a").observe(2)
    snapshot = old.snapshot()
    assert snapshot.family("seconds").family.bounds == (1.0, 2.0, float("inf"))
    assert snapshot.family("seconds").values.tolist() == [[0, 1, 0]]
    assert snapshot.shadowed_series == 2


def test_a_name_that_turns_into_another_type_shows_as_the_newest(worker):
    old, new = worker(), worker()
    old.counter("thing").inc(5)
    new.gauge("thing").set(7)
    snapshot = old.snapshot()
    assert [found.family.type for found in snapshot] == ["gauge"]
    assert snapshot.value("thing") == 7.0
    assert snapshot.shadowed_series == 1


def test_only_the_documentation_differs_is_no_other_definition(worker):
    old, new = worker(), worker()
    old.counter("jobs", "Old words.").inc()
    new.counter("jobs", "New words.").inc()
    snapshot = old.snapshot()
    assert snapshot.value("jobs") == 2.0
    assert snapshot.shadowed_series == 0


def test_a_damaged_record_is_counted_and_the_rest_served(worker):
    backend = worker()
    for n in range(5):
        backend.counter("jobs", n=n).inc()
    reader = worker(read_only=True)
    damage(backend, "jobs", n="2")
    for _ in range(2):
        snapshot = reader.snapshot()
        assert {labels[0][1] for labels in snapshot.family("jobs").labels} == {"0", "1", "3", "4"}
        assert snapshot.damaged_records == 1
    reader.close()


def test_a_series_with_a_damaged_record_is_made_again_and_served(worker):
    one = worker()
    one.counter("jobs", n=1).inc(5)
    damage(one, "jobs", n="1")
    other = worker()
    other.counter("jobs", n=1).inc(2)
    assert shown(worker(read_only=True), "jobs") == {(("n", "1"),): 2.0}


def test_a_damaged_family_costs_that_family(worker):
    backend = worker()
    backend.counter("lost", n=1).inc()
    backend.counter("kept", n=1).inc()
    damage(backend, "lost")
    snapshot = worker(read_only=True).snapshot()
    assert [found.family.name for found in snapshot] == ["kept"]
    assert snapshot.damaged_records == 2, "the family, and the series that has none"
    other = worker()
    other.counter("lost", n=1).inc()
    for reader in (backend, other, worker(read_only=True)):
        assert shown(reader, "lost") == {(("n", "1"),): 2.0}, "its series are the same ones"
        assert reader.snapshot().damaged_records == 1


def test_a_record_that_names_slots_out_of_reach_is_damage(worker):
    backend = worker()
    backend.counter("jobs", n=1).inc()
    allocator = backend._writer.allocator
    family = allocator.family(backend.families.handles["jobs"].family, True, 0.0)
    for slot, count in ((1 << 40, 1), (0, 1), (4096, 1), (20, 2)):
        key = catalog_records.series_key(family.id, (("n", f"{slot} {count}"),))
        hash_ = allocator.index.hash(key)
        allocator.catalog.append(CatalogRecord(catalog_records.SERIES, key, family.id, slot, count, hash=hash_))
    snapshot = backend.snapshot()
    assert len(snapshot.family("jobs").labels) == 1
    assert snapshot.damaged_records == 4


def test_a_truncated_segment_is_an_error_and_no_crash(worker, place):
    backend = worker()
    backend.counter("jobs").inc()
    os.truncate(place.path, L.PAGE * 3)
    with pytest.raises(SegmentFormatError, match="truncated"):
        backend.snapshot()
    with pytest.raises(SegmentFormatError, match="truncated"):
        backend.collect()


def test_reading_touches_no_page_that_nobody_reserved(worker):
    one = worker()
    for n in range(1200):
        one.counter("jobs", n=n)
        one.gauge("depth", n=n, multiprocess_mode="livesum")
    other = worker()
    other.counter("jobs", n=0).inc()
    other.snapshot()
    segment = other._writer.segment
    before = segment.allocated_bytes()
    reader = worker(read_only=True)
    for backend in (one, other, reader):
        assert shown(backend, "jobs")[(("n", "0"),)] == 1.0
    assert segment.allocated_bytes() == before
    assert segment.pages[other.row].sum() < segment.pages[one.row].sum()


def test_two_scans_of_an_unchanged_catalog_share_their_labels(worker):
    backend = worker()
    backend.counter("jobs", n=1).inc()
    before = backend.snapshot().family("jobs")
    backend.counter("jobs", n=1).inc()
    assert backend.snapshot().family("jobs").labels is before.labels
    backend.counter("jobs", n=2).inc()
    assert backend.snapshot().family("jobs").labels is not before.labels


def test_a_snapshot_does_not_change_any_more(worker):
    backend = worker()
    counter, histogram = backend.counter("jobs"), backend.histogram("seconds", buckets=[1])
    counter.inc()
    histogram.observe(1)
    snapshot = backend.snapshot()
    counter.inc(10)
    histogram.observe(2)
    backend.counter("later").inc()
    backend.clear()
    assert snapshot.value("jobs") == 1.0
    assert snapshot.family("seconds").sums.tolist() == [1.0]
    assert snapshot.family("later") is None
    with pytest.raises(AttributeError):
        snapshot.families = ()
    with pytest.raises(AttributeError):
        snapshot.family("jobs").values = np.zeros(1)


def test_a_snapshot_is_asked_by_name_and_labels(worker):
    backend = worker()
    backend.counter("jobs_total", shop="a", kind="x").inc(3)
    backend.histogram("seconds", buckets=[1]).observe(9)
    snapshot = backend.snapshot()
    assert snapshot.value("jobs", shop="a", kind="x") == snapshot.value("jobs_total", kind="x", shop="a") == 3.0
    assert snapshot.value("seconds") == 1.0
    assert snapshot.value("jobs", shop="a") is None
    assert snapshot.value("nothing") is None
    assert snapshot.series == 2
    assert {found.family.type for found in snapshot} == {COUNTER, HISTOGRAM}
    assert snapshot.incarnation == backend.instance_id
