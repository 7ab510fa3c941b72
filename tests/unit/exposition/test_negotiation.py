"""Which format an Accept header gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm_metrics.exposition import FORMATS, SCRAPED_OR_JSON, negotiate, render_openmetrics, render_text
from tests.support.families import counter, unhurried

PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_2_42_PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
    "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_2_5 = "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (None, "text"),
        ("", "text"),
        ("*/*", "text"),
        (FIREFOX, "text"),
        (PROMETHEUS_2_42, "openmetrics"),
        (PROMETHEUS_2_42_PROTOBUF, "openmetrics"),
        (PROMETHEUS_3, "openmetrics"),
        (PROMETHEUS_2_5, "text"),
        ("application/openmetrics-text", "openmetrics"),
        ('Application/OpenMetrics-Text; Version="1.0.0"; charset=utf-8', "openmetrics"),
        ("application/openmetrics-text;version=2.0.0", "text"),
        ("application/openmetrics-text;q=0.5,text/plain", "text"),
        ("text/plain;q=0.5,application/openmetrics-text;q=0.6", "openmetrics"),
        ("text/plain,application/openmetrics-text", "text"),
        ("application/openmetrics-text,text/plain", "openmetrics"),
        ("*/*,application/openmetrics-text", "openmetrics"),
        ("application/openmetrics-text;q=0,*/*", "text"),
        ("text/plain;q=0,*/*;q=0.1", "openmetrics"),
        ("text/*;q=0.9,application/*", "openmetrics"),
        ("application/*;q=0.2,text/*", "text"),
        ("application/openmetrics-text;version=1.0.0;q=0,application/openmetrics-text,text/plain;q=0.1", "text"),
        ("text/plain;version=1.0.0", "text"),
        ("application/openmetrics-text;q=high,text/plain;q=0.1", "text"),
        ("application/openmetrics-text;q=2", "text"),
        ("image/png", "text"),
        ("gibberish;;,=,q=", "text"),
    ],
)
def test_the_header_decides(header, name):
    assert negotiate(header).name == name


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("application/json", "json"),
        ("application/json, text/plain, */*", "json"),
        ("text/plain;q=0.5,application/json", "json"),
        ("application/json;q=0.5,text/plain", "text"),
        ("application/*", "openmetrics"),
        ("*/*", "text"),
        (PROMETHEUS_3, "openmetrics"),
        (FIREFOX, "text"),
        (None, "text"),
    ],
)
def test_json_is_given_to_who_names_it_where_it_is_offered(header, name):
    assert negotiate(header, SCRAPED_OR_JSON).name == name
    assert negotiate(header).name != "json"


@unhurried
@given(st.text(alphabet='textplain/openmrics*;,=q0.14v "version', max_size=60))
def test_no_header_is_an_error(header):
    assert negotiate(header).name in ("text", "openmetrics")


def test_a_format_knows_its_content_type_and_its_renderer():
    text, openmetrics = negotiate(None), negotiate(PROMETHEUS_2_42)
    assert text.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert openmetrics.content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert text.render([counter()]) == render_text([counter()])
    assert openmetrics.render([counter()]) == render_openmetrics([counter()])


def test_every_format_can_be_had_by_name():
    assert sorted(FORMATS) == ["csv", "json", "jsonl", "openmetrics", "text"]
    dropped = []
    for each in FORMATS.values():
        assert b"jobs" in each.render([counter()], on_dropped=dropped.append)
    assert dropped == []
