"""MetricsBackend: series made by asking for them, and everything that can be asked about a segment."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import threading
import time

import numpy as np
import pytest

from shm_metrics import Counter, Enum, Info, InvalidMetricError, MetricConflictError, MetricsBackend, SegmentError
from shm_metrics.segment.location import locate_segment
from tests.support.segments import shown

KINDS = ("counter", "gauge", "histogram", "summary")


@pytest.fixture
def backend(make_backend):
    return make_backend(rows=8, slots=4096)


# -- get or create ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_asking_again_gives_the_same_object(backend, kind):
    ask = getattr(backend, kind)
    series = ask("thing", shop="a", code="200")
    assert ask("thing", shop="a", code="200") is series
    assert ask("thing", code="200", shop="a") is series, "in any order"
    assert ask("thing", code=200, shop="a") is series, "200 and '200' are one label value"
    assert ask("thing", "with words", shop="a", code=200) is series
    assert ask("thing", documentation="with words", shop="a", code="200") is series
    assert ask("thing", code="200", shop="a") is series
    assert ask("thing", shop="b", code="200") is not series
    assert ask("thing", shop="a") is not series
    assert ask("thing") is ask("thing") is not series
    assert ask("other", shop="a", code="200") is not series


def test_a_counter_is_the_same_with_and_without_its_ending(backend):
    assert backend.counter("jobs_total", shop="a") is backend.counter("jobs", shop="a")


def test_labels_that_look_alike_are_told_apart(backend):
    one = backend.counter("jobs", a="b", c="d")
    for other in ({"a": "b,c=d"}, {"a": "c", "b": "d"}, {"a": "", "c": "bd"}, {"a": "b\xffc", "d": ""}, {}):
        assert backend.counter("jobs", **other) is not one
        backend.counter("jobs", **other).inc()
    one.inc(10)
    assert sorted(shown(backend, "jobs").values()) == [1.0] * 5 + [10.0]


def test_threads_that_ask_at_once_get_the_same_object(backend):
    start, found = threading.Barrier(8), [[] for _ in range(8)]

    def ask(mine):
        start.wait(30)
        for n in range(200):
            mine.append(backend.counter("jobs", n=n))
            mine[-1].inc()

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(len({id(mine[n]) for mine in found}) == 1 for n in range(200))
    assert set(shown(backend, "jobs").values()) == {8.0}


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (("counter", {}), ("gauge", {}), "type 'counter' before, now with 'gauge'"),
        (("summary", {}), ("histogram", {}), "type"),
        (
            ("gauge", {"multiprocess_mode": "sum"}),
            ("gauge", {"multiprocess_mode": "max"}),
            "mode 'sum' before, now with 'max'",
        ),
        (("histogram", {"buckets": [1]}), ("histogram", {"buckets": [2]}), "bounds"),
        (("histogram", {"buckets": [1], "x": 1}), ("histogram", {"buckets": [2], "x": 2}), "bounds"),
    ],
)
def test_one_name_with_two_definitions_is_a_conflict_that_says_what_differs(backend, first, second, named):
    getattr(backend, first[0])("thing", **first[1])
    with pytest.raises(MetricConflictError, match=f"thing: declared with .*{named}"):
        getattr(backend, second[0])("thing", **second[1])


@pytest.mark.parametrize("declared", [["shop"], []])
def test_labels_that_a_declared_family_has_not_are_a_conflict_that_names_both(backend, declared):
    Counter("orders", "", declared, registry=backend)
    told = rf"orders: declared with the labels {re.escape(str(declared))} before, now asked for with \['sho'\]"
    with pytest.raises(MetricConflictError, match=told):
        backend.counter("orders", sho="x")
    backend.counter("orders", **dict.fromkeys(declared, "x")).inc()
    assert [series.value for series in [backend.counter("orders", **dict.fromkeys(declared, "x"))]] == [1.0]


def test_a_family_that_nobody_declared_may_have_any_labels(backend):
    backend.counter("orders", shop="a").inc()
    backend.counter("orders", shop="a", kind="b").inc(2)
    assert sorted(shown(backend, "orders").values()) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("histogram", "x"), ("counter", "x_sum")),
        (("gauge", "x_total"), ("counter", "x")),
        (("summary", "x"), ("gauge", "x_count")),
    ],
)
def test_two_families_may_not_have_a_sample_name_in_common(backend, first, second):
    getattr(backend, first[0])(first[1])
    with pytest.raises(MetricConflictError, match="sample"):
        getattr(backend, second[0])(second[1])


def test_what_is_left_out_of_a_definition_is_taken_as_it_was(backend):
    histogram = backend.histogram("seconds", buckets=[1, 2])
    gauge = backend.gauge("depth", multiprocess_mode="max")
    assert backend.histogram("seconds") is histogram
    assert backend.gauge("depth") is gauge
    assert backend.histogram("seconds", buckets=(1.0, 2.0, math.inf)) is histogram
    assert backend.histogram("seconds", buckets=np.array([1, 2])) is histogram
    assert backend.gauge("depth", multiprocess_mode="max") is gauge


def test_unit_and_documentation_are_kept(backend):
    backend.counter("wait", "How long.", unit="seconds", shop="a").inc()
    backend.gauge("size", documentation="How big.", unit="bytes").set(1)
    found = {family.family.name: family.family for family in backend.snapshot()}
    assert (found["wait_seconds"].documentation, found["wait_seconds"].unit) == ("How long.", "seconds")
    assert (found["size_bytes"].documentation, found["size_bytes"].unit) == ("How big.", "bytes")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("arguments", "labels", "error"),
    [
        ((), {}, TypeError),
        (("a", "b", "c"), {}, TypeError),
        (("9",), {}, InvalidMetricError),
        ((None,), {}, InvalidMetricError),
        ((b"x",), {}, InvalidMetricError),
        (([],), {}, InvalidMetricError),
        (("a",), {"b-c": 1}, InvalidMetricError),
        (("a",), {"__name__": 1}, InvalidMetricError),
        (("a", 7), {}, InvalidMetricError),
        (("a",), {"unit": 7}, InvalidMetricError),
    ],
)
def test_bad_input_is_refused_and_makes_nothing(backend, kind, arguments, labels, error):
    with pytest.raises(error):
        getattr(backend, kind)(*arguments, **labels)
    assert list(backend.snapshot()) == []


def test_each_getter_tells_how_it_is_used(backend):
    for kind in KINDS:
        assert kind in getattr(backend, kind).__doc__
        assert "Raise InvalidMetricError" in getattr(backend, kind).__doc__


def test_updates_have_two_names(backend):
    counter, gauge = backend.counter("jobs"), backend.gauge("depth")
    counter.increment()
    counter.increment(2)
    gauge.increment(5)
    gauge.decrement()
    gauge.decrement(2)
    assert (counter.value, gauge.value) == (3.0, 2.0)


def test_declared_metrics_and_asked_for_ones_are_the_same_series(backend):
    counter = Counter("jobs", "Jobs.", ["shop"], registry=backend)
    counter.labels("a").inc()
    backend.counter("jobs_total", shop="a").inc(2)
    assert counter.labels("a").value == 3.0
    assert backend.counter("jobs", shop="a") is counter.labels("a")


# -- what can be asked ------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(backend):
    backend.counter("jobs_total", shop='a"b\\\n').inc(3)
    backend.gauge("depth").set(-1.5)
    for value in (0.5, 1.5, 9):
        backend.histogram("seconds", buckets=[1, 2], shop="a").observe(value)
    backend.summary("bytes").observe(10)
    backend.summary("bytes").observe(20)
    return backend


def test_all_metrics_has_every_series_under_a_name_of_its_own(filled):
    found = filled.all_metrics()
    assert list(found) == ['jobs_total{shop="a\\"b\\\\\\n"}', "depth", 'seconds{shop="a"}', "bytes"]
    for entry in found.values():
        assert abs(entry.pop("created_at") - time.time()) < 100
    assert found['jobs_total{shop="a\\"b\\\\\\n"}'] == {
        "name": "jobs_total",
        "labels": {"shop": 'a"b\\\n'},
        "type": "counter",
        "value": 3.0,
    }
    assert found["depth"] == {"name": "depth", "labels": {}, "type": "gauge", "value": -1.5}
    assert found['seconds{shop="a"}'] == {
        "name": "seconds",
        "labels": {"shop": "a"},
        "type": "histogram",
        "buckets": {"1.0": 1, "2.0": 2, "+Inf": 3},
        "count": 3,
        "sum": 11.0,
        "average": pytest.approx(11 / 3),
        "p50": 1.5,
        "p90": 2.0,
        "p99": 2.0,
    }
    assert found["bytes"] == {
        "name": "bytes",
        "labels": {},
        "type": "summary",
        "count": 2,
        "sum": 30.0,
        "average": 15.0,
    }


def test_series_that_were_not_used_yet_have_an_average_of_nothing(backend):
    backend.histogram("seconds")
    backend.summary("bytes")
    found = backend.all_metrics()
    assert (found["seconds"]["average"], found["bytes"]["average"]) == (0.0, 0.0)
    assert found["seconds"]["p50"] is None


def test_an_enum_and_an_info_are_told_in_words(make_backend):
    backend = make_backend()
    Enum("light", "", states=["red", "green"], registry=backend).state("green")
    Info("build", "", registry=backend).info({"version": "1"})
    found = backend.all_metrics()
    assert found["light"]["value"] == "green"
    assert found['build{version="1"}']["labels"] == {"version": "1"}


def test_an_export_is_plain_data_and_says_when(filled):
    export = filled.export()
    assert set(export) == {"timestamp", "backend_created_at", "total_metrics", "metrics"}
    assert export["total_metrics"] == len(export["metrics"]) == 4
    assert export["backend_created_at"] == filled.created_at <= export["timestamp"] <= time.time()
    assert json.loads(json.dumps(export)) == export


def test_stats_say_how_many_of_which_type(filled):
    stats = filled.stats()
    assert {name: stats[name] for name in stats if name.endswith("_metrics")} == {
        "total_metrics": 4,
        "counter_metrics": 1,
        "gauge_metrics": 1,
        "histogram_metrics": 1,
    }
    assert (stats["incarnation"], stats["created_at"]) == (filled.instance_id, filled.created_at)
    assert 0 <= stats["backend_uptime"] < 1000
    assert json.loads(json.dumps(stats)) == stats


def test_values_are_totals_over_all_workers(make_backend):
    one, other = make_backend(), make_backend()
    for backend in (one, other):
        backend.counter("jobs").inc(2)
        backend.histogram("seconds").observe(3)
    assert one.counter("jobs").value == other.counter("jobs").value == 4.0
    assert one.histogram("seconds").count == 2.0
    assert one.histogram("seconds").sum == 6.0


def test_clear_hides_every_series_for_everybody_and_counting_goes_on_from_zero(make_backend):
    one, other = make_backend(), make_backend()
    held = one.counter("jobs", shop="a")
    held.inc(5)
    other.gauge("depth", shop="b").set(5)
    other.histogram("seconds").observe(5)
    one.clear()
    assert list(one.all_metrics()) == list(other.all_metrics()) == []
    held.inc()
    other.gauge("depth", shop="b").inc()
    assert one.all_metrics().keys() == {'jobs_total{shop="a"}', 'depth{shop="b"}'}
    assert held.value == 1.0
    assert other.gauge("depth", shop="b").value == 1.0


# -- beginning and end ------------------------------------------------------------------------------------------------


def test_a_backend_says_who_it_is(make_backend, segment_name):
    backend = make_backend()
    assert segment_name in repr(backend)
    assert len(backend.instance_id) == 32
    int(backend.instance_id, 16)
    assert abs(backend.created_at - time.time()) < 100
    assert backend.row == 1
    assert not backend.read_only


def test_a_file_path_serves_as_well(make_backend, tmp_path):
    one, other = make_backend(path=tmp_path / "segment"), make_backend(path=str(tmp_path / "segment"))
    one.counter("jobs").inc()
    assert other.counter("jobs").value == 1.0
    assert (tmp_path / "segment").stat().st_mode & 0o777 == 0o600


def test_two_segments_in_one_process_do_not_meet(make_backend, segment_name):
    one, other = make_backend(), make_backend(segment_name + "-other")
    one.counter("jobs").inc(1)
    other.counter("jobs").inc(2)
    assert (one.counter("jobs").value, other.counter("jobs").value) == (1.0, 2.0)
    assert one.instance_id != other.instance_id
    other.unlink()


def test_a_new_life_begins_from_zero_and_keep_goes_on(make_backend):
    first = make_backend()
    first.counter("jobs").inc(5)
    first.gauge("depth").set(7)
    identity = first.instance_id
    first.close()
    kept = make_backend(keep=True)
    assert (kept.counter("jobs").value, kept.gauge("depth").value) == (5.0, 7.0)
    assert kept.instance_id == identity
    kept.close()
    anew = make_backend()
    assert anew.counter("jobs").value == 0.0
    assert anew.instance_id != identity


def test_unlink_removes_the_segment_and_others_count_on_unseen(make_backend):
    one, other = make_backend(), make_backend()
    one.unlink()
    assert not os.path.exists(one.place.path)
    other.counter("jobs").inc()
    assert make_backend().counter("jobs").value == 0.0
    assert other.counter("jobs").value == 1.0


def test_closing_and_unlinking_twice_is_no_error(make_backend):
    backend = make_backend()
    backend.unlink()
    backend.close()
    backend.close()
    backend.unlink()
    assert not os.path.exists(backend.place.path)


def test_a_backend_goes_through_pickle_to_the_same_segment(make_backend):
    backend = make_backend(rows=5, per_worker=True, role="web")
    backend.counter("jobs").inc(2)
    copy = pickle.loads(pickle.dumps(backend))
    assert copy.counter("jobs").value == 2.0
    assert copy.instance_id == backend.instance_id
    assert copy.row != backend.row
    copy.close()
    reader = pickle.loads(pickle.dumps(make_backend(read_only=True)))
    assert reader.read_only
    reader.close()


def test_a_copy_of_a_detached_backend_counts_for_itself():
    backend = MetricsBackend(_private=True)
    backend.counter("jobs").inc()
    copy = pickle.loads(pickle.dumps(backend))
    assert copy.counter("jobs").value == 0.0
    assert copy.stats()["detached"] is True
    copy.close()
    backend.close()


def test_a_reader_claims_nothing_and_can_do_no_harm(make_backend):
    with pytest.raises(FileNotFoundError):
        make_backend(read_only=True)
    writer = make_backend()
    writer.counter("jobs", shop="a").inc(3)
    reader = make_backend(read_only=True)
    assert reader.read_only
    assert reader.row is None
    assert shown(reader, "jobs") == {(("shop", "a"),): 3.0}
    assert reader.stats()["live_workers"] == 1
    assert reader.all_metrics() == writer.all_metrics()
    refused = (
        lambda: reader.counter("jobs", shop="a"),
        lambda: reader.gauge("new"),
        lambda: Counter("jobs", "", ["shop"], registry=reader),
        reader.clear,
        reader.unlink,
        lambda: reader.set_role("x"),
    )
    for use in refused:
        with pytest.raises(SegmentError, match="read_only"):
            use()
    assert shown(writer, "jobs") == {(("shop", "a"),): 3.0}
    assert os.path.exists(writer.place.path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": "a/b"}, "segment name"),
        ({"name": "a", "path": "/x"}, "give one of them"),
        ({"rows": 0}, "rows=0"),
        ({"slots": -1}, "slots=-1"),
        ({"rows": "4"}, "rows='4'"),
    ],
)
def test_bad_options_are_refused_by_name(options, named, segment_name):
    told = options if "name" in options or "path" in options else {"name": segment_name, **options}
    with pytest.raises(InvalidMetricError, match=named):
        MetricsBackend(**told)
    assert not os.path.exists(locate_segment(segment_name).path)
