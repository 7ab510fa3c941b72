"""What a real HTTP receiver is sent, parsed with OpenTelemetry's own protobuf classes."""

from __future__ import annotations

import math
import os
import socket

import pytest

from shm_metrics import ExportError, InvalidMetricError, Sample, SampleFamily
from shm_metrics.exporters import PushSchedule, exporter
from tests.support.cache_servers import HOST, free_port, missing

try:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsServiceRequest,
        ExportMetricsServiceResponse,
    )
    from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE as CUMULATIVE
except ImportError:
    ExportMetricsServiceRequest = None


@pytest.fixture(autouse=True)
def proto():
    if ExportMetricsServiceRequest is None:
        missing("opentelemetry-proto", "pip install opentelemetry-proto")


@pytest.fixture
def export(backend, receiver, environment):
    """export(**options): the resource's attributes, and the metrics by name."""

    def export(**options):
        sent = backend.export_as("otlp", endpoint=receiver.url, **options)
        method, path, headers, body = receiver.requests[-1]
        assert (method, path, headers["Content-Type"]) == ("POST", "/v1/metrics", "application/x-protobuf")
        assert body == sent
        (resource,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
        (scope,) = resource.scope_metrics
        assert scope.scope.name == "shm_metrics"
        return attributes(resource.resource), {metric.name: metric for metric in scope.metrics}

    return export


def attributes(point):
    return {each.key: each.value.string_value for each in point.attributes}


def test_a_counter_is_a_cumulative_monotonic_sum_since_its_series_began(backend, export):
    backend.counter("orders_total", "Orders", shop="berlin").inc(3)
    _, metrics = export()
    orders = metrics["orders_total"]
    assert (orders.description, orders.sum.is_monotonic, orders.sum.aggregation_temporality) == (
        "Orders", True, CUMULATIVE,
    )  # fmt: skip
    (point,) = orders.sum.data_points
    assert (attributes(point), point.as_double) == ({"shop": "berlin"}, 3.0)
    began = backend.snapshot().family("orders").created[0]
    assert point.start_time_unix_nano == int(began * 1e9)
    assert backend.created_at * 1e9 - 1e6 < point.start_time_unix_nano <= point.time_unix_nano


def test_a_counter_that_was_reset_has_a_new_start(backend, export):
    backend.counter("orders_total").inc(3)
    before = export()[1]["orders_total"].sum.data_points[0]
    backend.clear()
    backend.counter("orders_total").inc(1)
    after = export()[1]["orders_total"].sum.data_points[0]
    assert after.as_double == 1
    assert before.time_unix_nano <= after.start_time_unix_nano


def test_a_counter_of_unknown_age_is_as_old_as_the_segment(backend, export):
    backend.register_collector(lambda: [SampleFamily("seen", "", "counter", [Sample("seen_total", {}, 2.0)])])
    (point,) = export()[1]["seen_total"].sum.data_points
    assert point.start_time_unix_nano == int(backend.created_at * 1e9)


def test_a_gauge_is_a_gauge_and_zero_is_a_value(backend, export):
    backend.gauge("depth").set(0)
    (point,) = export()[1]["depth"].gauge.data_points
    assert point.WhichOneof("value") == "as_double"
    assert point.as_double == 0


def test_a_histogram_has_explicit_bounds_and_counts_that_are_not_cumulative(backend, export):
    seconds = backend.histogram("latency_seconds", unit="seconds", buckets=[0.1, 1], path="/a")
    for value in (0.05, 0.5, 0.6, 5):
        seconds.observe(value)
    latency = export()[1]["latency_seconds"]
    assert (latency.unit, latency.histogram.aggregation_temporality) == ("s", CUMULATIVE)
    (point,) = latency.histogram.data_points
    assert attributes(point) == {"path": "/a"}
    assert list(point.explicit_bounds) == [0.1, 1]
    assert list(point.bucket_counts) == [1, 2, 1]
    assert (point.count, point.sum) == (4, 6.15)


def test_a_histogram_of_what_may_be_below_zero_has_no_sum(backend, export):
    backend.histogram("temperature", buckets=[-1, 0]).observe(-5)
    (point,) = export()[1]["temperature"].histogram.data_points
    assert (point.HasField("sum"), list(point.bucket_counts)) == (False, [1, 0, 0])


def test_a_summary_is_a_summary(backend, export):
    backend.summary("size").observe(4)
    (point,) = export()[1]["size"].summary.data_points
    assert (point.count, point.sum) == (1, 4)


def test_an_exemplar_keeps_its_trace(backend, export):
    trace = "0af7651916cd43dd8448eb211c80319c"
    backend.histogram("latency_seconds", buckets=[1]).observe(0.5, exemplar={"trace_id": trace, "user": "7"})
    (point,) = export()[1]["latency_seconds"].histogram.data_points
    (exemplar,) = point.exemplars
    assert (exemplar.trace_id.hex(), exemplar.as_double) == (trace, 0.5)
    assert {each.key for each in exemplar.filtered_attributes} == {"user"}


def test_the_resource_says_whose_metrics_these_are(backend, export):
    backend.counter("orders").inc()
    resource, _ = export(resource={"service.name": "shop", "env": "prod"})
    assert resource == {
        "service.name": "shop",
        "env": "prod",
        "service.instance.id": backend.instance_id,
        "host.name": socket.gethostname(),
    }


@pytest.mark.parametrize("compress", [True, False])
def test_headers_go_along(backend, receiver, compress):
    backend.export_as("otlp", endpoint=receiver.url, headers={"api-key": "k"}, compress=compress)
    headers = receiver.requests[0][2]
    assert headers["api-key"] == "k"
    assert headers.get("Content-Encoding") == ("gzip" if compress else None)


def test_what_the_collector_refuses_is_an_error(backend, receiver):
    receiver.status, receiver.answer = 503, b"overloaded"
    with pytest.raises(ExportError, match=r"POST http.*/v1/metrics: 503 Service Unavailable: overloaded"):
        backend.export_as("otlp", endpoint=receiver.url)


def test_a_part_that_is_refused_is_an_error_although_the_status_is_200(backend, receiver):
    told = ExportMetricsServiceResponse()
    told.partial_success.rejected_data_points = 2
    told.partial_success.error_message = "too old"
    receiver.answer = told.SerializeToString()
    with pytest.raises(ExportError, match="2 data points were rejected: too old"):
        backend.export_as("otlp", endpoint=receiver.url)


def test_an_answer_of_something_else_is_an_error(backend, receiver):
    receiver.answer = b"<html>welcome</html>"
    with pytest.raises(ExportError, match="no ExportMetricsServiceResponse"):
        backend.export_as("otlp", endpoint=receiver.url)


def test_where_nobody_listens_it_is_an_error(backend):
    with pytest.raises(ExportError, match="ConnectionRefusedError"):
        backend.export_as("otlp", endpoint=f"http://{HOST}:{free_port()}/v1/metrics")


def test_without_the_package_it_says_what_to_install(tmp_path, python):
    code = """
import sys
sys.modules["opentelemetry"] = None
from shm_metrics import InvalidMetricError
from shm_metrics.exporters import PushSchedule, exporter
try:
    exporter("otlp")
except InvalidMetricError as error:
    print(error)
"""
    assert "pip install 'shm_metrics[otlp]'" in python(code)


def test_what_is_no_endpoint_is_refused_when_it_is_made():
    with pytest.raises(InvalidMetricError, match="give http://HOST:PORT"):
        exporter("otlp", endpoint="localhost:4317")


# -- a family that OTLP cannot carry -----------------------------------------------------------------------------------


def histogram(*buckets, name="odd", **others):
    samples = [Sample(f"{name}_bucket", {"le": le}, value) for le, value in buckets]
    samples += [Sample(f"{name}_{suffix}", {}, value) for suffix, value in others.items()]
    return SampleFamily(name, "", "histogram", samples)


def level(value):
    return SampleFamily("odd", "", "gauge", [Sample("odd", {}, value)])


ODD = {
    "a count that is NaN": histogram(("1.0", math.nan), ("+Inf", 3.0)),
    "a count without end": histogram(("1.0", 1.0), ("+Inf", math.inf)),
    "counts that fall": histogram(("1.0", 5.0), ("+Inf", 3.0)),
    "a count below zero": histogram(("1.0", -1.0), ("+Inf", 3.0)),
    "a count beyond 64 bits": histogram(("1.0", 0.0), ("+Inf", 2.0**64)),
    "a bound that is no number": histogram(("low", 1.0), ("+Inf", 3.0)),
    "a bound that is NaN": histogram(("NaN", 1.0), ("+Inf", 3.0)),
    "a bound twice": histogram(("1.0", 1.0), ("1", 1.0), ("+Inf", 3.0)),
    "no last bucket": histogram(("1.0", 1.0), ("2.0", 3.0)),
    "neither buckets nor count": histogram(sum=3.0),
    "a summary's count that is NaN": SampleFamily("odd", "", "summary", [Sample("odd_count", {}, math.nan)]),
    "a quantile that is none": SampleFamily("odd", "", "summary", [Sample("odd", {"quantile": "half"}, 1.0)]),
    "a value that is no number": level("many"),
}


@pytest.mark.parametrize("family", ODD.values(), ids=ODD)
def test_one_that_cannot_be_carried_is_told_and_the_others_are_sent(backend, receiver, family):
    backend.counter("orders_total").inc(3)
    backend.register_collector(lambda: [family])
    with pytest.raises(ExportError, match=r"odd: OTLP cannot carry it: .*; the others were sent"):
        backend.export_as("otlp", endpoint=receiver.url)
    ((_, _, _, body),) = receiver.requests
    (resource,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
    names = [metric.name for metric in resource.scope_metrics[0].metrics]
    assert "orders_total" in names
    assert "odd" not in names


def test_on_a_schedule_it_is_counted_each_time_and_logged_once(backend, receiver, caplog):
    backend.register_collector(lambda: [ODD["counts that fall"]])
    schedule = PushSchedule(backend, exporter("otlp", endpoint=receiver.url))
    for _ in range(3):
        with pytest.raises(ExportError):
            schedule.push_now()
    assert (schedule.failed, len(receiver.requests)) == (3, 3)
    assert len(caplog.records) == 1


def test_a_histogram_of_count_and_sum_alone_is_one(backend, export):
    backend.register_collector(lambda: [histogram(count=3.0, sum=4.5)])
    (point,) = export()[1]["odd"].histogram.data_points
    assert (point.count, point.sum, list(point.bucket_counts), list(point.explicit_bounds)) == (3, 4.5, [], [])


# -- the environment of OpenTelemetry ----------------------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch):
    """environment(NAME=value): instead of what is set here."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)

    def set_to(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_to


def test_the_endpoint_of_metrics_is_taken_as_it_is_and_goes_before_that_of_all_signals(environment):
    assert exporter("otlp").endpoint == "http://127.0.0.1:4318/v1/metrics"
    for base in ("https://collector/otlp", "https://collector/otlp/"):
        environment(OTEL_EXPORTER_OTLP_ENDPOINT=base)
        assert exporter("otlp").endpoint == "https://collector/otlp/v1/metrics"
    environment(OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="http://metrics:4318/in/")
    assert exporter("otlp").endpoint == "http://metrics:4318/in/"
    assert exporter("otlp", endpoint="http://mine:1/x").endpoint == "http://mine:1/x"
    environment(OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="", OTEL_EXPORTER_OTLP_ENDPOINT="")  # as if not set
    assert exporter("otlp").endpoint == "http://127.0.0.1:4318/v1/metrics"


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])
def test_an_endpoint_that_is_none_is_refused_with_the_variable_that_says_it(environment, name):
    environment(**{name: "collector:4317"})
    with pytest.raises(InvalidMetricError, match=f"{name}='collector:4317': give http://HOST:PORT"):
        exporter("otlp")


def test_all_of_it_from_the_environment(backend, receiver, environment):
    environment(
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url.removesuffix("/v1/metrics"), OTEL_EXPORTER_OTLP_HEADERS="a=x%20y"
    )
    backend.export_as("otlp")
    _, path, headers, _ = receiver.requests[0]
    assert (path, headers["a"]) == ("/v1/metrics", "x y")


def test_headers_of_metrics_go_instead_of_those_of_all_signals_and_an_option_instead_of_both(
    backend, receiver, environment
):
    environment(OTEL_EXPORTER_OTLP_HEADERS="a=1,b=2")
    environment(OTEL_EXPORTER_OTLP_METRICS_HEADERS="b=3, authorization=Basic%20QQ==")
    backend.export_as("otlp", endpoint=receiver.url)
    backend.export_as("otlp", endpoint=receiver.url, headers={"c": "4"})
    told = [
        {name: headers.get(name) for name in ("a", "b", "authorization", "c")} for *_, headers, _ in receiver.requests
    ]
    assert told == [
        {"a": None, "b": "3", "authorization": "Basic QQ==", "c": None},
        {"a": None, "b": None, "authorization": None, "c": "4"},
    ]


def test_the_service_and_other_attributes_are_taken_from_the_environment_and_options_win(export, environment):
    environment(OTEL_RESOURCE_ATTRIBUTES="service.name=a,env=pro%2Cd%3D1,host.name=web-1, team = x ")
    assert export()[0].items() >= {"service.name": "a", "env": "pro,d=1", "host.name": "web-1", "team": "x"}.items()
    environment(OTEL_SERVICE_NAME="b")
    assert export()[0]["service.name"] == "b"
    resource, _ = export(resource={"service.name": "c", "env": "dev"})
    assert (resource["service.name"], resource["env"], resource["team"]) == ("c", "dev", "x")


@pytest.mark.parametrize(
    "told", ["env=prod,secret", "env=prod,=secret", "env=prod,a=%zzsecret", "env=prod,a=%ffsecret"]
)
def test_a_list_that_is_not_right_is_left_out_as_a_whole_and_logged_without_its_values(
    export, environment, caplog, told
):
    environment(OTEL_RESOURCE_ATTRIBUTES=told)
    assert "env" not in export()[0]
    (record,) = caplog.records
    assert "OTEL_RESOURCE_ATTRIBUTES: pair 2 is no KEY=VALUE" in record.getMessage()
    assert "secret" not in record.getMessage()
