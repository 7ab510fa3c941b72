"""`name[]`: prometheus_client's samples, and whole families by their name."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict

from shm_metrics.exposition import filter_families, render_openmetrics, render_text
from tests.support.families import counter, histogram


def shown(names: list[str]) -> list[str]:
    text = render_text(filter_families([counter(), histogram()], names)).decode()
    return [line.partition("{")[0] for line in text.splitlines() if not line.startswith("#")]


def test_a_sample_name_keeps_its_samples():
    assert shown(["jobs_total"]) == ["jobs_total"]
    assert shown(["latency_seconds_bucket"]) == ["latency_seconds_bucket"] * 3
    assert shown(["latency_seconds_sum", "jobs_total"]) == ["jobs_total", "latency_seconds_sum"]


def test_a_family_name_keeps_the_whole_family():
    assert shown(["jobs"]) == ["jobs_total"]
    assert len(shown(["latency_seconds"])) == 5


def test_other_names_keep_nothing():
    assert shown([]) == []
    assert shown(["job", "jobs_created", "latency", ""]) == []


def test_what_is_wholly_wanted_stays_the_same_object():
    page = [counter(), histogram()]
    assert filter_families(page, ["jobs_total"])[0] is page[0]
    every = ["latency_seconds_bucket", "latency_seconds_count", "latency_seconds_sum"]
    assert filter_families(page, every)[0] is page[1]


def test_a_partly_wanted_family_keeps_its_unit():
    text = render_openmetrics(filter_families([histogram()], ["latency_seconds_bucket"])).decode()
    assert "# UNIT latency_seconds seconds" in text
    assert len(list(strict(text))) == 1


def test_sample_names_choose_what_prometheus_client_chooses():
    registry = CollectorRegistry()
    Counter("c", "C.", registry=registry).inc()
    Gauge("g", "G.", registry=registry).set(1)
    Histogram("h", "H.", registry=registry).observe(1)
    every = {sample.name for metric in registry.collect() for sample in metric.samples}
    for name in every:
        ours = render_text(filter_families(registry.collect(), [name]))
        assert ours == generate_latest(registry.restricted_registry([name])), name


def test_a_collectors_family_is_chosen_by_either_name():
    metric = CounterMetricFamily("c", "C.", value=1, created=2)
    assert filter_families([metric], ["c"]) == [metric]
    (part,) = filter_families([metric], ["c_total"])
    assert [sample.name for sample in part.samples] == ["c_total"]
