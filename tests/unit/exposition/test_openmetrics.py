"""OpenMetrics 1.0: what prometheus_client's strict parser takes, value for value."""

from __future__ import annotations

from math import inf, isnan

import numpy as np
import pytest
from hypothesis import assume, given
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    StateSetMetricFamily,
    SummaryMetricFamily,
    UnknownMetricFamily,
)
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict
from prometheus_client.samples import Exemplar, Timestamp

from shm_metrics.exposition import render_openmetrics
from shm_metrics.model.families import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    STATESET,
    Family,
    FamilySnapshot,
    Sample,
    SampleFamily,
    SeriesLabels,
)
from tests.support.families import Registry, as_metric, by_name, counter, histogram, pages, unhurried


def test_a_page_looks_as_the_standard_says():
    info = FamilySnapshot(Family("build", "info", "Build."), SeriesLabels([(("version", "1"),)]), np.ones(1))
    mode = FamilySnapshot(Family("mode", STATESET, "Mode.", states=("on", "off")), SeriesLabels([()]), np.ones(1))
    assert render_openmetrics([counter(), histogram(), info, mode]).decode() == (
        "# HELP jobs Jobs done.\n"
        "# TYPE jobs counter\n"
        'jobs_total{queue="q0"} 1.0\n'
        "# HELP latency_seconds How long it took.\n"
        "# TYPE latency_seconds histogram\n"
        "# UNIT latency_seconds seconds\n"
        'latency_seconds_bucket{le="0.1",path="/a",zone="b"} 2.0\n'
        'latency_seconds_bucket{le="1.0",path="/a",zone="b"} 4.0\n'
        'latency_seconds_bucket{le="+Inf",path="/a",zone="b"} 5.0\n'
        'latency_seconds_count{path="/a",zone="b"} 5.0\n'
        'latency_seconds_sum{path="/a",zone="b"} 2.5\n'
        "# HELP build Build.\n"
        "# TYPE build info\n"
        'build_info{version="1"} 1.0\n'
        "# HELP mode Mode.\n"
        "# TYPE mode stateset\n"
        'mode{mode="on"} 0.0\n'
        'mode{mode="off"} 1.0\n'
        "# EOF\n"
    )


@unhurried
@given(pages())
def test_snapshots_give_the_bytes_that_prometheus_client_gives(page):
    # prometheus_client 0.26 writes a colon in a sample's name as an underscore: not the family's name any more.
    assume(not any(":" in snapshot.family.name for snapshot in page))
    assert render_openmetrics(page) == generate_latest(Registry(map(as_metric, page)))


@unhurried
@given(pages())
def test_the_strict_parser_reads_every_value_and_label_back(page):
    read = by_name(render_openmetrics(page), strict)
    shown = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for snapshot in page
        for sample in as_metric(snapshot).samples
    }
    assert read.keys() == shown.keys()
    assert all(read[key] == shown[key] or (isnan(read[key]) and isnan(shown[key])) for key in read)


@unhurried
@given(pages())
def test_the_strict_parser_reads_types_and_help_back(page):
    read = {metric.name: (metric.type, metric.documentation) for metric in strict(render_openmetrics(page).decode())}
    assert read == {each.family.name: (each.family.type, each.family.documentation) for each in page}


@pytest.mark.parametrize(
    "metric",
    [
        CounterMetricFamily("c", "Help.", value=3, created=12.5, exemplar=Exemplar({"trace": "a b"}, 0.5, 1234.25)),
        SummaryMetricFamily("s", 'A "quoted" \\ help\nof two lines.', count_value=3, sum_value=7),
        HistogramMetricFamily(
            "h", "", buckets=[("0.5", 1, Exemplar({"trace": "x"}, 0.25)), ("+Inf", 2, None)], sum_value=3
        ),
        GaugeHistogramMetricFamily("gh", "Help.", buckets=[("0.5", 1), ("+Inf", 2)], gsum_value=3),
        InfoMetricFamily("i", "Help.", value={"version": "1.0"}),
        StateSetMetricFamily("st", "Help.", value={"on": True, "off": False}),
        UnknownMetricFamily("u_bytes", "Help.", value=1e300, unit="bytes"),
    ],
    ids=lambda metric: metric.type,
)
def test_a_collectors_metric_of_any_type_is_rendered_as_prometheus_client_renders_it(metric):
    text = render_openmetrics([metric])
    assert text == generate_latest(Registry([metric]))
    assert next(iter(strict(text.decode()))).type == metric.type


def test_timestamps_keep_their_nanoseconds():
    metric = SampleFamily("g", "Help.", GAUGE, [Sample("g", {}, 1.0, Timestamp(1234, 5))])
    assert b"g 1.0 1234.000000005\n" in render_openmetrics([metric])


def test_an_exemplars_labels_are_escaped():
    exemplar = Exemplar({"trace": 'a"\\\nb'}, 0.5)
    page = [SampleFamily("c", "Help.", COUNTER, [Sample("c_total", {}, 1.0, None, exemplar)])]
    assert rb'c_total 1.0 # {trace="a\"\\\nb"} 0.5' in render_openmetrics(page)


def test_an_exemplar_where_the_standard_forbids_one_is_left_out():
    long = Exemplar({"trace": "x" * 128}, 1.0)
    fine = Exemplar({"trace": "x"}, 1.0)
    page = [
        SampleFamily("g", "Help.", GAUGE, [Sample("g", {}, 1.0, None, fine)]),
        SampleFamily("c", "Help.", COUNTER, [Sample("c_total", {}, 1.0, None, long)]),
    ]
    text = render_openmetrics(page).decode()
    assert " # " not in text.replace("# HELP", "").replace("# TYPE", "").replace("# EOF", "")
    assert len(list(strict(text))) == 2


@pytest.mark.parametrize(("unit", "shown"), [("seconds", True), ("bytes", False), ("", False)])
def test_a_unit_is_shown_only_where_the_name_ends_in_it(unit, shown):
    page = [FamilySnapshot(Family("a_seconds", GAUGE, "Help.", unit), SeriesLabels([()]), np.ones(1))]
    text = render_openmetrics(page).decode()
    assert ("# UNIT" in text) == shown
    assert len(list(strict(text))) == 1


def test_a_histogram_with_negative_bounds_has_neither_sum_nor_count():
    values, sums = np.array([[1.0, 2.0]]), np.array([-3.0])
    page = [FamilySnapshot(Family("h", HISTOGRAM, bounds=(-1.0, inf)), SeriesLabels([()]), values, sums)]
    (metric,) = strict(render_openmetrics(page).decode())
    assert [sample.value for sample in metric.samples] == [1, 3]


def test_created_times_are_shown_when_asked_for():
    labels = SeriesLabels([(("a", "1"),), (("a", "2"),)])
    created = np.array([1700000000.5, 1700000001.0])
    page = [FamilySnapshot(Family("x", COUNTER), labels, np.ones(2), created=created)]
    read = by_name(render_openmetrics(page, created=True), strict)
    assert read["x_created", ("a", "2")] == 1700000001.0
    assert read["x_total", ("a", "2")] == 1.0


def test_an_unknown_type_is_called_unknown():
    page = [SampleFamily("x", "Help.", "untyped", [Sample("x", {}, 1.0)])]
    assert b"# TYPE x unknown\n" in render_openmetrics(page)
