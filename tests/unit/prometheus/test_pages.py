"""Registries and pages with the drop-in installed: every one of them shows all workers."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading

import prometheus_client
import pytest
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    Summary,
    generate_latest,
    make_asgi_app,
    make_wsgi_app,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample


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


def test_what_was_unregistered_from_the_default_registry_is_on_pages_of_a_multiprocess_collector(
    installed, multiprocess
):
    """As in multiprocess mode, whose collector shows whatever was counted."""
    counter, gauge = Counter("taken_out", ""), Gauge("never_set", "", multiprocess_mode="livesum")
    counter.inc()
    REGISTRY.unregister(counter)
    REGISTRY.unregister(gauge)
    assert not {"taken_out", "never_set"} & (set(page()) | set(collected()))
    for found in (page(multiprocess), collected(multiprocess)):
        assert found["taken_out"].samples[0].value == 1
    assert page(multiprocess.restricted_registry(["taken_out_total"]))["taken_out"].samples[0].value == 1


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
    asked = "escaping" in inspect.signature(generate_latest).parameters
    try:
        counter = Counter("dotted.name", "", registry=REGISTRY)
    except ValueError:
        assert not asked  # a release before 0.22, which knows no such names
        return
    try:
        counter.inc()
        if not asked:  # 0.22
            assert b'{"dotted.name_total"} 1.0' in generate_latest(REGISTRY)
            assert b'{"dotted.name_total"} 1.0' in openmetrics.generate_latest(REGISTRY)
            return
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


def test_a_multiprocess_collector_may_be_put_in_the_default_registry(installed, other):
    before = Counter("counted_before", "", registry=None)
    before.inc()
    collector = MultiProcessCollector(REGISTRY)
    try:
        later = Counter("counted_before", "", registry=REGISTRY)
        REGISTRY.unregister(later)
        REGISTRY.register(later)
        assert generate_latest().decode().count("counted_before_total 1.0") == 1
        REGISTRY.unregister(later)
    finally:
        REGISTRY.unregister(collector)


def test_a_gauge_that_is_set_when_it_is_collected_shows_what_it_was_set_to(installed):
    class Depth(Gauge):
        def collect(self):
            self.set(5)
            return super().collect()

    in_default, other = Depth("depth", "", registry=REGISTRY), CollectorRegistry()
    Depth("depth_elsewhere", "", registry=other)
    try:
        assert page()["depth"].samples[0].value == 5
        assert [sample.value for sample in collected()["depth"].samples] == [5]
        assert page(other)["depth_elsewhere"].samples[0].value == 5
    finally:
        REGISTRY.unregister(in_default)


def test_a_collector_that_sets_a_gauge_is_run_before_the_gauge_is_read(installed):
    gauge = Gauge("set_by_a_collector", "", registry=REGISTRY)

    class Setting:
        def collect(self):
            gauge.inc()
            return []

    setting = Setting()
    REGISTRY.register(setting)
    gauge.set(0)
    try:
        assert page()["set_by_a_collector"].samples[0].value == 1
    finally:
        REGISTRY.unregister(setting)
        REGISTRY.unregister(gauge)


def test_a_subclass_that_adds_to_what_is_collected_starts_from_all_workers(installed, other):
    class Named(Counter):
        def collect(self):
            for metric in super().collect():
                metric.add_sample("named_extra", {}, 1)
                yield metric

    registry = CollectorRegistry()
    Named("named", "", registry=registry).inc()
    other.counter("named").inc(2)
    assert registry.get_sample_value("named_total") == 3
    assert registry.get_sample_value("named_extra") == 1


class Median(Summary):
    """As packages write summaries that have quantiles."""

    def _metric_init(self):
        super()._metric_init()
        self._seen = []

    def observe(self, amount):
        super().observe(amount)
        self._seen.append(amount)

    def _child_samples(self):
        median = Sample("", {"quantile": "0.5"}, sorted(self._seen)[len(self._seen) // 2], None, None)
        return [median, *super()._child_samples()]


@pytest.mark.parametrize("default", [True, False])
def test_samples_that_a_subclass_makes_stand_beside_the_totals_of_all_workers(installed, other, default):
    registry = REGISTRY if default else CollectorRegistry()
    median = Median("median", "", ["a"], registry=registry)
    try:
        for amount in (1, 2, 9):
            median.labels("x").observe(amount)
        other.summary("median", a="x").observe(8)
        other.summary("median", a="y").observe(1)
        assert registry.get_sample_value("median", {"a": "x", "quantile": "0.5"}) == 2
        assert registry.get_sample_value("median_count", {"a": "x"}) == 4
        assert registry.get_sample_value("median_sum", {"a": "x"}) == 20
        assert generate_latest(registry).decode().count('median_count{a="x"} 4.0') == 1
        if default:
            assert registry.get_sample_value("median_count", {"a": "y"}) == 1
    finally:
        if default:
            REGISTRY.unregister(median)


def test_a_histogram_that_makes_its_samples_itself_makes_them_of_all_workers(installed, other):
    class Own(Histogram):
        def _child_samples(self):
            return super()._child_samples()

    registry = CollectorRegistry()
    Own("own", "", buckets=[1, 2], registry=registry).observe(0.5)
    other.histogram("own", buckets=[1, 2]).observe(1.5)
    assert registry.get_sample_value("own_bucket", {"le": "1.0"}) == 1
    assert registry.get_sample_value("own_bucket", {"le": "2.0"}) == 2
    assert registry.get_sample_value("own_sum") == 2


def test_native_histograms_of_a_collector_are_on_the_page_of_the_version_that_has_them(installed):
    from prometheus_client import samples as native

    if "version" not in inspect.signature(openmetrics.generate_latest).parameters:
        return  # an earlier release, which cannot write them

    class Native:
        def collect(self):
            metric = Metric("native", "", "histogram")
            value = native.NativeHistogram(2, 3.0, 0, 0.001, 1, (native.BucketSpan(0, 1),), None, (1,), None)
            metric.add_sample("native", {}, None, native_histogram=value)
            return [metric]

    collector = Native()
    REGISTRY.register(collector)
    try:
        assert b"native {count:2,sum:3.0," in openmetrics.generate_latest(REGISTRY, version="2.0.0")
        assert b"native {" not in openmetrics.generate_latest(REGISTRY)
        assert b"# EOF" in openmetrics.generate_latest(REGISTRY)
    finally:
        REGISTRY.unregister(collector)


@pytest.mark.parametrize("made", ["children", "metrics"])
def test_pages_may_be_made_while_other_threads_make_children_and_metrics(installed, multiprocess, made):
    parent = Counter("made_at_once", "", ["n"], registry=None)
    failed = []

    def make(thread):
        for n in range(300):
            if made == "children":
                parent.labels(f"{thread} {n}").inc()
            else:
                Counter(f"made_{thread}_{n}", "", registry=multiprocess).inc()

    def scrape():
        try:
            while any(thread.is_alive() for thread in makers):
                for registry in (REGISTRY, multiprocess):
                    list(registry.collect())
        except RuntimeError as error:
            failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        makers = [threading.Thread(target=make, args=(n,)) for n in range(2)]
        scraper = threading.Thread(target=scrape)
        for thread in (*makers, scraper):
            thread.start()
        for thread in (*makers, scraper):
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failed == []


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


# -- to a file and to a gateway ---------------------------------------------------------------------------------------


def test_a_text_file_and_a_push_hold_all_workers(installed, other, tmp_path):
    other.counter("elsewhere").inc(3)
    prometheus_client.write_to_textfile(str(tmp_path / "metrics.prom"), REGISTRY)
    pushed = []

    def handler(url, method, timeout, headers, data):
        return lambda: pushed.append((method, data))

    prometheus_client.push_to_gateway("gateway:9091", job="x", registry=REGISTRY, handler=handler)
    ((method, data),) = pushed
    assert method == "PUT"
    for page in (data, (tmp_path / "metrics.prom").read_bytes()):
        assert b"elsewhere_total 3.0" in page
