"""time() on a metric with labels: the series is said while the block runs, as prometheus_client has it."""

from __future__ import annotations

import asyncio
import time

import prometheus_client
import pytest

from shm_metrics import Gauge, Histogram, InvalidMetricError, Summary

TYPES = (Histogram, Summary, Gauge)


@pytest.fixture(params=TYPES)
def metric(request, metrics_backend):
    return request.param("seconds", "", ["shop", "code"])


def seconds_of(series) -> float:
    return series.value if isinstance(series, Gauge) or not hasattr(series, "sum") else series.sum


def test_the_series_is_said_while_the_block_runs(metric):
    with metric.time() as timer:
        assert timer.duration is None
        time.sleep(0.002)
        timer.labels("a", 200)
    assert timer.duration >= 0.002
    assert seconds_of(metric.labels("a", "200")) == timer.duration


def test_it_may_be_said_by_name_and_the_last_one_counts(metric):
    with metric.time() as timer:
        timer.labels("a", "200")
        timer.labels(code="500", shop="b")
    assert seconds_of(metric.labels("b", "500")) == timer.duration
    assert seconds_of(metric.labels("a", "200")) == 0.0


def test_a_block_that_ends_without_labels_is_an_error_that_says_so(metric):
    with pytest.raises(InvalidMetricError, match=r"seconds: missing label values; .*\.labels\(shop=\.\.\., code="):
        with metric.time():
            pass
    with pytest.raises(ValueError, match="missing label values"):
        prometheus_client.Histogram("x", "", ["a"], registry=None).observe(1)


def test_a_block_that_fails_before_it_said_labels_has_its_own_error(metric):
    with pytest.raises(KeyError):
        with metric.time() as timer:
            raise KeyError
    assert timer.duration >= 0.0


def test_a_block_that_fails_after_it_said_labels_is_timed(metric):
    timer = metric.time()

    def fail() -> None:
        with timer:
            timer.labels("a", "200")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seconds_of(metric.labels("a", "200")) == timer.duration


@pytest.mark.parametrize(
    ("values", "names"), [((), {}), (("a",), {}), (("a", "b", "c"), {}), ((), {"shop": "a"}), (("a",), {"code": "b"})]
)
def test_labels_that_are_not_the_declared_ones_are_refused_in_the_block(metric, values, names):
    with pytest.raises(InvalidMetricError, match="seconds"):
        with metric.time() as timer:
            timer.labels(*values, **names)


def test_as_a_decorator_it_takes_the_series_that_was_said_before(metric):
    timer = metric.time()
    timer.labels("a", "200")

    @timer
    def work(n: int) -> int:
        time.sleep(0.001)
        return n + 1

    @timer
    async def wait() -> str:
        return "done"

    assert work(1) == 2
    first = seconds_of(metric.labels("a", "200"))
    assert first >= 0.001
    assert asyncio.run(wait()) == "done"
    assert seconds_of(metric.labels("a", "200")) != first


def test_as_a_decorator_without_series_it_is_refused_at_once(metric):
    with pytest.raises(InvalidMetricError, match="missing label values"):

        @metric.time()
        def work() -> None: ...


def test_one_timer_may_be_used_for_one_block_after_another(metric):
    timer = metric.time()
    for shop in ("a", "b"):
        with timer:
            timer.labels(shop, "200")
        assert seconds_of(metric.labels(shop, "200")) == timer.duration


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("labelled", [False, True])
def test_a_timer_of_a_series_knows_its_duration_too(type_, labelled, metrics_backend):
    metric = type_("seconds", "", ["shop"] if labelled else [])
    series = metric.labels("a") if labelled else metric
    with series.time() as timer:
        assert timer.duration is None
    assert timer.duration >= 0.0
    assert seconds_of(series) == timer.duration


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("labelled", [False, True])
def test_a_timer_of_a_series_takes_no_labels(type_, labelled, metrics_backend):
    metric = type_("seconds", "", ["shop"] if labelled else [])
    timer = (metric.labels("a") if labelled else metric).time()
    with pytest.raises(InvalidMetricError, match=r"labels\(\) on"):
        timer.labels("b")
