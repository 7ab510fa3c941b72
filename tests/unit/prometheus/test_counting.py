"""prometheus_client's metrics with the drop-in installed: what is counted, and what comes of odd arguments."""

from __future__ import annotations

import logging
import math
from decimal import Decimal

import pytest
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    Summary,
    generate_latest,
    values,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.samples import Sample


@pytest.fixture
def registry():
    return CollectorRegistry()


def test_workers_add_up(installed, other, registry):
    counter = Counter("c", "", ["a", "b"], registry=registry)
    counter.labels("1", "2").inc(3)
    other.counter("c", a="1", b="2").inc(4)
    assert registry.get_sample_value("c_total", {"a": "1", "b": "2"}) == 7


def test_a_child_is_the_same_however_it_is_asked_for(installed, registry):
    counter = Counter("c", "", ["a", "b"], registry=registry)
    child = counter.labels("1", "2")
    assert counter.labels(b="2", a="1") is child
    assert counter.labels(1, 2) is child
    assert counter.labels(a=1, b="2") is child
    for wrong in ({"a": "1"}, {"a": "1", "b": "2", "c": "3"}, {"a": "1", "x": "2"}):
        with pytest.raises(ValueError):
            counter.labels(**wrong)
    with pytest.raises(ValueError):
        counter.labels("1", b="2")


@pytest.mark.parametrize("amount", [True, Decimal("1"), "1", 1])
def test_amounts_that_prometheus_client_takes_are_taken(installed, registry, amount):
    gauge = Gauge("g", "", registry=registry)
    gauge.set(amount)
    assert registry.get_sample_value("g") == 1


def test_true_counts_as_one(installed, registry):
    counter = Counter("c", "", registry=registry)
    counter.inc(True)
    assert registry.get_sample_value("c_total") == 1


@pytest.mark.parametrize("amount", [math.nan, math.inf])
def test_an_amount_that_would_spoil_the_total_is_left_out_and_told_once(installed, registry, caplog, amount):
    counter = Counter(f"spoiled_{amount}", "", registry=registry)
    with caplog.at_level(logging.WARNING):
        counter.inc(amount)
        counter.inc(amount)
    counter.inc()
    assert registry.get_sample_value(f"spoiled_{amount}_total") == 1
    assert len(caplog.records) == 1
    assert "left out" in caplog.text


def test_an_observed_nan_is_left_out(installed, registry):
    histogram = Histogram("nan_seen", "", registry=registry)
    histogram.observe(math.nan)
    histogram.observe(1)
    assert registry.get_sample_value("nan_seen_sum") == 1
    assert registry.get_sample_value("nan_seen_count") == 1


def test_a_negative_amount_raises_and_counts_nothing(installed, registry):
    counter = Counter("c", "", registry=registry)
    with pytest.raises(ValueError):
        counter.inc(-1)
    assert registry.get_sample_value("c_total") == 0


def test_what_is_no_number_names_the_metric(installed, registry):
    gauge = Gauge("g", "", registry=registry)
    with pytest.raises(ValueError, match=r"gauge g: set\('many'\)"):
        gauge.set("many")
    counter = Counter("c", "", ["a"], registry=registry)
    with pytest.raises(TypeError, match=r"counter c\{a='x'\}: inc\(None\): give a number"):
        counter.labels("x").inc(None)
    with pytest.raises(ValueError, match=r"c\{a='x'\}: counter amount -1"):
        counter.labels("x").inc(-1)


@pytest.mark.parametrize("make", [Counter, Gauge, Histogram, Summary])
def test_a_parent_wants_label_values(installed, registry, make):
    metric = make("parent", "", ["a"], registry=registry)
    update = getattr(metric, {Counter: "inc", Gauge: "set"}.get(make, "observe"))
    with pytest.raises(ValueError, match="missing label values"):
        update(1)


def test_mostrecent_gauges_are_only_set(installed, registry):
    gauge = Gauge("g", "", multiprocess_mode="mostrecent", registry=registry)
    with pytest.raises(RuntimeError, match="mostrecent"):
        gauge.inc()
    gauge.set(2)
    assert registry.get_sample_value("g") == 2


def test_the_default_gauge_is_one_value_for_all_workers(installed, other, registry, monkeypatch):
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    gauge = Gauge("g", "", registry=registry)
    gauge.set(5)
    other.gauge("g").set(9)
    assert registry.get_sample_value("g") == 9
    gauge.inc()
    assert registry.get_sample_value("g") == 10


def test_in_multiprocess_mode_the_default_gauge_is_one_value_a_worker(
    installed, other, registry, monkeypatch, tmp_path
):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    gauge = Gauge("g", "", registry=registry)
    gauge.set(5)
    (found,) = [metric for metric in registry.collect() if metric.name == "g"]
    assert [set(sample.labels) for sample in found.samples] == [{"pid"}]


def test_a_gauge_function_is_called_at_the_scrape_and_seen_by_all(installed, other, registry):
    gauge = Gauge("g", "", registry=registry)
    items = [1, 2]
    gauge.set_function(lambda: len(items))
    assert registry.get_sample_value("g") == 2
    items.append(3)
    assert registry.get_sample_value("g") == 3
    assert other.snapshot().value("g") == 3


def test_info_and_enum_are_those_of_all_workers(installed, make_backend, registry):
    info, enum = Info("i", "", registry=registry), Enum("e", "", states=["a", "b"], registry=registry)
    info.info({"version": "2"})
    enum.state("b")
    seen = make_backend(read_only=True).snapshot()
    assert seen.family("i").labels == ((("version", "2"),),)
    assert seen.value("e") == 1
    with pytest.raises(ValueError):
        enum.state("c")
    with pytest.raises(ValueError):
        Info("j", "", ["l"], registry=registry).labels("x").info({"l": "y"})


def test_a_removed_child_is_gone_for_every_process(installed, other, registry):
    counter = Counter("c", "", ["a"], registry=registry)
    counter.labels("mine").inc()
    other.counter("c", a="theirs").inc()
    counter.remove("theirs")
    assert other.snapshot().value("c", a="theirs") is None
    counter.remove_by_labels({"a": "mine"})
    assert other.snapshot().value("c", a="mine") is None
    counter.labels("mine").inc(2)
    assert registry.get_sample_value("c_total", {"a": "mine"}) == 2
    counter.clear()
    assert [s for m in registry.collect() for s in m.samples] == []


def test_removing_does_not_warn_that_it_does_nothing(installed, registry, monkeypatch, tmp_path):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    counter = Counter("c", "", ["a"], registry=registry)
    counter.labels("x").inc()
    counter.remove("x")  # a warning would be an error here
    counter.clear()
    assert registry.get_sample_value("c_total", {"a": "x"}) is None


@pytest.mark.parametrize("wrong", [lambda c: c.remove(), lambda c: c.remove_by_labels({"x": "y"})])
def test_removal_refuses_what_it_cannot_mean(installed, registry, wrong):
    with pytest.raises(ValueError):
        wrong(Counter("c", "", ["a"], registry=registry))


def test_timers_trackers_and_exception_counters_count(installed, registry):
    gauge, summary = Gauge("g", "", registry=registry), Summary("s", "", registry=registry)
    counter = Counter("c", "", registry=registry)
    with gauge.track_inprogress():
        assert registry.get_sample_value("g") == 1
    assert registry.get_sample_value("g") == 0
    with summary.time():
        pass
    assert registry.get_sample_value("s_count") == 1
    with pytest.raises(KeyError), counter.count_exceptions():
        raise KeyError
    assert registry.get_sample_value("c_total") == 1


def test_a_subclass_that_overrides_an_update_is_asked(installed, registry):
    class Doubled(Counter):
        def inc(self, amount=1, exemplar=None):
            super().inc(2 * amount, exemplar)

    counter = Doubled("c", "", registry=registry)
    counter.inc(3)
    assert registry.get_sample_value("c_total") == 6


class SummaryInParts(MetricWrapperBase):
    """As metric classes of other packages are written: it counts by the values themselves."""

    _type = "summary"

    def _metric_init(self):
        arguments = self._labelnames, self._labelvalues, self._documentation
        self._count = values.ValueClass(self._type, self._name, self._name + "_count", *arguments)
        self._sum = values.ValueClass(self._type, self._name, self._name + "_sum", *arguments)

    def observe(self, amount):
        self._count.inc(1)
        self._sum.inc(amount)


def test_a_metric_class_of_somebody_else_counts_by_its_values(installed, registry):
    summary = SummaryInParts("parts", "", ["a"], registry=registry)
    for amount in (1, 2, 3.5):
        summary.labels("x").observe(amount)
    found = installed.snapshot()
    assert found.value("parts", a="x") == 3
    assert found.family("parts").sums.tolist() == [6.5]


def test_values_can_be_read_and_set_one_by_one(installed, registry):
    counter = Counter("c", "", registry=registry)
    counter.inc(4)
    assert counter._value.get() == 4
    counter._value.set(1)
    assert registry.get_sample_value("c_total") == 1
    histogram = Histogram("h", "", buckets=[1, 2], registry=registry)
    histogram.observe(1.5)
    histogram._sum.inc(0.5)
    histogram._buckets[0].inc(1)
    assert [bucket.get() for bucket in histogram._buckets] == [1, 1, 0]
    assert histogram._sum.get() == 2
    assert registry.get_sample_value("h_sum") == 2
    assert registry.get_sample_value("h_count") == 2


def test_exemplars_are_kept_in_the_segment_and_the_newest_of_all_workers_is_shown(installed, other, registry):
    from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

    histogram = Histogram("h", "", buckets=[1, 10], registry=registry)
    counter = Counter("c", "", ["a"], registry=registry)
    histogram.observe(0.5, {"trace_id": "mine"})
    other.histogram("h", buckets=[1, 10]).observe(0.7, {"trace_id": "theirs"})
    counter.labels("x").inc(2, exemplar={"trace_id": "abc"})
    for page in (openmetrics(registry), openmetrics(REGISTRY)):
        text = page.decode()
        assert 'h_bucket{le="1.0"} 2.0 # {trace_id="theirs"} 0.7' in text
        assert 'c_total{a="x"} 2.0 # {trace_id="abc"} 2.0' in text
    assert counter.labels("x")._value.get_exemplar().labels == {"trace_id": "abc"}


@pytest.mark.parametrize("exemplar", [{"": "x"}, {"trace_id": "x" * 200}])
def test_a_bad_exemplar_counts_nothing(installed, registry, exemplar):
    counter = Counter("c", "", registry=registry)
    with pytest.raises(ValueError):
        counter.inc(1, exemplar=exemplar)
    assert registry.get_sample_value("c_total") == 0


def test_reset_begins_anew_for_all_workers(installed, other, registry):
    counter = Counter("c", "", registry=registry)
    counter.inc(3)
    other.counter("c").inc(4)
    counter.reset()
    counter.inc()
    assert registry.get_sample_value("c_total") == 1


def test_what_is_no_number_at_all_raises_as_ever(installed, registry):
    with pytest.raises(TypeError, match="gauge g"):
        Gauge("g", "", registry=registry).set(None)


@pytest.mark.parametrize(
    "documentation", ["long " * 20_000, "half a \udcff pair", None], ids=["long", "surrogate", "none"]
)
def test_a_documentation_of_any_kind_breaks_nothing(installed, registry, documentation):
    Counter("c", documentation, registry=registry).inc()
    assert installed.snapshot().value("c") == 1


@pytest.mark.parametrize("value", ["x" * 100_000, "half a \udcff pair"], ids=["long", "surrogate"])
def test_label_values_that_a_segment_cannot_keep_count_for_their_own_process_and_it_says_so(
    installed, registry, caplog, value
):
    counter = Counter(f"labels_{len(value)}", "", ["a"], registry=registry)
    counter.labels(value).inc()
    counter.labels(value).inc()
    counter.labels("kept").inc()
    assert counter.labels(value)._value.get() == 2
    assert installed.snapshot().value(f"labels_{len(value)}", a="kept") == 1
    assert "counts for its own process only" in caplog.text


def test_an_info_may_say_anything(installed, registry, caplog):
    info = Info("i", "", registry=registry)
    info.info({"dotted.name": "x", "__reserved": "y", "number": 1})
    assert installed.snapshot().family("i").labels == ((("__reserved", "y"), ("dotted.name", "x"), ("number", "1")),)
    info.info({"a": "x" * 70_000})
    assert "pages of all workers do not show it" in caplog.text
    with pytest.raises(AttributeError):
        info.info(["a"])


class Untyped(MetricWrapperBase):
    _type = "untyped"

    def _metric_init(self):
        arguments = self._labelnames, self._labelvalues, self._documentation
        self._value = values.ValueClass(self._type, self._name, self._name, *arguments)

    def inc(self):
        self._value.inc(1)

    def _child_samples(self):
        return [Sample("", {}, self._value.get(), None, None)]


def test_a_metric_of_a_type_of_its_own_is_added_up_over_all_workers(installed, other, registry):
    metric = Untyped("odd", "", ["a"], registry=registry)
    metric.labels("x").inc()
    other.gauge("odd", multiprocess_mode="sum", a="x").inc(2)
    assert b'odd{a="x"} 3.0' in generate_latest()
    assert registry.get_sample_value("odd", {"a": "x"}) == 3


def test_a_value_made_by_hand_need_not_say_a_mode(installed):
    values.ValueClass("gauge", "byhand", "byhand", (), (), "").set(3)
    assert installed.snapshot().value("byhand") == 3
