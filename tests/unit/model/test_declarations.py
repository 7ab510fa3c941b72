"""What a user declares, made into a Family with prometheus_client's names."""

from __future__ import annotations

import prometheus_client
import pytest

from shm_metrics.errors import InvalidMetricError
from shm_metrics.model.buckets import DEFAULT_BUCKETS
from shm_metrics.model.declarations import MAX_DOCUMENTATION, define, full_name
from shm_metrics.model.families import COUNTER, GAUGE, HISTOGRAM, INFO, STATESET, SUMMARY
from shm_metrics.model.gauge_modes import MODES

CLASSES = {
    COUNTER: prometheus_client.Counter,
    GAUGE: prometheus_client.Gauge,
    HISTOGRAM: prometheus_client.Histogram,
    SUMMARY: prometheus_client.Summary,
    INFO: prometheus_client.Info,
}


@pytest.mark.parametrize("type_", CLASSES)
@pytest.mark.parametrize(
    "parts",
    [
        {"name": "jobs"},
        {"name": "jobs", "namespace": "shop"},
        {"name": "jobs", "subsystem": "queue"},
        {"name": "jobs", "namespace": "shop", "subsystem": "queue"},
        {"name": "jobs", "unit": "seconds"},
        {"name": "jobs_seconds", "unit": "seconds"},
        {"name": "jobs_total"},
        {"name": "jobs_seconds_total", "unit": "seconds"},
        {"name": "jobs_total", "unit": "seconds", "namespace": "shop"},
    ],
    ids=str,
)
def test_the_full_name_is_the_one_that_prometheus_client_makes(type_, parts):
    if type_ == INFO and "unit" in parts:
        parts = {**parts, "unit": ""}  # an info has no unit, in both
    theirs = CLASSES[type_](documentation="", registry=None, **parts)
    assert full_name(type_, **parts) == theirs.describe()[0].name


def test_an_info_may_be_named_with_its_ending_which_does_not_come_twice():
    assert full_name(INFO, "build_info") == full_name(INFO, "build") == "build"  # prometheus_client: build_info_info
    assert full_name(GAUGE, "build_info") == "build_info"


@pytest.mark.parametrize("type_", [INFO, STATESET])
def test_what_has_no_unit_is_given_none(type_):
    with pytest.raises(InvalidMetricError, match=f"build: unit 'seconds': an {type_}"):
        full_name(type_, "build", unit="seconds")


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"name": ""}, "''"),
        ({"name": None}, "None"),
        ({"name": b"a"}, "b'a'"),
        ({"name": "a b"}, "'a b'"),
        ({"name": "a", "namespace": "x-y"}, "'x-y_a'"),
        ({"name": "a", "namespace": 7}, "namespace 7"),
        ({"name": "a", "subsystem": b"x"}, "subsystem b'x'"),
        ({"name": "a", "unit": 7}, "unit 7"),
        ({"name": "a", "unit": "m/s"}, "'a_m/s'"),
        ({"name": "_total"}, "''"),
    ],
)
def test_a_name_that_cannot_be_is_refused_by_value(parts, named):
    with pytest.raises(InvalidMetricError) as caught:
        full_name(COUNTER, **parts)
    assert named in str(caught.value)


def test_each_type_keeps_what_is_its_own_and_nothing_else():
    assert define(COUNTER, "a", "doc").bounds == ()
    assert define(HISTOGRAM, "a", buckets=[1]).bounds == (1.0, float("inf"))
    assert define(HISTOGRAM, "a").bounds == DEFAULT_BUCKETS
    assert define(GAUGE, "a").mode == "shared"
    assert [define(GAUGE, "a", multiprocess_mode=mode).mode for mode in MODES] == list(MODES)
    assert define(STATESET, "a", states=["x", "y"]).states == ("x", "y")
    assert define(COUNTER, "a").mode == define(HISTOGRAM, "a").mode == ""


@pytest.mark.parametrize("states", [(), "ab", [1], ["a", "a"], ["a", None], None, ["\ud800"]])
def test_states_that_cannot_be_are_refused_by_value(states):
    with pytest.raises(InvalidMetricError, match="light: states"):
        define(STATESET, "light", states=states)


@pytest.mark.parametrize("documentation", [None, 7, b"x", "x" * (MAX_DOCUMENTATION + 1), "\ud800"])
def test_documentation_that_cannot_be_kept_is_refused_by_metric(documentation):
    with pytest.raises(InvalidMetricError, match="a: documentation"):
        define(COUNTER, "a", documentation)


@pytest.mark.parametrize("mode", ["bogus", None, 7, "", ["all"]])
def test_an_unknown_gauge_mode_is_refused_with_the_known_ones(mode):
    with pytest.raises(InvalidMetricError, match="livemostrecent"):
        define(GAUGE, "a", multiprocess_mode=mode)


@pytest.mark.parametrize(
    ("type_", "option"),
    [
        (COUNTER, {"buckets": [1]}),
        (GAUGE, {"buckets": [1]}),
        (SUMMARY, {"states": ["a"]}),
        (HISTOGRAM, {"multiprocess_mode": "sum"}),
        (COUNTER, {"bukets": [1]}),
    ],
    ids=str,
)
def test_an_option_of_another_type_is_a_type_error_that_names_it(type_, option):
    with pytest.raises(TypeError, match=f"{type_} a: .* no argument '{next(iter(option))}'; there are .*labelnames"):
        define(type_, "a", **option)
