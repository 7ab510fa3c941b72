"""What cannot be meant is refused when an exporter is made, with the option, its value, and what to give."""

from __future__ import annotations

import pytest

from shm_metrics import InvalidMetricError
from shm_metrics.exporters import exporter
from tests.system.jobs.conftest import required

MUST = {"pushgateway": {"url": "http://gateway:9091", "job": "x"}}

REFUSED = [
    *[(name, {"names": names}) for name in ("json", "pushgateway", "statsd", "otlp") for names in (5, [], [1], "")],
    ("json", {"partial": "yes"}),
    ("text", {"created": "no"}),
    ("statsd", {"prefix": None}),
    ("statsd", {"prefix": "shop|"}),
    ("statsd", {"prefix": "my shop."}),
    ("statsd", {"prefix": "a:1|c\nb"}),
    ("statsd", {"tags": "env:prod"}),
    ("statsd", {"tags": {"version": 3}}),
    ("statsd", {"tags": {"": "x"}}),
    ("statsd", {"tags": {"a": "\ud800"}}),
    *[("statsd", {"port": port}) for port in (0, -1, 65_536, "8125", 8125.0, True, None)],
    ("statsd", {"host": ""}),
    ("statsd", {"host": None}),
    ("statsd", {"path": ""}),
    ("statsd", {"path": 5}),
    ("statsd", {"path": "/" + "x" * 107}),
    ("statsd", {"state": ""}),
    ("statsd", {"state": 5}),
    ("statsd", {"buckets": "no"}),
    ("statsd", {"packet_bytes": "1432"}),
    ("statsd", {"packet_bytes": True}),
    ("statsd", {"timeout": "5"}),
    ("pushgateway", {"grouping": "a"}),
    ("pushgateway", {"grouping": {"a": None}}),
    ("pushgateway", {"grouping": {"a": "\ud800"}}),
    ("pushgateway", {"job": 5}),
    ("pushgateway", {"headers": {"a b": "x"}}),
    ("pushgateway", {"headers": {"a": 5}}),
    ("otlp", {"headers": "a=1"}),
    ("otlp", {"headers": {"a": "x\r\nb: y"}}),
    ("otlp", {"headers": {"a": "€"}}),
    ("otlp", {"headers": {"content-type": "text/plain"}}),
    ("otlp", {"resource": {"version": 3}}),
    ("otlp", {"resource": ["a"]}),
    ("otlp", {"resource": {"": "x"}}),
    ("otlp", {"compress": "gzip"}),
    *[
        (name, {option: url})
        for name, option in (("pushgateway", "url"), ("otlp", "endpoint"))
        for url in (
            "", 5, "gateway:9091", "http://", "http://:9091", "http://gateway:0", "http://gateway:99999",
            "http://gateway/a b", "http://gateway/\n", "http://gateway/straße", "http://gateway?a=b", "http://[::1",
        )
    ],
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), REFUSED, ids=repr)
def test_it_is_refused_by_its_name(name, options):
    if name == "otlp":
        required("opentelemetry.proto")
    ((option, _),) = options.items()
    with pytest.raises(InvalidMetricError, match=rf"\b{option}\b.*(give|leave|no name|at most)"):
        exporter(name, **{**MUST.get(name, {}), **options})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("otlp", {"endpoint": "http://me:hunter2@collector:4318/v1/metrics"}),
        ("pushgateway", {"url": "https://me:hunter2@gateway"}),
        ("pushgateway", {"auth": "me:hunter2"}),
        ("pushgateway", {"auth": ("me", "hunter2", "x")}),
        ("pushgateway", {"auth": ("me:hunter2", "x")}),
        ("pushgateway", {"auth": ("me", "hunter2\ud800")}),
        ("pushgateway", {"auth": ("me", "x"), "headers": {"authorization": "hunter2"}}),
        ("pushgateway", {"headers": {"authorization": "hunter2\n"}}),
    ],
    ids=repr,
)
def test_a_secret_is_refused_without_being_shown(name, options):
    if name == "otlp":
        required("opentelemetry.proto")
    with pytest.raises(InvalidMetricError, match=r"give|leave") as caught:
        exporter(name, **{**MUST.get(name, {}), **options})
    assert "hunter2" not in str(caught.value)


def test_what_a_command_line_gives_is_taken():
    exporter("pushgateway", **MUST["pushgateway"], auth=["me", "word"], timeout=5)
    exporter("statsd", prefix="my-shop.web_1.", tags={"env": "prod: a|b"}, port=65_535, buckets=False)
