"""Exemplars as an application gives them: inc(exemplar=), observe(exemplar=), over workers, removal and resets."""

from __future__ import annotations

import json
import os
import time

import prometheus_client
import pytest
from prometheus_client.openmetrics.exposition import generate_latest as their_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from shm_metrics import Counter, Gauge, Histogram, InvalidMetricError, Summary
from shm_metrics.exposition import render_csv, render_json, render_openmetrics, render_text
from shm_metrics.model.families import Exemplar
from tests.support.repairing import repaired


@pytest.fixture
def worker(make_backend):
    return lambda **options: make_backend(rows=8, slots=2048, process_metrics=False, **options)


def exposed(backend) -> dict[tuple[str, tuple[tuple[str, str], ...]], Exemplar]:
    """(sample, labels) -> the exemplar on a page, as prometheus_client reads it."""
    page = render_openmetrics(backend.collect()).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.exemplar
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.exemplar is not None
    }


def traces(backend) -> dict[tuple[str, tuple[tuple[str, str], ...]], str]:
    return {key: exemplar.labels["trace_id"] for key, exemplar in exposed(backend).items()}


def test_a_counters_exemplar_says_what_was_added_and_when(worker):
    backend = worker()
    before = time.time()
    Counter("jobs", "", registry=backend).inc(2.5, exemplar={"trace_id": "abc", "span_id": "1"})
    found = exposed(backend)["jobs_total", ()]
    assert found.labels == {"trace_id": "abc", "span_id": "1"}
    assert found.value == 2.5
    assert before <= float(found.timestamp) <= time.time()


@pytest.mark.parametrize("labelled", [False, True])
def test_a_histograms_exemplars_stand_at_the_buckets_their_values_fall_into(labelled, worker):
    backend = worker()
    metric = Histogram("seconds", "", ["a"] if labelled else [], buckets=[1, 2, 4], registry=backend)
    series = metric.labels("x") if labelled else metric
    for value, trace in ((0.5, "low"), (1.0, "edge"), (3.0, "middle"), (9.0, "high"), (float("inf"), "inf")):
        series.observe(value, exemplar={"trace_id": trace})
    series.observe(1.5)
    labels = (("a", "x"),) if labelled else ()
    assert traces(backend) == {
        ("seconds_bucket", (*labels, ("le", "1.0"))): "edge",
        ("seconds_bucket", (*labels, ("le", "4.0"))): "middle",
        ("seconds_bucket", (*labels, ("le", "+Inf"))): "inf",
    }
    assert series.count == 6
    assert [found and found.value for found in map(series.exemplar, range(4))] == [1.0, None, 3.0, float("inf")]
    assert series.exemplar().labels == {"trace_id": "inf"}, "the newest of all"
    with pytest.raises(InvalidMetricError, match="seconds: bucket 4"):
        series.exemplar(4)


def test_series_made_by_name_take_exemplars_too(worker):
    backend = worker()
    backend.counter("jobs", shop="a").increment(exemplar={"trace_id": "1"})
    backend.counter("jobs", shop="b").increment(1, {"trace_id": "2"})
    backend.histogram("seconds", buckets=[1], shop="a").observe(0.5, {"trace_id": "3"})
    assert traces(backend) == {
        ("jobs_total", (("shop", "a"),)): "1",
        ("jobs_total", (("shop", "b"),)): "2",
        ("seconds_bucket", (("le", "1.0"), ("shop", "a"))): "3",
    }


def test_the_newest_wins_whichever_worker_kept_it_and_a_dead_ones_stays(worker):
    one, other = worker(), worker()
    one.counter("jobs").inc(1, {"trace_id": "first"})
    other.counter("jobs").inc(1, {"trace_id": "second"})
    assert traces(one) == traces(other) == {("jobs_total", ()): "second"}
    one.counter("jobs").inc(1, {"trace_id": "third"})
    assert one.counter("jobs").exemplar().labels == other.counter("jobs").exemplar().labels == {"trace_id": "third"}
    other.histogram("seconds", buckets=[1]).observe(0.5, {"trace_id": "of the dead"})
    other.close()
    heir = worker()
    assert heir.row == 2
    assert traces(one)["seconds_bucket", (("le", "1.0"),)] == "of the dead"
    heir.histogram("seconds", buckets=[1]).observe(0.5, {"trace_id": "of the heir"})
    assert traces(one)["seconds_bucket", (("le", "1.0"),)] == "of the heir"


def test_updates_without_exemplar_leave_the_one_there_is(worker):
    backend = worker()
    backend.counter("jobs").inc(1, {"trace_id": "1"})
    backend.counter("jobs").inc(5)
    backend.counter("jobs").inc(5, exemplar=None)
    backend.counter("jobs").inc(5, exemplar={})
    assert traces(backend) == {("jobs_total", ()): "1"}
    assert backend.counter("jobs").value == 16


@pytest.mark.parametrize(
    "exemplar", [{"trace_id": "x" * 121}, {"__a": "x"}, {"": "x"}, {"a": None}, "abc", {"a": "\ud800"}, 5]
)
def test_a_bad_exemplar_counts_nothing(exemplar, worker):
    backend = worker()
    counter = Counter("jobs", "", registry=backend)
    histogram = Histogram("seconds", "", registry=backend)
    with pytest.raises(InvalidMetricError):
        counter.inc(1, exemplar=exemplar)
    with pytest.raises(InvalidMetricError):
        histogram.observe(1, exemplar=exemplar)
    assert (counter.value, histogram.count, exposed(backend)) == (0, 0, {})


def test_a_bad_amount_keeps_no_exemplar(worker):
    backend = worker()
    for amount in (-1, float("nan"), "1", float("inf")):
        with pytest.raises(InvalidMetricError):
            backend.counter("jobs").inc(amount, {"trace_id": "1"})
    with pytest.raises(InvalidMetricError):
        backend.histogram("seconds").observe(float("nan"), {"trace_id": "1"})
    assert exposed(backend) == {}


def test_a_summary_takes_none(worker):
    summary = Summary("bytes", "", registry=worker())
    with pytest.raises(TypeError, match="bytes: a summary takes no exemplar"):
        summary.observe(1, {"trace_id": "1"})
    assert summary.count == 0


def test_an_exemplar_can_be_kept_without_counting(worker):
    backend = worker()
    histogram, counter = backend.histogram("seconds", buckets=[1, 2]), backend.counter("jobs")
    assert histogram.keep_exemplar({"trace_id": "by value"}, 1.5, 1234.5)
    assert histogram.keep_exemplar({"trace_id": "by bucket"}, 1.5, 1234.5, bucket=2)
    assert counter.keep_exemplar({"trace_id": "c"}, 1.0)
    assert histogram.exemplar(1) == Exemplar({"trace_id": "by value"}, 1.5, 1234.5)
    assert histogram.exemplar(2) == Exemplar({"trace_id": "by bucket"}, 1.5, 1234.5)
    assert (histogram.count, counter.value) == (0, 0)
    with pytest.raises(InvalidMetricError, match="seconds: bucket 3"):
        histogram.keep_exemplar({}, 1.5, bucket=3)
    with pytest.raises(InvalidMetricError, match="jobs: exemplar"):
        counter.keep_exemplar({"__a": "b"}, 1.5)


# -- removal -----------------------------------------------------------------------------------------------------------


def test_a_removed_series_comes_back_without_its_exemplars(worker):
    one, other = worker(), worker()
    counter = Counter("jobs", "", ["shop"], registry=one)
    counter.labels("a").inc(1, {"trace_id": "old"})
    counter.labels("b").inc(1, {"trace_id": "stays"})
    held = other.counter("jobs", shop="a")
    counter.remove("a")
    assert traces(other) == {("jobs_total", (("shop", "b"),)): "stays"}
    held.inc()
    assert other.snapshot().value("jobs", shop="a") == 1.0
    assert traces(other) == {("jobs_total", (("shop", "b"),)): "stays"}
    assert held.exemplar() is None
    held.inc(1, {"trace_id": "new"})
    assert traces(one)["jobs_total", (("shop", "a"),)] == "new"


def test_a_series_in_reused_slots_shows_no_exemplar_of_the_one_before(make_backend):
    def worker():
        return make_backend(rows=8, slots=512, process_metrics=False)

    first = worker()
    counter = Counter("jobs", "", ["shop"], registry=first)
    counter.labels("a").inc(1, {"trace_id": "old"})
    n = 0
    while not first.counter("filler", n=n).overflowed:
        n += 1
    counter.remove("a")
    keeper = worker()
    first.close()
    series = keeper.counter("jobs", shop="new")
    series.inc()
    assert not series.overflowed
    assert keeper.snapshot().value("jobs", shop="new") == 1.0
    assert traces(keeper) == {}
    assert series.exemplar() is None
    series.inc(1, {"trace_id": "new"})
    assert traces(keeper) == {("jobs_total", (("shop", "new"),)): "new"}


def test_exemplars_of_many_series_find_their_lines(worker):
    """More series than a loop in Python renders, removed ones and unlabelled ones among them."""
    backend = worker()
    counter = Counter("jobs", "", ["n"], registry=backend)
    histogram = Histogram("seconds", "", ["n"], buckets=[1, 2], registry=backend)
    for n in range(100):
        counter.labels(n).inc(1, {"trace_id": f"c{n}"} if n % 3 == 0 else None)
        histogram.labels(n).observe(n % 3 + 0.5, {"trace_id": f"h{n}"} if n % 5 == 0 else None)
        backend.counter(f"alone_{n}").inc(1, {"trace_id": f"a{n}"} if n % 7 == 0 else None)
    for n in range(0, 100, 10):
        counter.remove(n)
        histogram.remove(n)
    bounds = ["1.0", "2.0", "+Inf"]
    wanted = {("jobs_total", (("n", str(n)),)): f"c{n}" for n in range(0, 100, 3) if n % 10}
    wanted |= {("seconds_bucket", (("le", bounds[n % 3]), ("n", str(n)))): f"h{n}" for n in range(0, 100, 5) if n % 10}
    wanted |= {(f"alone_{n}_total", ()): f"a{n}" for n in range(0, 100, 7)}
    assert traces(backend) == wanted
    assert traces(backend) == wanted
    assert backend.snapshot().family("jobs").exemplars is not None


# -- formats -----------------------------------------------------------------------------------------------------------


def test_exemplars_are_in_openmetrics_and_json_and_in_no_other_format(worker):
    backend = worker()
    backend.counter("jobs").inc(1, {"trace_id": "abc"})
    backend.histogram("seconds", buckets=[1]).observe(0.5, {"trace_id": "def"})
    assert b"abc" not in render_text(backend.collect())
    assert b"abc" not in render_csv(backend.collect())
    families = {family["name"]: family for family in json.loads(render_json(backend.collect()))["families"]}
    assert families["jobs"]["series"][0]["exemplars"]["value"]["labels"] == {"trace_id": "abc"}
    assert families["seconds"]["series"][0]["exemplars"]["1.0"]["labels"] == {"trace_id": "def"}
    told = backend.all_metrics()
    assert told["jobs_total"]["exemplar"]["labels"] == {"trace_id": "abc"}
    assert list(told["seconds"]["exemplars"]) == ["1.0"]
    json.dumps(backend.export())


def test_text_is_the_same_with_exemplars_as_without(worker):
    backend = worker()
    counter, histogram = backend.counter("jobs"), backend.histogram("seconds", buckets=[1])
    counter.inc()
    histogram.observe(0.5)
    before = render_text(backend.snapshot().items)
    counter.keep_exemplar({"trace_id": "abc"}, 1.0)
    histogram.keep_exemplar({"trace_id": "abc"}, 0.5)
    assert render_text(backend.snapshot().items) == before


def test_a_name_that_openmetrics_does_not_know_is_written_with_underscores(worker):
    backend = worker()
    backend.counter("jobs").inc(1, {"trace.id": "b\\c\nd", "1st": "é\U0001f600"})
    assert exposed(backend)["jobs_total", ()].labels == {"trace_id": "b\\c\nd", "_1st": "é\U0001f600"}
    backend.counter("jobs").inc(1, {"trace.id": "1", "trace_id": "2"})  # two labels of one name: no page has that
    assert exposed(backend) == {}


def test_quotes_are_escaped(worker):
    """prometheus_client's own parser cannot read such a line; Prometheus can."""
    backend = worker()
    backend.counter("jobs").inc(1, {"trace_id": 'a"b'})
    assert b'jobs_total 1.0 # {trace_id="a\\"b"} 1.0 ' in render_openmetrics(backend.collect())


def test_a_prometheus_client_registry_shows_the_exemplars_of_our_metrics(worker):
    registry = prometheus_client.CollectorRegistry()
    backend = worker()
    registry.register(Counter("jobs", "", ["a"], registry=backend))
    registry.register(Histogram("seconds", "", buckets=[1], registry=backend))
    backend.counter("jobs", a="x").inc(1, {"trace_id": "abc"})
    backend.histogram("seconds").observe(0.5, {"trace_id": "def"})
    page = their_openmetrics(registry).decode()
    assert 'jobs_total{a="x"} 1.0 # {trace_id="abc"} 1.0 ' in page
    assert 'seconds_bucket{le="1.0"} 1.0 # {trace_id="def"} 0.5 ' in page


def test_whoever_only_watches_sees_them(worker):
    backend = worker()
    backend.counter("jobs").inc(1, {"trace_id": "abc"})
    watching = worker(read_only=True)
    assert traces(watching) == {("jobs_total", ()): "abc"}
    backend.counter("jobs").inc(1, {"trace_id": "def"})
    assert traces(watching) == {("jobs_total", ()): "def"}


# -- where no exemplar can be kept -------------------------------------------------------------------------------------


def test_a_worker_without_a_row_counts_and_leaves_exemplars_out(make_backend):
    first = make_backend(rows=1, slots=512, process_metrics=False)
    rowless = make_backend(rows=1, slots=512, process_metrics=False)
    assert rowless.row is None
    rowless.counter("jobs").inc(1, {"trace_id": "lost"})
    assert rowless.counter("jobs").keep_exemplar({"trace_id": "lost"}, 1.0) is False
    first.close()
    assert repaired(rowless._writer)
    assert rowless.counter("jobs").value == 1.0
    assert exposed(rowless) == {}
    rowless.counter("jobs").inc(1, {"trace_id": "kept"})
    assert traces(rowless) == {("jobs_total", ()): "kept"}


def test_a_closed_backends_series_go_on_and_keep_nothing(make_backend):
    backend, other = make_backend(process_metrics=False), make_backend(process_metrics=False)
    counter = backend.counter("jobs")
    counter.inc(1, {"trace_id": "kept"})
    backend.close()
    counter.inc(1, {"trace_id": "late"})
    assert traces(other) == {("jobs_total", ()): "kept"}


def test_an_overflow_series_has_exemplars_of_its_own(make_backend):
    backend = make_backend(rows=2, slots=512, process_metrics=False)
    for n in range(600):
        backend.counter("jobs", n=n).inc(1, {"trace_id": str(n)})
    updates = backend.stats()["overflowed_updates"]
    assert updates == backend.snapshot().value("jobs", overflow="true") > 0
    assert traces(backend)["jobs_total", (("overflow", "true"),)] == "599"


def test_exemplars_are_dropped_after_a_reboot(make_backend, segment_name, monkeypatch):
    from shm_metrics.segment import reboot

    backend = make_backend(keep=True, process_metrics=False)
    backend.counter("jobs").inc(1, {"trace_id": "before"})
    backend.close()
    monkeypatch.setattr(reboot, "boot_id", lambda: os.urandom(16))
    after = make_backend(keep=True, process_metrics=False)
    assert exposed(after) == {}
    after.counter("jobs").inc(1, {"trace_id": "after"})
    assert traces(after) == {("jobs_total", ()): "after"}
    assert after.counter("jobs").value == 2.0


def test_what_was_removed_before_a_reboot_counts_and_shows_again_after_it(make_backend, monkeypatch):
    """CLOCK_MONOTONIC begins anew: a removal in an earlier boot must not seem to lie in the future."""
    from shm_metrics.segment import reboot

    backend = make_backend(keep=True, process_metrics=False)
    gauge = Gauge("level", "", ["a"], multiprocess_mode="max", registry=backend)
    counter = Counter("jobs", "", ["a"], registry=backend)
    for metric in (gauge, counter):
        metric.labels("x").inc(5)
    before = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: before() + 1e6)  # that boot lasted twelve days
    gauge.remove("x")
    counter.remove("x")
    monkeypatch.undo()
    backend.close()
    monkeypatch.setattr(reboot, "boot_id", lambda: b"another boot....")
    after = make_backend(keep=True, process_metrics=False)
    assert after.snapshot().value("jobs", a="x") is None
    assert after.snapshot().value("level", a="x") is None
    after.gauge("level", multiprocess_mode="max", a="x").set(3)
    after.counter("jobs", a="x").inc(1, {"trace_id": "new"})
    assert after.snapshot().value("level", a="x") == 3.0
    assert after.snapshot().value("jobs", a="x") == 1.0
    assert traces(after) == {("jobs_total", (("a", "x"),)): "new"}
    assert after.snapshot().damaged_records == 0
