"""Pushes to what others run: a StatsD daemon adds the deltas up, and a collector reads and passes on its OTLP."""

from __future__ import annotations

import pytest

from shm_metrics import ExportError
from shm_metrics.exporters import exporter
from tests.support.cache_servers import HOST
from tests.support.receivers import Collector, StatsdDaemon
from tests.support.waiting import until
from tests.system.jobs.conftest import required

pytestmark = pytest.mark.slow


@pytest.fixture
def statsd(tmp_path_factory):
    server = StatsdDaemon(tmp_path_factory.mktemp("statsd"))
    yield server
    server.stop()


@pytest.fixture
def collector(tmp_path_factory, receiver):
    server = Collector(tmp_path_factory.mktemp("collector"), receiver.url.removesuffix("/v1/metrics"))
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("dialect", "orders", "bucket", "count"),
    [
        ("statsd", "shop.orders_total.shop.a_b", "shop.seconds_bucket.le.1_0", "shop.seconds_count"),
        ("dogstatsd", "shop.orders_total;shop=a-b", "shop.seconds_bucket;le=1.0", "shop.seconds_count"),
    ],
)
def test_a_statsd_daemon_has_the_totals_of_the_segment(make, statsd, dialect, orders, bucket, count):
    a, b = make(), make()
    options = {"names": ["orders", "seconds", "depth"], "dialect": dialect, "prefix": "shop."}
    to = exporter("statsd", host=HOST, port=statsd.udp, **options)
    for number in range(1, 11):
        for backend in (a, b):
            backend.counter("orders_total", shop="a/b").inc(number / 2)
            backend.histogram("seconds", buckets=[1]).observe(number % 2 * 2)
        a.gauge("depth").set(4 - number)
        to.export((a, b)[number % 2])
    until(lambda: statsd.ask("counters").get(orders) == 55, "all of it has come")
    told = statsd.ask("counters")
    assert (told[bucket], told[count], told["shop.seconds_sum"]) == (10, 20, 20)
    assert told["statsd.bad_lines_seen"] == 0
    assert statsd.ask("gauges") == {"shop.depth": -6}


def test_a_collector_reads_what_it_is_sent(backend, collector, receiver):
    required("opentelemetry.proto")
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    backend.counter("orders_total", "Orders", shop="berlin").inc(3, exemplar={"trace_id": "0" * 31 + "1"})
    backend.histogram("latency_seconds", unit="seconds", buckets=[0.1, 1]).observe(0.5)
    backend.gauge("depth").set(-2)
    backend.summary("size").observe(4)
    endpoint = f"http://{HOST}:{collector.port}/v1/metrics"
    for compress in (True, False):
        receiver.requests.clear()
        sent = backend.export_as("otlp", endpoint=endpoint, resource={"team": "x"}, compress=compress)
        until(lambda: receiver.requests, "it is passed on")
        ((_, path, _, passed_on),) = receiver.requests
        assert path == "/v1/metrics"
        assert ExportMetricsServiceRequest.FromString(passed_on) == ExportMetricsServiceRequest.FromString(sent)
    with pytest.raises(ExportError, match="404"):
        backend.export_as("otlp", endpoint=f"http://{HOST}:{collector.port}/other")
