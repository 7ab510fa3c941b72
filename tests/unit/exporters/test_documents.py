"""The exporters that give a document: all of a histogram is in each of them."""

from __future__ import annotations

import csv
import io
import json

import pytest

from shm_metrics import ExportError, Sample, SampleFamily


@pytest.fixture
def counted(backend):
    backend.counter("orders_total", shop="berlin").inc(3)
    latency = backend.histogram("latency_seconds", buckets=[0.1, 1], path="/a")
    for value in (0.05, 0.5, 5):
        latency.observe(value)
    backend.gauge("depth").set(0)
    return backend


def test_text_and_openmetrics_are_the_pages_of_a_scrape(counted):
    for name, end in (("text", ""), ("openmetrics", "# EOF\n")):
        page = counted.export_as(name, names=["latency_seconds"]).decode()
        assert page == (
            "# HELP latency_seconds \n# TYPE latency_seconds histogram\n"
            'latency_seconds_bucket{le="0.1",path="/a"} 1.0\n'
            'latency_seconds_bucket{le="1.0",path="/a"} 2.0\n'
            'latency_seconds_bucket{le="+Inf",path="/a"} 3.0\n'
            'latency_seconds_count{path="/a"} 3.0\n'
            'latency_seconds_sum{path="/a"} 5.55\n'
            f"{end}"
        )


def test_created_is_shown_where_it_is_asked_for(counted):
    assert b"orders_created{" not in counted.export_as("openmetrics")
    assert b"orders_created{" in counted.export_as("openmetrics", created=True)


BUCKETS = {"0.1": 1.0, "1.0": 2.0, "+Inf": 3.0}


def test_json_has_buckets_count_and_sum(counted):
    families = {each["name"]: each for each in json.loads(counted.export_as("json"))["families"]}
    assert families["latency_seconds"]["series"] == [
        {"labels": {"path": "/a"}, "buckets": BUCKETS, "count": 3.0, "sum": 5.55}
    ]


def test_json_lines_are_one_object_a_series(counted):
    document = counted.export_as("jsonl")
    assert document.endswith(b"}\n")
    found = {each["name"]: each for each in map(json.loads, document.decode().splitlines())}
    assert found["orders"] == {
        "name": "orders", "type": "counter", "unit": "", "labels": {"shop": "berlin"}, "value": 3.0,
    }  # fmt: skip
    assert found["depth"]["value"] == 0
    assert found["latency_seconds"] == {
        "name": "latency_seconds", "type": "histogram", "unit": "",
        "labels": {"path": "/a"}, "buckets": BUCKETS, "count": 3.0, "sum": 5.55,
    }  # fmt: skip


def test_a_line_break_in_a_label_does_not_break_the_line(backend):
    backend.counter("x", label="a\nb\u2028c").inc()
    lines = backend.export_as("jsonl", names="x").split(b"\n")
    assert [json.loads(line)["labels"] for line in lines[:-1]] == [{"label": "a\nb\u2028c"}]


def test_csv_has_a_row_for_each_bucket_the_count_and_the_sum(counted):
    rows = list(csv.DictReader(io.StringIO(counted.export_as("csv", names="latency_seconds").decode())))
    assert [(row["sample"], row["labels"], row["value"]) for row in rows] == [
        ("latency_seconds_bucket", 'le="0.1",path="/a"', "1.0"),
        ("latency_seconds_bucket", 'le="1.0",path="/a"', "2.0"),
        ("latency_seconds_bucket", 'le="+Inf",path="/a"', "3.0"),
        ("latency_seconds_count", 'path="/a"', "3.0"),
        ("latency_seconds_sum", 'path="/a"', "5.55"),
    ]


@pytest.mark.parametrize("name", ["text", "openmetrics", "json", "jsonl", "csv"])
def test_half_a_document_is_a_failure_unless_it_was_asked_for(backend, name):
    backend.counter("x").inc()
    clash = SampleFamily("x_total", "", "gauge", [Sample("x_total", {}, 1.0)])
    backend.register_collector(lambda: [clash])
    with pytest.raises(ExportError, match="not all families can be shown: x_total: "):
        backend.export_as(name)
    assert b"x" in backend.export_as(name, partial=True)
