"""Pushes to a real Pushgateway."""

from __future__ import annotations

import secrets
import socket

import pytest

from shm_metrics import ExportError, InvalidMetricError, MetricsBackend, Sample, SampleFamily
from shm_metrics.exporters import exporter
from shm_metrics.exporters.pushgateway import group_path
from tests.support.cache_servers import HOST, free_port
from tests.support.waiting import until


@pytest.fixture
def job():
    return f"job-{secrets.token_hex(4)}"


@pytest.fixture
def name():
    """A metric that no other test pushes."""
    return f"m{secrets.token_hex(4)}"


def test_a_push_is_on_the_gateways_page_under_its_job_and_this_host(backend, pushgateway, job, name):
    backend.counter(f"{name}_total", shop="berlin").inc(3)
    backend.histogram(name + "h", buckets=[1]).observe(0.5)
    sent = backend.export_as("pushgateway", url=pushgateway.url, job=job)
    key = f'instance="{socket.gethostname()}",job="{job}"'
    assert pushgateway.samples(f"{name}_total") == {f'{name}_total{{{key},shop="berlin"}} 3'}
    assert pushgateway.samples(f"{name}h_bucket") == {f'{name}h_bucket{{{key},le="{le}"}} 1' for le in ("1", "+Inf")}
    assert pushgateway.samples(f"{name}h_sum") == {f"{name}h_sum{{{key}}} 0.5"}
    assert f"{name}_total".encode() in sent


def test_all_that_a_scrape_shows_can_be_pushed(tmp_path, pushgateway, job):
    backend = MetricsBackend(path=tmp_path / "segment", per_worker=True)
    backend.gauge("depth").set(1)
    backend.export_as("pushgateway", url=pushgateway.url, job=job)
    assert f'job="{job}"' in pushgateway.page()
    backend.close()


def test_put_replaces_the_group_and_post_only_what_is_pushed(backend, pushgateway, job, name):
    backend.counter(f"{name}a_total").inc()
    backend.counter(f"{name}b_total").inc()
    to = {"url": pushgateway.url, "job": job, "grouping": {}}
    backend.export_as("pushgateway", names=[f"{name}a"], **to)
    backend.export_as("pushgateway", names=[f"{name}b"], method="POST", **to)
    assert len(pushgateway.samples(f"{name}a_total") | pushgateway.samples(f"{name}b_total")) == 2
    backend.export_as("pushgateway", names=[f"{name}b"], method="PUT", **to)
    assert pushgateway.samples(f"{name}a_total") == set()


@pytest.mark.parametrize("value", ["a/b", "", "..", "straße & co", "a b?c#d%2F", "/"])
def test_any_value_can_be_in_the_grouping_key(backend, pushgateway, job, name, value):
    backend.gauge(name).set(1)
    backend.export_as("pushgateway", url=pushgateway.url, job=job, grouping={"path": value})
    shown = f'path="{value}"' if value else ""
    (line,) = pushgateway.samples(name)
    assert shown in line
    assert f'job="{job}"' in line


def test_a_job_with_a_slash_goes_in_base64(backend, pushgateway, job, name):
    backend.gauge(name).set(1)
    backend.export_as("pushgateway", url=pushgateway.url, job=f"{job}/x", grouping={})
    (line,) = pushgateway.samples(name)
    assert f'job="{job}/x"' in line


def test_delete_removes_the_group(backend, pushgateway, job, name):
    backend.gauge(name).set(1)
    to = exporter("pushgateway", url=pushgateway.url, job=job)
    to.export(backend)
    assert pushgateway.samples(name)
    to.delete()
    until(lambda: not pushgateway.samples(name), "the group is gone")


def test_what_the_gateway_refuses_is_an_error_with_its_reason(backend, pushgateway, job, name):
    backend.register_collector(lambda: [SampleFamily(name, "", "gauge", [Sample(name, {}, 1.0, timestamp=1.0)])])
    with pytest.raises(ExportError, match=r"PUT http.*: 400 Bad Request: .*timestamp"):
        backend.export_as("pushgateway", url=pushgateway.url, job=job)
    assert pushgateway.samples(name) == set()


def test_where_nobody_listens_it_is_an_error(backend):
    with pytest.raises(ExportError, match="ConnectionRefusedError"):
        backend.export_as("pushgateway", url=f"http://{HOST}:{free_port()}", job="x")


def test_who_does_not_answer_is_not_waited_for(backend):
    with socket.socket() as silent:
        silent.bind((HOST, 0))
        silent.listen()
        with pytest.raises(ExportError, match=r"no answer within 0.2 s"):
            backend.export_as("pushgateway", url=f"http://{HOST}:{silent.getsockname()[1]}", job="x", timeout=0.2)


def test_a_family_that_cannot_be_shown_is_an_error_and_the_others_are_pushed(backend, pushgateway, job, name):
    backend.counter(name).inc()
    clash = SampleFamily(f"{name}_total", "", "gauge", [Sample(f"{name}_total", {}, 9.0)])
    backend.register_collector(lambda: [clash])
    with pytest.raises(ExportError, match=f"{name}_total.*; the others were pushed"):
        backend.export_as("pushgateway", url=pushgateway.url, job=job)
    assert len(pushgateway.samples(f"{name}_total")) == 1


def test_user_and_password_go_along(backend, receiver):
    with pytest.raises(ExportError, match="501"):  # it takes no PUT
        backend.export_as("pushgateway", url=receiver.url, job="x", auth=("user", "word"))
    backend.export_as("pushgateway", url=receiver.url, job="x", auth=("user", "word"), method="POST", grouping={})
    ((_, path, headers, _),) = receiver.requests
    assert headers["Authorization"] == "Basic dXNlcjp3b3Jk"
    assert path == "/v1/metrics/metrics/job/x"


@pytest.mark.parametrize(
    "options",
    [
        {"url": "gateway:9091"},
        {"url": "ftp://gateway"},
        {"url": "http://gateway:port"},
        {"job": ""},
        {"method": "DELETE"},
        {"grouping": {"job": "x"}},
        {"grouping": {"a-b": "x"}},
        {"grouping": {"a": 1}},
        {"timeout": 0},
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_when_it_is_made(options):
    with pytest.raises(InvalidMetricError):
        exporter("pushgateway", **{"url": "http://gateway:9091", "job": "x", **options})


def test_the_path_of_a_group():
    assert group_path("a b", {"z": "", "y": "x/y"}) == "/job/a%20b/y@base64/eC95/z@base64/="
