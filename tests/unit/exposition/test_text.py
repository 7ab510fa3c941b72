"""Text 0.0.4: the same bytes as prometheus_client's, and what is particular to it."""

from __future__ import annotations

from math import inf, isnan

import numpy as np
import pytest
from hypothesis import given
from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    StateSetMetricFamily,
    SummaryMetricFamily,
    UnknownMetricFamily,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Timestamp

from shm_metrics.exposition import render_text
from shm_metrics.model.families import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    Family,
    FamilySnapshot,
    Sample,
    SampleFamily,
    SeriesLabels,
)
from tests.support.families import Registry, as_metric, by_name, counter, histogram, pages, peer_text, unhurried


def test_a_counter_and_a_histogram_look_as_the_format_says():
    assert render_text([counter(values=[3, 2.5]), histogram()]).decode() == (
        "# HELP jobs_total Jobs done.\n"
        "# TYPE jobs_total counter\n"
        'jobs_total{queue="q0"} 3.0\n'
        'jobs_total{queue="q1"} 2.5\n'
        "# HELP latency_seconds How long it took.\n"
        "# TYPE latency_seconds histogram\n"
        'latency_seconds_bucket{le="0.1",path="/a",zone="b"} 2.0\n'
        'latency_seconds_bucket{le="1.0",path="/a",zone="b"} 4.0\n'
        'latency_seconds_bucket{le="+Inf",path="/a",zone="b"} 5.0\n'
        'latency_seconds_count{path="/a",zone="b"} 5.0\n'
        'latency_seconds_sum{path="/a",zone="b"} 2.5\n'
    )


@unhurried
@given(pages())
def test_snapshots_give_the_bytes_that_prometheus_client_gives(page):
    assert render_text(page) == peer_text(page)


@unhurried
@given(pages())
def test_samples_give_the_bytes_that_prometheus_client_gives(page):
    assert render_text(map(as_metric, page)) == peer_text(page)


@unhurried
@given(pages())
def test_every_value_and_label_reads_back(page):
    read = by_name(render_text(page), text_string_to_metric_families)
    shown = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for snapshot in page
        for sample in as_metric(snapshot).samples
    }
    assert read.keys() == shown.keys()
    assert all(read[key] == shown[key] or (isnan(read[key]) and isnan(shown[key])) for key in read)


@pytest.mark.parametrize(
    "metric",
    [
        CounterMetricFamily("c", "Help.", value=3, created=12.5),
        GaugeMetricFamily("g", 'A "quoted" \\ help\nof two lines.', value=-0.0),
        SummaryMetricFamily("s", "Help.", count_value=3, sum_value=7),
        HistogramMetricFamily("h", "Help.", buckets=[("0.5", 1), ("+Inf", 2)], sum_value=3),
        GaugeHistogramMetricFamily("gh", "Help.", buckets=[("0.5", 1), ("+Inf", 2)], gsum_value=3),
        InfoMetricFamily("i", "Help.", value={"version": '1.0 "beta"'}),
        StateSetMetricFamily("st", "Help.", value={"on": True, "off": False}),
        UnknownMetricFamily("u", "Help.", value=1e300),
    ],
    ids=lambda metric: metric.type,
)
def test_a_collectors_metric_of_any_type_is_rendered_as_prometheus_client_renders_it(metric):
    assert render_text([metric]) == generate_latest(Registry([metric]))


def test_timestamps_are_milliseconds():
    metric = GaugeMetricFamily("g", "Help.", labels=["a"])
    metric.add_metric(["x"], 1, timestamp=1234.5)
    metric.add_metric(["y"], 1, timestamp=Timestamp(1234, 500_000_000))
    assert render_text([metric]) == generate_latest(Registry([metric]))
    assert b'g{a="x"} 1.0 1234500\n' in render_text([metric])


def test_a_family_without_series_still_shows_its_head():
    empty = FamilySnapshot(Family("idle", COUNTER, "Nothing yet."), SeriesLabels(), np.zeros(0))
    no_buckets = FamilySnapshot(
        Family("h", HISTOGRAM, bounds=(1.0, inf)), SeriesLabels(), np.zeros((0, 2)), np.zeros(0)
    )
    for page in ([empty], [empty, counter()], [counter(), empty, no_buckets]):
        assert render_text(page) == peer_text(page)
        assert render_text(page) == peer_text(page)
    assert render_text([]) == b""


def test_names_that_the_format_does_not_know_get_underscores():
    metric = SampleFamily("http.requests", "Help.", GAUGE, [Sample("http.requests", {"a.b": "x", "1": "y"}, 1.0)])
    assert render_text([metric]) == (
        b'# HELP http_requests Help.\n# TYPE http_requests gauge\nhttp_requests{_1="y",a_b="x"} 1.0\n'
    )


def test_a_lone_surrogate_does_not_take_the_page_down():
    labels = SeriesLabels([(("path", "/\ud800"),)])
    page = [FamilySnapshot(Family("a", GAUGE), labels, np.ones(1)), Metric("b", "\udfff", "gauge")]
    assert b'a{path="/?"} 1.0\n' in render_text(page)


def test_a_counter_named_with_its_total_is_not_given_a_second_one():
    metric = SampleFamily("x_total", "Help.", COUNTER, [Sample("x_total", {}, 1.0)])
    assert render_text([metric]) == b"# HELP x_total Help.\n# TYPE x_total counter\nx_total 1.0\n"


def test_a_sample_without_a_value_is_left_out():
    metric = GaugeHistogramMetricFamily("gh", "Help.", buckets=[("+Inf", 2)])
    assert b"gsum" not in render_text([metric])


def test_a_broken_family_is_dropped_and_reported_and_the_rest_served():
    dropped = []
    broken = SampleFamily("broken", "Help.", GAUGE, [Sample("broken", {}, 1.0), Sample("broken", {"a": "b"}, "many")])
    text = render_text([broken, counter()], on_dropped=dropped.append)
    assert text == render_text([counter()])
    assert [one.name for one in dropped] == ["broken"]
    assert "many" in dropped[0].reason


def test_created_times_are_shown_when_asked_for():
    page = [FamilySnapshot(Family("x", COUNTER), SeriesLabels([()]), np.ones(1), created=np.array([1700000000.5]))]
    assert b"created" not in render_text(page)
    assert b"# TYPE x_created gauge\nx_created 1.7000000005e+09\n" in render_text(page, created=True)


def test_a_snapshot_whose_values_and_labels_disagree_is_refused():
    for n in (3, 300):
        page = [FamilySnapshot(Family("x", COUNTER), SeriesLabels([(("a", f"{i}"),) for i in range(n)]), np.ones(1))]
        with pytest.raises(ValueError):
            render_text(page)
