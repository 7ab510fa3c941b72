"""Registries and pages with the drop-in installed: every one of them shows all workers."""

from __future__ import annotations

import asyncio
import inspect

import prometheus_client
import pytest
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    make_asgi_app,
    make_wsgi_app,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text


def page(registry=REGISTRY):
    """name -> type and samples, of the text format."""
    text = generate_latest(registry).decode()
    return {family.name: family for family in parse_text(text)}


def collected(registry=REGISTRY):
    return {metric.name: metric for metric in registry.collect()}


@pytest.fixture
def multiprocess(installed):
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return registry


@pytest.fixture
def collector():
    """A custom collector, registered in the default registry."""

    class Answer:
        def collect(self):
            return [GaugeMetricFamily("custom_answer", "", value=42)]

    registered = Answer()
    REGISTRY.register(registered)
    yield registered
    REGISTRY.unregister(registered)


def test_the_default_registry_shows_what_any_process_counted(installed, other):
    other.counter("elsewhere", path="/x").inc(3)
    assert b'elsewhere_total{path="/x"} 3.0' in generate_latest()
    assert REGISTRY.get_sample_value("elsewhere_total", {"path": "/x"}) == 3


def test_another_registry_shows_its_own_metrics_with_everybodys_totals(installed, other):
    registry = CollectorRegistry()
    Counter("mine", "", ["a"], registry=registry).labels("x").inc()
    other.counter("mine", a="x").inc(2)
    other.counter("elsewhere").inc()
    found = page(registry)
    assert set(found) == {"mine", "mine_created"}
    assert [sample.value for sample in found["mine"].samples] == [3]


def test_a_multiprocess_collector_shows_everything_with_and_without_its_directory(
    installed, other, multiprocess, monkeypatch, tmp_path, collector
):
    other.histogram("h", buckets=[1, 2]).observe(1.5)
    for directory in (None, str(tmp_path)):
        if directory is None:
            monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
        else:
            monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", directory)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, directory)
        assert registry.get_sample_value("h_bucket", {"le": "2.0"}) == 1
        assert registry.get_sample_value("custom_answer") == 42
        assert b"h_sum 1.5" in generate_latest(registry)
        assert b"custom_answer 42.0" in generate_latest(registry)


def test_a_path_that_is_no_directory_is_refused(installed, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="not a directory"):
        MultiProcessCollector(CollectorRegistry(), str(tmp_path / "file"))


def test_a_family_that_is_in_the_segment_is_on_the_page_once(installed, collector, multiprocess):
    counter = Counter("once", "", registry=REGISTRY)
    try:
        counter.inc()
        for registry in (REGISTRY, multiprocess):
            text = generate_latest(registry).decode()
            assert text.count("# TYPE once_total ") == 1
            assert text.count("# TYPE custom_answer ") == 1
            names = [metric.name for metric in registry.collect()]
            assert len(names) == len(set(names))
    finally:
        REGISTRY.unregister(counter)


def test_our_own_metrics_in_the_default_registry_are_on_the_page_once(installed):
    import shm_metrics

    counter = shm_metrics.Counter("ours", registry=installed)
    REGISTRY.register(counter)
    try:
        counter.inc()
        assert generate_latest().decode().count("ours_total 1.0") == 1
    finally:
        REGISTRY.unregister(counter)


def test_a_page_may_come_while_one_of_our_own_metrics_is_being_made(installed, metrics_backend):
    import shm_metrics

    class ScrapedAtOnce(CollectorRegistry):
        def register(self, collector):
            super().register(collector)
            pages.append(generate_latest(self))

    pages = []
    registry = ScrapedAtOnce()
    MultiProcessCollector(registry)
    shm_metrics.Counter("ours", registry=registry).inc()
    assert b"ours_total" not in pages[-1]
    assert b"ours_total 1.0" in generate_latest(registry)


def test_the_runtime_is_everybodys(installed, make_backend):
    make_backend()  # a second worker
    import gc

    gc.collect()
    for found in (page(), collected()):
        assert found["shm_metrics_workers"].samples[0].value == 2
        assert found["process_resident_memory_bytes"].samples[0].value > 0
        assert found["python_info"].samples[0].labels["implementation"] == "CPython"
        collections = {s.labels["generation"]: s.value for s in found["python_gc_collections"].samples}
        assert collections["2"] >= 1


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("PROCESS_COLLECTOR", "process_open_fds"),
        ("GC_COLLECTOR", "python_gc_collections"),
        ("PLATFORM_COLLECTOR", "python_info"),
    ],
)
def test_a_collector_that_the_application_took_out_stays_out(installed, multiprocess, name, family):
    collector = getattr(prometheus_client, name)
    REGISTRY.unregister(collector)
    try:
        for registry in (REGISTRY, multiprocess):
            assert family not in page(registry)
            assert family not in collected(registry)
    finally:
        REGISTRY.register(collector)
    assert family in page()


def test_a_metric_taken_out_of_the_default_registry_is_not_on_its_page(installed):
    counter = Counter("taken_out", "", registry=REGISTRY)
    counter.inc()
    REGISTRY.unregister(counter)
    assert "taken_out" not in page()
    REGISTRY.register(counter)
    try:
        assert page()["taken_out"].samples[0].value == 1
    finally:
        REGISTRY.unregister(counter)


def test_another_process_collector_shows_all_workers_under_its_own_prefix(installed, make_backend):
    make_backend()
    registry = CollectorRegistry()
    ProcessCollector(namespace="app", registry=registry)
    both, one = registry.get_sample_value("app_process_open_fds"), REGISTRY.get_sample_value("process_open_fds")
    assert both == one > 0


def test_a_filter_by_name_leaves_the_rest_out(installed, other, multiprocess, collector):
    other.counter("wanted").inc()
    other.counter("unwanted").inc()
    for registry in (REGISTRY, multiprocess):
        restricted = registry.restricted_registry(["wanted_total", "custom_answer"])
        assert set(page(restricted)) == {"wanted", "custom_answer"}
        assert set(collected(restricted)) == {"wanted", "custom_answer"}


def test_openmetrics_is_valid_and_complete(installed, other):
    other.counter("c", a='quo"te').inc()
    other.histogram("h", buckets=[1]).observe(0.5)
    found = {family.name: family for family in parse_openmetrics(openmetrics.generate_latest(REGISTRY).decode())}
    assert found["c"].samples[0].labels == {"a": 'quo"te'}
    assert [sample.name for sample in found["h"].samples] == ["h_bucket", "h_bucket", "h_count", "h_sum"]


@pytest.mark.parametrize("escaping", ["underscores", "allow-utf-8", "dots", "values"])
def test_names_beyond_prometheus_old_ones_are_escaped_as_asked(installed, escaping):
    if "escaping" not in inspect.signature(generate_latest).parameters:
        with pytest.raises(ValueError):  # an earlier release, which knows no such names
            Counter("dotted.name", "", registry=REGISTRY)
        return
    counter = Counter("dotted.name", "", registry=REGISTRY)
    try:
        counter.inc()
        expected = {
            "underscores": b"dotted_name_total 1.0",
            "allow-utf-8": b'{"dotted.name_total"} 1.0',
            "dots": b"dotted_dot_name__total 1.0",
            "values": b"U__dotted_2e_name__total 1.0",
        }
        assert expected[escaping] in generate_latest(REGISTRY, escaping)
    finally:
        REGISTRY.unregister(counter)


def test_target_info_stays_on_the_page(installed):
    REGISTRY.set_target_info({"service": "shop"})
    try:
        assert b'target_info{service="shop"} 1.0' in generate_latest()
        assert REGISTRY.get_sample_value("target_info", {"service": "shop"}) == 1
    finally:
        REGISTRY.set_target_info(None)


def test_a_collector_that_fails_costs_its_own_families_only(installed, caplog):
    class Broken:
        def collect(self):
            raise RuntimeError("no database")

        def describe(self):
            return []

    broken = Broken()
    REGISTRY.register(broken)
    try:
        found = page()
        assert found["shm_metrics_collector_errors"].samples[0].value >= 0
        assert "no database" in caplog.text
    finally:
        REGISTRY.unregister(broken)


def test_a_gauge_that_nobody_has_set_shows_nought_in_its_own_process(installed, multiprocess):
    gauge = Gauge("unset", "", multiprocess_mode="livemax", registry=None)
    assert multiprocess.get_sample_value("unset") == 0
    gauge.set(3)
    assert multiprocess.get_sample_value("unset") == 3


def test_histograms_with_negative_bounds_have_no_sum(installed):
    registry = CollectorRegistry()
    Histogram("negative", "", buckets=[-1, 1], registry=registry).observe(0)
    assert registry.get_sample_value("negative_count") == 1
    assert registry.get_sample_value("negative_sum") is None


# -- over HTTP --------------------------------------------------------------------------------------------------------


def test_the_wsgi_application_serves_all_workers(installed, other):
    other.counter("elsewhere").inc()
    told = []
    body = make_wsgi_app()(
        {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "QUERY_STRING": ""}, lambda *args: told.append(args)
    )
    assert told[0][0] == "200 OK"
    assert b"elsewhere_total 1.0" in b"".join(body)


def test_the_asgi_application_serves_all_workers(installed, other):
    other.counter("elsewhere").inc()
    sent = []

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "query_string": b"name[]=elsewhere_total", "headers": [], "method": "GET"}
    asyncio.run(make_asgi_app()(scope, receive, send))
    assert sent[0]["status"] == 200
    assert b"elsewhere_total 1.0" in sent[1]["body"]


def test_the_http_server_serves_all_workers(installed, other):
    from urllib.request import urlopen

    other.counter("elsewhere").inc()
    server, thread = start_http_server(0, addr="127.0.0.1")
    try:
        with urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=10) as answer:
            assert b"elsewhere_total 1.0" in answer.read()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
