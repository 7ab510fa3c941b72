"""JSON and CSV: complete, and readable by the standard library."""

from __future__ import annotations

import csv
import json
from io import StringIO
from math import inf, isnan

import numpy as np
from hypothesis import given
from prometheus_client.core import GaugeHistogramMetricFamily, SummaryMetricFamily
from prometheus_client.samples import Exemplar

from shm_metrics.exposition import render_csv, render_json
from shm_metrics.model.families import (
    COUNTER,
    GAUGE,
    STATESET,
    SUMMARY,
    Family,
    FamilySnapshot,
    Sample,
    SampleFamily,
    SeriesLabels,
)
from tests.support.families import as_metric, counter, histogram, pages, unhurried


def read_json(page) -> list[dict]:
    return json.loads(render_json(page), parse_constant=lambda name: 1 / 0)["families"]


def test_json_has_one_object_a_series():
    mode = FamilySnapshot(Family("mode", STATESET, "", states=("on", "off")), SeriesLabels([()]), np.zeros(1))
    size = FamilySnapshot(Family("size", SUMMARY), SeriesLabels([()]), np.array([2.0]), np.array([inf]))
    assert read_json([counter(values=[3]), histogram(), mode, size]) == [
        {
            "name": "jobs",
            "type": "counter",
            "help": "Jobs done.",
            "unit": "",
            "series": [{"labels": {"queue": "q0"}, "value": 3.0}],
        },
        {
            "name": "latency_seconds",
            "type": "histogram",
            "help": "How long it took.",
            "unit": "seconds",
            "series": [
                {
                    "labels": {"path": "/a", "zone": "b"},
                    "buckets": {"0.1": 2.0, "1.0": 4.0, "+Inf": 5.0},
                    "count": 5.0,
                    "sum": 2.5,
                }
            ],
        },
        {
            "name": "mode",
            "type": "stateset",
            "help": "",
            "unit": "",
            "series": [{"labels": {}, "states": {"on": 1.0, "off": 0.0}}],
        },
        {
            "name": "size",
            "type": "summary",
            "help": "",
            "unit": "",
            "series": [{"labels": {}, "count": 2.0, "sum": "+Inf"}],
        },
    ]


def test_json_has_what_only_collectors_know():
    summary = SummaryMetricFamily("s", "Help.")
    summary.add_sample("s", {"quantile": "0.5"}, 1.5)
    summary.add_sample("s_created", {}, 12.5)
    gauge_histogram = GaugeHistogramMetricFamily("gh", "Help.", buckets=[("+Inf", 2)], gsum_value=3)
    counted = SampleFamily("c", "", COUNTER, [Sample("c_total", {}, 1.0, 5.5, Exemplar({"trace": "x"}, 1.0, 2.0))])
    series = [family["series"] for family in read_json([summary, gauge_histogram, counted])]
    assert series == [
        [{"labels": {}, "quantiles": {"0.5": 1.5}, "created": 12.5}],
        [{"labels": {}, "buckets": {"+Inf": 2.0}, "count": 2.0, "sum": 3.0}],
        [
            {
                "labels": {},
                "value": 1.0,
                "timestamp": 5.5,
                "exemplars": {"value": {"labels": {"trace": "x"}, "value": 1.0, "timestamp": 2.0}},
            }
        ],
    ]


@unhurried
@given(pages())
def test_json_is_valid_and_has_every_series(page):
    families = read_json(page)
    assert [family["name"] for family in families] == [snapshot.family.name for snapshot in page]
    for family, snapshot in zip(families, page, strict=True):
        assert [series["labels"] for series in family["series"]] == [dict(pairs) for pairs in snapshot.labels]


@unhurried
@given(pages())
def test_csv_has_a_row_for_each_sample(page):
    rows = list(csv.DictReader(StringIO(render_csv(page).decode(), newline="")))
    samples = [(snapshot.family, sample) for snapshot in page for sample in as_metric(snapshot).samples]
    assert len(rows) == len(samples)
    for row, (family, sample) in zip(rows, samples, strict=True):
        assert (row["family"], row["type"], row["sample"]) == (family.name, family.type, sample.name)
        value = float(row["value"])
        assert value == sample.value or isnan(value)


def test_csv_can_be_read_whatever_a_label_holds():
    odd = FamilySnapshot(Family("g", GAUGE), SeriesLabels([(("a", "x\0y"),)]), np.ones(1))
    (row,) = csv.DictReader(StringIO(render_csv([odd]).decode(), newline=""))
    assert row["labels"] == 'a="x\ufffdy"'


def test_csv_writes_labels_as_prometheus_does():
    odd = FamilySnapshot(Family("g", GAUGE), SeriesLabels([(("a", 'x,"y"\n'), ("b", "z"))]), np.ones(1))
    (row,) = csv.DictReader(StringIO(render_csv([odd]).decode(), newline=""))
    assert row["labels"] == r'a="x,\"y\"\n",b="z"'
    assert list(row) == ["family", "type", "unit", "sample", "labels", "value", "timestamp"]
