"""Declared metrics: prometheus_client's constructors and methods, type by type."""

from __future__ import annotations

import asyncio
import re
import time
from math import inf, isnan, nan

import numpy as np
import prometheus_client
import prometheus_client.openmetrics.exposition
import pytest

from shm_metrics import Counter, Enum, Gauge, Histogram, Info, InvalidMetricError, MetricConflictError, Summary
from shm_metrics.model.gauge_modes import MODES
from tests.support.segments import shown

pytestmark = pytest.mark.usefixtures("metrics_backend")

TYPES = (Counter, Gauge, Histogram, Summary, Info, Enum)


def declare(type_, name="thing", labelnames=(), **options):
    if type_ is Enum:
        options.setdefault("states", ["on", "off"])
    return type_(name, "Words.", labelnames, **options)


# -- what all have in common ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("labelnames", [(), ("shop",)])
def test_a_metric_is_an_instance_of_its_public_class_alone(type_, labelnames):
    metric = declare(type_, labelnames=labelnames)
    assert [other for other in TYPES if isinstance(metric, other)] == [type_]
    assert metric.name == "thing"
    assert metric.documentation == "Words."


@pytest.mark.parametrize("type_", TYPES)
def test_names_are_built_of_namespace_subsystem_and_unit(type_):
    unit = "" if type_ in (Info, Enum) else "seconds"
    options = {"namespace": "shop", "subsystem": "queue", "unit": unit}
    metric = declare(type_, "wait", **options)
    theirs = getattr(prometheus_client, type_.__name__)
    more = {"states": ["on", "off"]} if type_ is Enum else {}
    assert metric.name == theirs("wait", "", registry=None, **options, **more).describe()[0].name


@pytest.mark.parametrize("type_", TYPES)
def test_all_arguments_may_be_given_by_position(type_, metrics_backend):
    metric = type_(
        "wait", "Words.", ("a",), "shop", "queue", "", metrics_backend, **({"states": ["x"]} if type_ is Enum else {})
    )
    assert metric.name == "shop_queue_wait"


@pytest.mark.parametrize("type_", TYPES)
def test_labels_go_by_position_and_by_name_and_give_the_same_series_each_time(type_):
    metric = declare(type_, labelnames=["shop", "code"])
    one = metric.labels("a", 200)
    assert one is metric.labels("a", 200)
    assert one is metric.labels("a", "200")
    assert one is metric.labels(shop="a", code=200)
    assert one is metric.labels(code="200", shop="a")
    assert one is metric.labels(code="200", shop="a")
    assert one is not metric.labels("200", "a")


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize(
    ("values", "keywords"),
    [
        ((), {}),
        (("a",), {}),
        (("a", "b", "c"), {}),
        (("a",), {"code": "b"}),
        (("a", "b"), {"code": "b"}),
        ((), {"shop": "a"}),
        ((), {"shop": "a", "code": "b", "x": "c"}),
        ((), {"shop": "a", "x": "c"}),
    ],
)
def test_labels_that_are_not_the_declared_ones_are_refused_by_metric_and_name(type_, values, keywords):
    metric = declare(type_, labelnames=["shop", "code"])
    with pytest.raises(InvalidMetricError, match=r"thing.*(shop|position)"):
        metric.labels(*values, **keywords)


@pytest.mark.parametrize("type_", TYPES)
def test_labels_on_a_metric_without_and_on_a_series_are_refused(type_):
    with pytest.raises(InvalidMetricError, match=r"thing.*without labels"):
        declare(type_).labels("a")
    with pytest.raises(InvalidMetricError, match=r"other.*has its labels already"):
        declare(type_, "other", ["shop"]).labels("a").labels("b")


@pytest.mark.parametrize(
    ("type_", "methods"),
    [
        (Counter, ["inc", "increment", "count_exceptions", "reset", "keep_exemplar", "exemplar"]),
        (
            Gauge,
            [
                "inc",
                "dec",
                "set",
                "increment",
                "decrement",
                "set_to_current_time",
                "track_inprogress",
                "set_function",
            ],
        ),
        (Histogram, ["observe", "keep_exemplar", "exemplar"]),
        (Summary, ["observe"]),
        (Info, ["info"]),
        (Enum, ["state"]),
    ],
)
def test_a_metric_with_labels_says_that_it_wants_them(type_, methods):
    metric = declare(type_, labelnames=["shop", "code"])
    for method in methods:
        with pytest.raises(
            InvalidMetricError,
            match=r"thing: missing label values; it has the labels .*\.labels\(shop=\.\.\., code=\.\.\.\)",
        ):
            getattr(metric, method)()


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("labelnames", [["a-b"], ["__x"], ["a", "a"], "shop", [1], ["é"]])
def test_label_names_that_cannot_be_are_refused(type_, labelnames):
    with pytest.raises(InvalidMetricError, match="thing"):
        declare(type_, labelnames=labelnames)


@pytest.mark.parametrize(("type_", "label"), [(Histogram, "le"), (Summary, "quantile"), (Enum, "thing")])
def test_reserved_label_names_are_refused(type_, label):
    with pytest.raises(InvalidMetricError, match="reserved"):
        declare(type_, labelnames=[label])


@pytest.mark.parametrize("labelnames", [iter(["shop"]), ("shop",), {"shop": 1}, {"shop"}])
def test_label_names_may_be_any_iterable(labelnames):
    counter = Counter("thing", "", labelnames)
    counter.labels(shop="a").inc()
    assert counter.labels("a").value == 1.0


def test_the_same_declaration_twice_is_two_views_of_one_metric(metrics_backend):
    """A module that is imported a second time, or reloaded, must not fail."""
    for type_, use in ((Counter, "inc"), (Gauge, "inc")):
        one, other = (declare(type_, type_.__name__) for _ in range(2))
        getattr(one, use)()
        getattr(other, use)(2)
        assert one.value == other.value == 3.0
    one, other = (Counter("labelled", "", ["shop"]) for _ in range(2))
    one.labels("a").inc()
    other.labels("a").inc()
    assert shown(metrics_backend, "labelled") == {(("shop", "a"),): 2.0}


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (lambda: Counter("x", ""), lambda: Gauge("x", ""), "type 'counter' before, now with 'gauge'"),
        (lambda: Counter("x", "", ["a"]), lambda: Counter("x", "", ["b"]), "labels"),
        (lambda: Histogram("x", "", buckets=[1]), lambda: Histogram("x", "", buckets=[2]), "bounds"),
        (
            lambda: Gauge("x", ""),
            lambda: Gauge("x", "", multiprocess_mode="sum"),
            "mode 'shared' before, now with 'sum'",
        ),
        (lambda: Enum("x", "", states=["a"]), lambda: Enum("x", "", states=["b"]), "states"),
        (lambda: Counter("x_s", "", unit="s"), lambda: Counter("x_s", ""), "unit 's' before, now with ''"),
        (lambda: Histogram("x", ""), lambda: Gauge("x_sum", ""), "x_sum"),
        (lambda: Gauge("x_count", ""), lambda: Summary("x", ""), "x_count"),
        (lambda: Counter("x", ""), lambda: Gauge("x_total", ""), "x_total"),
        (lambda: Info("x", ""), lambda: Gauge("x_info", ""), "x_info"),
        (lambda: Counter("x", ""), lambda: Gauge("x_created", ""), "x_created"),
    ],
)
def test_one_name_with_two_definitions_is_a_conflict_that_says_what_differs(first, second, named, metrics_backend):
    kept = first()
    with pytest.raises(MetricConflictError, match=named) as caught:
        second()
    assert isinstance(caught.value, ValueError)
    assert [family.family.name for family in metrics_backend.snapshot()] in ([kept.name], [])


@pytest.mark.parametrize("type_", TYPES)
def test_an_unknown_argument_is_a_type_error_that_names_it(type_):
    with pytest.raises(TypeError, match="bukets"):
        declare(type_, bukets=[1])


@pytest.mark.parametrize("options", [{}, {"auto_describe": True}])
def test_a_prometheus_client_registry_gets_the_metric_too(options):
    registry = prometheus_client.CollectorRegistry(**options)
    counter = Counter("jobs", "Jobs.", ["shop"], registry=registry)
    counter.labels("a").inc(3)
    Histogram("seconds", "", buckets=[1], registry=registry).observe(2)
    Enum("light", "", states=["red", "green"], registry=registry).state("green")
    Gauge("untouched", "", ["a"], registry=registry)
    text = prometheus_client.generate_latest(registry).decode()
    assert '\njobs_total{shop="a"} 3.0\n' in text
    assert '\nseconds_bucket{le="1.0"} 0.0\nseconds_bucket{le="+Inf"} 1.0\n' in text
    assert '\nlight{light="green"} 1.0\n' in text
    assert prometheus_client.openmetrics.exposition.generate_latest(registry).endswith(b"# EOF\n")
    with pytest.raises(ValueError, match="Duplicated"):
        prometheus_client.Counter("jobs", "", registry=registry)


@pytest.mark.parametrize("type_", TYPES)
def test_a_name_that_is_taken_in_their_registry_raises_before_anything_is_written(type_, metrics_backend):
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Counter("thing", "", registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        declare(type_, registry=registry)
    declare(Counter if type_ is Gauge else Gauge)  # the name is free here
    assert metrics_backend.snapshot().family("thing").family.type == ("counter" if type_ is Gauge else "gauge")


def test_a_definition_that_is_refused_leaves_their_registry_as_it_was():
    registry = prometheus_client.CollectorRegistry()
    declare(Counter)
    with pytest.raises(MetricConflictError):
        declare(Gauge, registry=registry)
    prometheus_client.Gauge("thing", "", registry=registry)


def test_a_metric_that_their_registry_collects_before_it_counts_has_no_series():
    class Eager(prometheus_client.CollectorRegistry):
        def register(self, collector):
            super().register(collector)
            self.seen = [(family.name, list(family.samples)) for family in self.collect()]

    registry = Eager()
    for type_ in TYPES:
        for labelnames in ((), ("shop",)):
            name = f"{type_.__name__.lower()}_{len(labelnames)}"
            declare(type_, name, labelnames, registry=registry)
            assert registry.seen[-1] == (name, [])


def test_their_registry_filters_ours_by_sample_name():
    registry = prometheus_client.CollectorRegistry()
    declare(Summary, registry=registry).observe(7)
    (found,) = registry.restricted_registry(["thing_sum"]).collect()
    assert (found.name, found.type) == ("thing", "summary")
    assert [tuple(sample)[:3] for sample in found.samples] == [("thing_sum", {}, 7.0)]
    assert list(registry.restricted_registry(["thing"]).collect()) == []


def test_their_registry_asks_the_function_of_a_gauge():
    registry = prometheus_client.CollectorRegistry()
    waiting = []
    declare(Gauge, registry=registry).set_function(lambda: len(waiting))
    declare(Gauge, "other", ["shop"], registry=registry).labels("a").set_function(lambda: -len(waiting))
    assert registry.get_sample_value("thing") == 0
    waiting.append("somebody")
    assert registry.get_sample_value("thing") == 1
    assert registry.get_sample_value("other", {"shop": "a"}) == -1


def test_a_metric_is_collected_by_itself():
    counter = Counter("jobs", "Jobs.", ["shop"])
    counter.labels("a").inc(3)
    (found,) = counter.collect()
    assert (found.name, found.documentation, found.type) == ("jobs", "Jobs.", "counter")
    counted, created = found.samples
    assert tuple(counted)[:3] == ("jobs_total", {"shop": "a"}, 3.0)
    assert (created.name, created.labels) == ("jobs_created", {"shop": "a"})
    (described,) = counter.describe()
    assert (described.name, described.type, described.samples) == ("jobs", "counter", [])
    assert "jobs" in repr(counter)


def test_when_a_series_began_is_collected_as_prometheus_clients_switch_says(monkeypatch):
    registry = prometheus_client.CollectorRegistry()
    Counter("jobs", "", registry=registry).inc()
    began = time.time()
    assert abs(registry.get_sample_value("jobs_created") - began) < 60
    monkeypatch.setattr(prometheus_client.metrics, "_use_created", True)
    prometheus_client.disable_created_metrics()
    assert registry.get_sample_value("jobs_created") is None


def test_without_prometheus_client_nothing_says_when_a_series_began(python, segment_name):
    code = "from shm_metrics import Counter; print([sample.name for sample in Counter('jobs').collect()[0].samples])"
    assert python(code, SHM_METRICS_SEGMENT=segment_name) == "['jobs_total']\n"


def test_a_segment_is_unchanged_by_whatever_is_refused(metrics_backend):
    counter, gauge = Counter("c", "", ["a"]), Gauge("g", "")
    histogram, info, enum = Histogram("h", ""), Info("i", ""), Enum("e", "", states=["x"])
    series = counter.labels("1")
    for touched in (series.inc, gauge.inc):
        touched()
    histogram.observe(1)
    before = _bytes(metrics_backend)
    refused = [
        lambda: Counter("9", ""),
        lambda: Counter("x", None),
        lambda: Counter("x", "", ["a-b"]),
        lambda: Histogram("x", "", buckets=[]),
        lambda: Histogram("x", "", buckets=range(20_000)),
        lambda: Gauge("x", "", multiprocess_mode="bogus"),
        lambda: Enum("x", "", states=[]),
        lambda: counter.labels(),
        lambda: counter.labels("\ud800"),
        lambda: counter.labels("x" * 20_000),
        lambda: series.inc(-1),
        lambda: series.inc(nan),
        lambda: series.inc(inf),
        lambda: series.inc("1"),
        lambda: series.inc(None),
        lambda: gauge.set("1"),
        lambda: gauge.inc([]),
        lambda: histogram.observe(nan),
        lambda: histogram.observe("1"),
        lambda: info.info({"a-b": "x"}),
        lambda: info.info({"a": None}),
        lambda: info.info({"a": "\ud800"}),
        lambda: info.info("text"),
        lambda: enum.state("y"),
        lambda: metrics_backend.counter("x", **{"a-b": 1}),
        lambda: metrics_backend.counter("x", a="\ud800"),
        lambda: metrics_backend.counter("x", a="x" * 20_000),
        lambda: metrics_backend.counter("x", **{f"l{n}": "x" * 16_000 for n in range(5)}),
        lambda: metrics_backend.histogram("x", buckets=range(20_000)),
        lambda: metrics_backend.histogram("x", le="1"),
    ]
    conflicts = [lambda: Counter("g", ""), lambda: metrics_backend.gauge("c"), lambda: Counter("c", "", ["b"])]
    for error, calls in ((InvalidMetricError, refused), (MetricConflictError, conflicts)):
        for call in calls:
            with pytest.raises(error):
                call()
            assert _bytes(metrics_backend) == before
    Gauge("x", "the name is not taken by what was refused")


def _bytes(backend):
    segment = backend._writer.segment
    lay = segment.layout
    head = bytes(segment.bytes[: lay.index])
    catalog = bytes(segment.bytes[lay.catalog : lay.catalog + 4096])
    return head, catalog, segment.matrix[:3, :512].tobytes()


# -- counter ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [1, 2.5, 0, np.float64(3), np.int32(4), True + 1, 1e300])
def test_a_counter_grows_by_any_finite_amount(amount):
    counter = Counter("jobs", "")
    counter.inc()
    counter.inc(amount)
    counter.increment(amount)
    assert counter.value == pytest.approx(1.0 + 2 * float(amount))


@pytest.mark.parametrize(
    "amount", [-1, -1e-300, nan, inf, -inf, "1", None, [], 1j, b"1", np.array([1.0, 2.0]), True, np.bool_(1)]
)
def test_a_counter_refuses_whatever_else_by_value(amount):
    counter = Counter("jobs", "")
    for method in (counter.inc, counter.increment):
        with pytest.raises(InvalidMetricError):
            method(amount)
    assert counter.value == 0.0


def test_an_integer_beyond_every_float_is_refused():
    counter = Counter("jobs", "")
    for number in (10**400, 10**5000):  # the second is not even printed by Python
        with pytest.raises(InvalidMetricError, match="int"):
            counter.inc(number)
    for use in (Gauge("depth", "").set, Histogram("seconds", "").observe):
        with pytest.raises(InvalidMetricError, match="int"):
            use(10**400)


def test_exceptions_are_counted_in_blocks_functions_and_async_functions():
    counter = Counter("errors", "")

    def fail(error):
        with counter.count_exceptions():
            raise error

    for error in (ValueError(), KeyError()):
        with pytest.raises(type(error)):
            fail(error)
    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt())
    assert counter.value == 2.0

    @counter.count_exceptions(ValueError)
    def work(error):
        raise error

    @counter.count_exceptions((ValueError, KeyError))
    async def later(error):
        await asyncio.sleep(0)
        raise error

    for call in (work, lambda error: asyncio.run(later(error))):
        for error in (ValueError(), KeyError()):
            with pytest.raises(type(error)):
                call(error)
    assert counter.value == 5.0


# -- gauge ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1.5, 1e300, inf, -inf, np.float32(0.5), np.int64(7)])
def test_a_gauge_takes_any_number(value):
    gauge = Gauge("depth", "")
    gauge.set(value)
    assert gauge.value == float(value)


def test_a_gauge_may_be_no_number():
    gauge = Gauge("depth", "")
    gauge.set(nan)
    assert isnan(gauge.value)
    gauge.set(1)
    assert gauge.value == 1.0


@pytest.mark.parametrize("value", ["1", None, [], 1j, b"1", True, object()])
def test_a_gauge_refuses_what_is_no_number(value):
    gauge = Gauge("depth", "")
    for method in (gauge.set, gauge.inc, gauge.dec, gauge.increment, gauge.decrement):
        with pytest.raises(InvalidMetricError, match="no number"):
            method(value)
    assert gauge.value == 0.0


@pytest.mark.parametrize("mode", ["bogus", 7, None, ["all"]])
def test_a_mode_that_is_none_is_refused(mode):
    with pytest.raises(InvalidMetricError, match="gauge mode"):
        Gauge("depth", "", multiprocess_mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_gauge_is_made_with_every_mode_with_and_without_labels(mode, metrics_backend):
    plain = Gauge("plain", "", multiprocess_mode=mode)
    series = Gauge("labelled", "", ["shop"], multiprocess_mode=mode).labels("a")
    for gauge in (plain, series):
        gauge.set(3)
        assert gauge.value == 3.0
        if MODES[mode].moves:
            gauge.inc()
            gauge.dec(0.5)
            assert gauge.value == 3.5
        else:
            for move in (gauge.inc, gauge.dec, gauge.track_inprogress().__enter__):
                with pytest.raises(InvalidMetricError, match=mode):
                    move()
    assert {found.family.mode for found in metrics_backend.snapshot()} == {mode}


def test_a_gauge_is_set_to_the_time():
    gauge = Gauge("last_run", "")
    before = time.time()
    gauge.set_to_current_time()
    assert before <= gauge.value <= time.time()


def test_work_in_progress_is_tracked_in_blocks_functions_and_async_functions():
    gauge, seen = Gauge("running", ""), []

    @gauge.track_inprogress()
    def work():
        seen.append(gauge.value)

    @gauge.track_inprogress()
    async def later():
        await asyncio.sleep(0)
        seen.append(gauge.value)

    with gauge.track_inprogress():
        work()
        asyncio.run(later())
    assert seen == [2.0, 2.0]
    assert gauge.value == 0.0


def test_a_gauge_takes_the_time_of_a_block_or_a_call():
    gauge = Gauge("duration", "")
    gauge.set(-1)
    with gauge.time():
        pass
    assert gauge.value >= 0.0
    gauge.set(-1)

    @gauge.time()
    async def work():
        await asyncio.sleep(0)

    asyncio.run(work())
    assert gauge.value >= 0.0


def test_a_gauges_function_is_asked_at_scrapes(metrics_backend):
    plain, labelled = Gauge("plain", ""), Gauge("depth", "", ["queue"])
    plain.set_function(lambda: 7)
    labelled.labels("q").set_function(lambda: 8)
    metrics_backend.collect()
    assert plain.value == 7.0
    assert labelled.labels("q").value == 8.0


# -- histogram and summary --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buckets", [None, [1, 2, 3], (0.1, inf), range(40), np.array([1.0, 5.0]), ["1", "2"]])
def test_every_observation_falls_into_the_bucket_that_prometheus_client_puts_it(buckets, metrics_backend):
    options = {} if buckets is None else {"buckets": buckets}
    ours = Histogram("seconds", "", **options)
    registry = prometheus_client.CollectorRegistry()
    theirs = prometheus_client.Histogram("seconds", "", registry=registry, **options)
    for value in (-1, 0, 0.1, 0.005, 0.0050001, 1, 1.0000001, 2, 2.5, 10, 11, 39, 40, 1e300, inf, -inf):
        if value not in (inf, -inf):
            ours.observe(value)
            theirs.observe(value)
    found = metrics_backend.snapshot().family("seconds")
    expected = {
        sample.labels["le"]: sample.value for sample in theirs.collect()[0].samples if sample.name == "seconds_bucket"
    }
    bounds = [prometheus_client.utils.floatToGoString(bound) for bound in found.family.bounds]
    assert dict(zip(bounds, found.values[0].cumsum().tolist(), strict=True)) == expected
    assert ours.count == registry.get_sample_value("seconds_count")
    assert ours.sum == pytest.approx(registry.get_sample_value("seconds_sum"))


def test_infinite_observations_are_counted():
    histogram = Histogram("seconds", "", buckets=[1])
    histogram.observe(inf)
    assert (histogram.count, histogram.sum) == (1.0, inf)
    histogram.observe(-inf)
    assert histogram.count == 2.0
    assert isnan(histogram.sum)


@pytest.mark.parametrize("type_", [Histogram, Summary])
@pytest.mark.parametrize("value", [nan, "1", None, [], True, np.float64("nan")])
def test_what_cannot_be_observed_is_refused(type_, value):
    metric = declare(type_)
    with pytest.raises(InvalidMetricError):
        metric.observe(value)
    assert (metric.count, metric.sum) == (0.0, 0.0)


@pytest.mark.parametrize("type_", [Histogram, Summary])
def test_time_is_observed_in_blocks_functions_and_async_functions(type_):
    plain, series = declare(type_), declare(type_, "other", ["shop"]).labels("a")
    for metric in (plain, series):
        with metric.time() as timer:
            assert timer.duration is None
        assert timer.duration == metric.sum > 0.0

        @metric.time()
        def work(n):
            return work(n - 1) if n else "done"

        @metric.time()
        async def later():
            await asyncio.sleep(0)
            return "done"

        assert work(2) == "done"
        assert asyncio.run(later()) == "done"
        with pytest.raises(KeyError), metric.time():
            raise KeyError
        assert metric.count == 6.0
        assert 0.0 < metric.sum < 60.0


def test_the_default_buckets_are_told_by_the_class():
    assert Histogram.DEFAULT_BUCKETS == prometheus_client.Histogram.DEFAULT_BUCKETS


# -- info and enum ----------------------------------------------------------------------------------------------------


def test_an_info_shows_what_was_said_last(metrics_backend):
    info = Info("build", "")
    assert shown(metrics_backend, "build") == {}
    info.info({"version": "1", "branch": "main"})
    assert shown(metrics_backend, "build") == {(("branch", "main"), ("version", "1")): 1.0}
    info.info({"version": "2"})
    assert shown(metrics_backend, "build") == {(("version", "2"),): 1.0}
    info.info({"version": "1", "branch": "main"})
    assert shown(metrics_backend, "build") == {(("branch", "main"), ("version", "1")): 1.0}
    info.info({})
    assert shown(metrics_backend, "build") == {(): 1.0}


def test_an_info_with_labels_says_a_thing_for_each(metrics_backend):
    info = Info("build", "", ["app"])
    info.labels("a").info({"version": 1})
    info.labels("b").info({"version": "2"})
    info.labels("a").info({"version": "3"})
    assert set(shown(metrics_backend, "build")) == {(("app", "a"), ("version", "3")), (("app", "b"), ("version", "2"))}
    with pytest.raises(InvalidMetricError, match="labels of the metric itself"):
        info.labels("a").info({"app": "x"})


def test_a_label_of_an_info_that_is_reserved_or_no_name_is_refused():
    info = Info("build", "")
    for label in ("__x", "a-b", "", 7):
        with pytest.raises(InvalidMetricError, match="build"):
            info.info({label: "x"})


def test_an_enum_is_in_one_state_the_first_to_begin_with(metrics_backend):
    light = Enum("light", "", states=["red", "green"])
    assert light.value == "red"
    assert shown(metrics_backend, "light") == {(): 0.0}
    light.state("green")
    assert light.value == "green"
    with pytest.raises(InvalidMetricError, match="light: state 'blue': it is one of red, green"):
        light.state("blue")
    assert light.value == "green"


def test_an_enum_with_labels_has_a_state_for_each():
    light = Enum("light", "", ["street"], states=["red", "green"])
    light.labels("a").state("green")
    assert (light.labels("a").value, light.labels("b").value) == ("green", "red")


# -- remove and clear -------------------------------------------------------------------------------------------------

USES = {
    Counter: lambda series: series.inc(3),
    Gauge: lambda series: series.set(3),
    Histogram: lambda series: series.observe(3),
    Summary: lambda series: series.observe(3),
    Info: lambda series: series.info({"version": "1"}),
    Enum: lambda series: series.state("off"),
}


def labels_shown(backend, own=("shop", "code")):
    return sorted(tuple(v for k, v in labels if k in own) for labels in shown(backend, "thing"))


@pytest.mark.parametrize("type_", TYPES)
def test_remove_hides_one_series(type_, metrics_backend):
    metric = declare(type_, labelnames=["code", "shop"])
    for code in ("1", "2"):
        USES[type_](metric.labels(code, "a"))
    metric.remove(1, "a")
    assert labels_shown(metrics_backend) == [("2", "a")]
    metric.remove("no", "such")
    assert labels_shown(metrics_backend) == [("2", "a")]
    USES[type_](metric.labels("1", "a"))
    assert labels_shown(metrics_backend) == [("1", "a"), ("2", "a")]
    if type_ in (Counter, Gauge):
        assert metric.labels("1", "a").value == 3.0


@pytest.mark.parametrize("type_", TYPES)
def test_remove_by_labels_hides_all_that_have_them(type_, metrics_backend):
    metric = declare(type_, labelnames=["code", "shop"])
    for code in ("1", "2"):
        for shop in ("a", "b"):
            USES[type_](metric.labels(code, shop))
    metric.remove_by_labels({"code": 1})
    assert labels_shown(metrics_backend) == [("2", "a"), ("2", "b")]
    metric.remove_by_labels({"code": "2", "shop": "b"})
    assert labels_shown(metrics_backend) == [("2", "a")]
    metric.remove_by_labels({})
    assert labels_shown(metrics_backend) == [("2", "a")]
    with pytest.raises(InvalidMetricError, match=r"thing: labels .'x'."):
        metric.remove_by_labels({"x": "1"})


@pytest.mark.parametrize("type_", TYPES)
def test_clear_hides_all_series(type_, metrics_backend):
    metric = declare(type_, labelnames=["code", "shop"])
    for code in ("1", "2"):
        USES[type_](metric.labels(code, "a"))
    metric.clear()
    assert labels_shown(metrics_backend) == []
    USES[type_](metric.labels("2", "a"))
    assert labels_shown(metrics_backend) == [("2", "a")]


@pytest.mark.parametrize("type_", TYPES)
def test_clear_leaves_a_metric_without_labels_as_it_is(type_, metrics_backend):
    metric = declare(type_)
    USES[type_](metric)
    before = shown(metrics_backend, "thing")
    metric.clear()
    assert shown(metrics_backend, "thing") == before != {}


@pytest.mark.parametrize("type_", TYPES)
def test_a_metric_without_labels_has_nothing_to_remove(type_):
    metric = declare(type_)
    with pytest.raises(InvalidMetricError, match="thing: remove"):
        metric.remove("a")
    with pytest.raises(InvalidMetricError, match="thing: remove"):
        metric.remove_by_labels({"a": "b"})


@pytest.mark.parametrize("values", [(), ("a",), ("a", "b", "c")])
def test_remove_wants_all_label_values(values):
    with pytest.raises(InvalidMetricError, match="thing"):
        declare(Counter, labelnames=["shop", "code"]).remove(*values)


def test_a_series_held_across_a_removal_goes_on_counting():
    counter = Counter("jobs", "", ["shop"])
    held = counter.labels("a")
    held.inc(5)
    counter.remove("a")
    held.inc(2)
    counter.labels("a").inc(1)
    assert counter.labels("a").value == held.value == 3.0


# -- subclasses -------------------------------------------------------------------------------------------------------


class Metered(Counter):
    """A user's subclass with a method of its own."""

    def twice(self):
        self.inc()
        self.inc()


class Audited(Histogram):
    def __init__(self, name, documentation="", labelnames=(), **options):
        super().__init__(name, documentation, labelnames, **options)
        self.audit = []

    def observe(self, amount):
        self.audit.append(amount)
        super().observe(amount)


def test_a_subclass_is_a_metric_with_its_own_methods_and_attributes(metrics_backend):
    metered = Metered("jobs", "")
    metered.twice()
    assert isinstance(metered, Metered)
    assert metered.value == 2.0
    audited = Audited("seconds", buckets=[1])
    audited.observe(0.5)
    assert audited.audit == [0.5]
    assert audited.count == 1.0
    assert type(audited).__name__ == "Audited"


def test_a_subclass_with_labels_gives_series(metrics_backend):
    metered = Metered("jobs", "", ["shop"])
    metered.labels("a").inc(2)
    assert isinstance(metered, Metered)
    assert shown(metrics_backend, "jobs") == {(("shop", "a"),): 2.0}


class Fixed(Counter):
    """A subclass that says its labels itself, which is known only once the object is there."""

    def __init__(self, name):
        super().__init__(name, "Words.", ["shop"])


def test_a_subclass_that_says_its_labels_too_late_is_told_what_to_do():
    with pytest.raises(InvalidMetricError, match=r"jobs: Fixed says labelnames .* in its __new__ as well"):
        Fixed("jobs")


class Live(Gauge):
    def __init__(self, name):
        super().__init__(name, "Words.", multiprocess_mode="livesum")


def test_a_subclass_that_says_its_mode_too_late_is_told_what_to_do():
    """The mode decides how many slots a gauge has: one with the wrong number would write into its neighbour's."""
    with pytest.raises(InvalidMetricError, match=r"depth: Live says .*multiprocess_mode in its __init__ only"):
        Live("depth")


class Chosen(Counter):
    def __new__(cls, name):
        return super().__new__(cls, name, "Words.", ["shop"])

    def __init__(self, name):
        super().__init__(name, "Words.", ["shop"])


def test_a_subclass_that_says_its_labels_in_time_counts(metrics_backend):
    chosen = Chosen("jobs")
    chosen.labels("a").inc()
    assert isinstance(chosen, Chosen)
    assert shown(metrics_backend, "jobs") == {(("shop", "a"),): 1.0}


# -- what an error says ------------------------------------------------------------------------------------------------


class Unshowable:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("kind", "update", "value", "said"),
    [
        ("counter", "inc", -1, "counter amount -1: a counter only grows; give a finite amount of at least 0"),
        ("counter", "inc", inf, "counter amount inf: a counter only grows"),
        ("counter", "inc", "3", "'3' is no number (str); give an int or a float"),
        ("counter", "inc", Unshowable(), "a Unshowable is no number (Unshowable); give an int or a float"),
        ("gauge", "set", None, "None is no number (NoneType); give an int or a float"),
        ("gauge", "dec", True, "True is no number (bool); give an int or a float"),
        ("histogram", "observe", "x" * 100, "xxx... is no number (str); give an int or a float"),
        ("histogram", "observe", 10**400, "... is no number (int); give an int or a float"),
        ("histogram", "observe", nan, "observed NaN: it belongs to no bucket"),
        ("summary", "observe", [], "[] is no number (list); give an int or a float"),
    ],
)
@pytest.mark.parametrize(
    ("labels", "named"), [({}, "orders"), ({"shop": "a", "kind": 1}, "orders{kind='1', shop='a'}")]
)
def test_a_refused_value_is_named_with_its_metric_and_labels(metrics_backend, kind, update, value, said, labels, named):
    series = getattr(metrics_backend, kind)("orders", **labels)
    with pytest.raises(InvalidMetricError) as refused:
        getattr(series, update)(value)
    assert str(refused.value).startswith(f"{named}: ")
    assert said in str(refused.value)
    assert len(str(refused.value)) < 250


def test_a_declared_metric_s_refusals_name_it():
    for metric, named in (
        (Counter("plain", ""), "plain"),
        (Counter("labelled", "", ["a"]).labels("x"), "labelled{a='x'}"),
    ):
        with pytest.raises(InvalidMetricError, match=re.escape(f"{named}: counter amount -1")):
            metric.inc(-1)
        with pytest.raises(InvalidMetricError, match=re.escape(f"{named}: counter amount -1")):
            metric.inc(-1, exemplar={"trace_id": "x"})
        assert metric.value == 0
