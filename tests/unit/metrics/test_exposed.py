"""From the metric to the page: what prometheus_client's parsers read of it, beside what prometheus_client writes."""

from __future__ import annotations

import prometheus_client
import pytest
from prometheus_client import openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

import shm_metrics
from shm_metrics import generate_latest

SPECIAL = 'a"b\\c\nd é\U0001f600'


def use(library, **options):
    """The same use of every type, of either library."""
    jobs = library.Counter("jobs", "Jobs\\done.\nAll.", ["shop", "kind"], namespace="app", **options)
    jobs.labels("a", "x").inc(3)
    jobs.labels(kind=SPECIAL, shop="").inc(0.5)
    library.Counter("plain", "Words.", unit="bytes", **options).inc(1e21)
    library.Counter("untouched", "", **options)
    depth = library.Gauge("depth", "Words.", ["queue"], **options)
    depth.labels("q").set(-1.5)
    depth.labels("r").set(float("inf"))
    depth.labels("s").set(float("nan"))
    seconds = library.Histogram("wait", "Words.", ["shop"], unit="seconds", buckets=[0.1, 1, 10], **options)
    for value in (0.05, 0.5, 1, 99):
        seconds.labels("a").observe(value)
    library.Histogram("empty", "Words.", **options)
    size = library.Summary("size", "Words.", ["shop"], **options)
    size.labels("a").observe(10)
    size.labels("a").observe(5)
    library.Info("build", "Words.", **options).info({"version": "1", "branch": SPECIAL})
    light = library.Enum("light", "Words.", ["street"], states=["red", "green"], **options)
    light.labels("a").state("green")
    light.labels("b")


@pytest.fixture
def ours(make_backend):
    backend = make_backend(process_metrics=False)
    use(shm_metrics, registry=backend)
    return backend


@pytest.fixture
def theirs():
    registry = prometheus_client.CollectorRegistry()
    use(prometheus_client, registry=registry)
    return registry


def families(text, read):
    """name -> (type, documentation, unit, sample -> value), without what they say of themselves and of when."""
    found = {}
    for family in read(text):
        if family.name.startswith("shm_metrics_") or family.name.endswith("_created"):
            continue
        samples = {
            (sample.name, *sorted(sample.labels.items())): repr(sample.value)
            for sample in family.samples
            if not sample.name.endswith("_created")
        }
        found[family.name] = family.type, family.documentation, family.unit, samples
    return found


def test_the_text_format_says_what_prometheus_client_says(ours, theirs):
    mine = families(generate_latest(ours).decode(), read_text)
    assert mine == families(prometheus_client.generate_latest(theirs).decode(), read_text)
    assert len(mine) == 9


def test_openmetrics_says_what_prometheus_client_says(ours, theirs):
    mine = families(generate_latest(ours, openmetrics=True).decode(), read_openmetrics)
    assert mine == families(openmetrics.exposition.generate_latest(theirs).decode(), read_openmetrics)
    assert len(mine) == 9


def test_the_page_has_one_head_a_family_and_ends_as_the_format_wants_it(ours):
    text = generate_latest(ours).decode()
    heads = [line for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(heads) == len(set(heads))
    assert text.endswith("\n")
    assert generate_latest(ours, openmetrics=True).endswith(b"# EOF\n")


@pytest.mark.parametrize("openmetrics_too", [False, True])
def test_a_page_reads_the_same_after_removals_and_overflows(make_backend, openmetrics_too):
    backend = make_backend(slots=512, process_metrics=False)
    read = read_openmetrics if openmetrics_too else read_text
    jobs = shm_metrics.Counter("jobs", "Words.", ["n"], registry=backend)
    for n in range(600):
        jobs.labels(n).inc()
    jobs.remove(0)
    found = families(generate_latest(backend, openmetrics=openmetrics_too).decode(), read)["jobs"][3]
    assert ("jobs_total", ("n", "0")) not in found
    assert sum(float(value) for value in found.values()) == 599.0
    assert ("jobs_total", ("overflow", "true")) in found


def test_the_default_backend_is_the_one_that_is_shown(metrics_backend):
    shm_metrics.Counter("jobs", "").inc()
    assert b"\njobs_total 1.0\n" in generate_latest()


def test_a_backend_without_metrics_shows_itself(make_backend):
    text = generate_latest(make_backend()).decode()
    names = {family.name for family in read_text(text)}
    assert {"shm_metrics_series", "shm_metrics_workers", "process_cpu_seconds"} <= names
