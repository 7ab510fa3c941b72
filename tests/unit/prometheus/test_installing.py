"""Putting the drop-in in its place, before or after the metrics exist, and taking it out again."""

from __future__ import annotations

import contextlib
import gc
import inspect
import logging
import weakref

import prometheus_client
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

import shm_metrics.prometheus
from shm_metrics import MetricsBackend, MetricsError
from shm_metrics.prometheus.patching import Patches


@pytest.fixture
def registry():
    return CollectorRegistry()


def test_metrics_made_afterwards_count_in_the_segment(installed, registry):
    Counter("made_total", "", registry=registry).inc(2)
    assert installed.snapshot().value("made_total") == 2


def test_metrics_and_children_that_exist_take_along_what_they_counted(clean, registry, make_backend):
    counter = Counter("c", "", ["path"], registry=registry)
    child = counter.labels("/a")
    child.inc(3)
    gauge = Gauge("g", "", registry=registry)
    gauge.set(7)
    histogram = Histogram("h", "", buckets=[1, 10], registry=registry)
    for value in (0.5, 5, 50):
        histogram.observe(value)
    summary = Summary("s", "", registry=registry)
    summary.observe(4)
    info = Info("i", "", registry=registry)
    info.info({"version": "1"})
    enum = Enum("e", "", states=["off", "on"], registry=registry)
    enum.state("on")

    backend = shm_metrics.prometheus.install(make_backend())
    child.inc()
    histogram.observe(0.25)

    found = backend.snapshot()
    assert found.value("c", path="/a") == 4
    assert found.value("g") == 7
    assert found.family("h").values.tolist() == [[2, 1, 1]]
    assert found.family("h").sums.tolist() == [55.75]
    assert (found.value("s"), found.family("s").sums.tolist()) == (1, [4])
    assert found.family("i").labels == ((("version", "1"),),)
    assert found.value("e") == 1


def test_a_metric_in_no_registry_is_found_too(clean, make_backend):
    counter = Counter("unregistered", "", registry=None)
    backend = shm_metrics.prometheus.install(make_backend())
    counter.inc()
    assert backend.snapshot().value("unregistered") == 1


def test_taken_out_everything_is_as_it_was(clean, make_backend):
    metric_classes = (Counter, Gauge, Histogram, Summary, Info, Enum, Counter.__mro__[1], CollectorRegistry)
    before = [dict(vars(cls)) for cls in metric_classes]
    codes = generate_latest.__code__, values.MultiProcessValue.__code__
    value_class = values.ValueClass
    shm_metrics.prometheus.install(make_backend())
    shm_metrics.prometheus.uninstall()
    assert [dict(vars(cls)) for cls in metric_classes] == before
    assert (generate_latest.__code__, values.MultiProcessValue.__code__) == codes
    assert values.ValueClass is value_class


def test_taken_out_a_metric_goes_on_in_its_own_process(clean, registry, make_backend):
    old = Counter("old", "", registry=registry)
    old.inc()
    backend = shm_metrics.prometheus.install(make_backend())
    new = Histogram("new", "", buckets=[1], registry=registry)
    new.observe(0.5)
    new.observe(2)
    gauge = Gauge("gauge", "", registry=registry)
    gauge.set(3)
    old.inc()
    shm_metrics.prometheus.uninstall()
    old.inc()
    new.observe(3)
    assert registry.get_sample_value("old_total") == 3
    assert registry.get_sample_value("new_bucket", {"le": "1.0"}) == 1
    assert registry.get_sample_value("new_count") == 3
    assert registry.get_sample_value("new_sum") == 5.5
    assert registry.get_sample_value("gauge") == 3
    assert backend.snapshot().value("old") == 2


def test_installed_again_a_metric_counts_in_the_new_segment(clean, registry, make_backend, tmp_path):
    counter = Counter("again", "", registry=registry)
    shm_metrics.prometheus.install(make_backend())
    counter.inc()
    shm_metrics.prometheus.uninstall()
    second = shm_metrics.prometheus.install(make_backend(path=tmp_path / "second"))
    counter.inc()
    assert second.snapshot().value("again") == 2


def test_twice_is_once(installed):
    counter = Counter("twice", "", registry=None)
    counter.inc()
    assert shm_metrics.prometheus.install() is installed
    assert shm_metrics.prometheus.install(installed) is installed
    counter.inc()
    assert installed.snapshot().value("twice") == 2


def test_a_second_backend_is_refused_by_name(installed, make_backend, tmp_path):
    second = make_backend(path=tmp_path / "second")
    with pytest.raises(MetricsError, match=r"second.*uninstall\(\) first"):
        shm_metrics.prometheus.install(second)
    Counter("still", "", registry=None).inc()
    assert installed.snapshot().value("still") == 1


def test_a_backend_that_only_reads_is_refused(clean, make_backend, segment_name):
    make_backend()
    with pytest.raises(MetricsError, match="read_only"):
        shm_metrics.prometheus.install(MetricsBackend(segment_name, read_only=True))
    assert "shm" not in values.ValueClass.__module__


def test_uninstalling_what_is_not_installed_does_nothing(clean):
    shm_metrics.prometheus.uninstall()


def test_names_imported_before_are_the_ones_that_serve(clean, make_backend):
    # `generate_latest` stands in this module since long before install().
    signature = inspect.signature(generate_latest)
    backend = shm_metrics.prometheus.install(make_backend())
    backend.counter("from_elsewhere").inc()
    assert b"from_elsewhere_total 1.0" in generate_latest()
    assert b"from_elsewhere_total 1.0" in generate_latest(registry=prometheus_client.REGISTRY)
    assert inspect.signature(generate_latest) == signature


def test_without_a_backend_it_follows_the_default_one(clean, metrics_backend, registry, tmp_path):
    from shm_metrics.default import use_backend

    counter = Counter("followed", "", ["a"], registry=registry)
    assert shm_metrics.prometheus.install() is metrics_backend
    counter.labels("x").inc()
    second = MetricsBackend(path=tmp_path / "second")
    use_backend(second)
    try:
        counter.labels("x").inc(5)
        assert second.snapshot().value("followed", a="x") == 5
        assert metrics_backend.snapshot().value("followed", a="x") == 1
        assert b'followed_total{a="x"} 5.0' in generate_latest()
    finally:
        use_backend(metrics_backend)
        second.close()


def test_a_name_with_another_type_counts_for_its_process_and_says_so(installed, registry, caplog):
    first = Counter("taken", "", registry=None)
    first.inc()
    with caplog.at_level(logging.ERROR):
        second = Gauge("taken", "", registry=registry)
    assert "taken: declared with type 'counter' before, now with 'gauge'" in caplog.text
    second.set(5)
    assert registry.get_sample_value("taken") == 5
    assert installed.snapshot().value("taken") == 1


def test_a_metric_that_its_registry_refuses_leaves_nothing_behind(installed, registry):
    Gauge("refused_created", "", registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Counter("refused", "", registry=registry)
    assert [family.family.name for family in installed.snapshot() if "refused" in family.family.name] == [
        "refused_created"
    ]


def test_a_function_replaced_in_place_keeps_what_it_was():
    def add(a: int, b: int = 2, *, c: int = 3) -> int:
        return a + b + c

    patches = Patches()
    patches.function(add, lambda before: lambda *args, **kwargs: 10 * before(*args, **kwargs))
    assert (add(1), add(1, 1, c=1)) == (60, 30)
    patches.restore()
    assert (add(1), add(1, 1, c=1)) == (6, 3)


@pytest.mark.parametrize(("told", "wanted"), [("1", True), ("true", True), ("0", False), ("", False), ("no", False)])
def test_the_environment_asks_for_it(monkeypatch, told, wanted):
    monkeypatch.setenv("SHM_METRICS_PROMETHEUS", told)
    assert shm_metrics.prometheus.is_wanted() is wanted


def test_importing_it_does_not_import_prometheus_client(python):
    code = "import sys, shm_metrics.prometheus; print('prometheus_client' in sys.modules)"
    assert python(code) == "False\n"


def test_installed_again_in_the_same_segment_nothing_is_counted_twice(clean, registry, make_backend):
    backend = make_backend()
    counter, histogram = Counter("c", "", registry=registry), Histogram("h", "", buckets=[1], registry=registry)
    summary, gauge = Summary("s", "", registry=registry), Gauge("g", "", registry=registry)
    shm_metrics.prometheus.install(backend)
    counter.inc(5)
    histogram.observe(0.5)
    summary.observe(4)
    gauge.set(1)
    for _ in range(2):
        shm_metrics.prometheus.uninstall()
        shm_metrics.prometheus.install(backend)
    shm_metrics.prometheus.uninstall()
    counter.inc()
    histogram.observe(3)
    make_backend().gauge("g").set(2)
    shm_metrics.prometheus.install(backend)
    found = backend.snapshot()
    assert (found.value("c"), found.value("s"), found.value("g")) == (6, 1, 2)
    assert found.family("h").values.tolist() == [[1, 1]]
    assert found.family("h").sums.tolist() == [3.5]


def test_a_counter_that_was_reset_between_two_installations_brings_what_it_counted_since(clean, registry, make_backend):
    backend = make_backend()
    counter = Counter("c", "", registry=registry)
    shm_metrics.prometheus.install(backend)
    counter.inc(5)
    shm_metrics.prometheus.uninstall()
    counter._value.set(0)
    counter.inc(2)
    shm_metrics.prometheus.install(backend)
    assert backend.snapshot().value("c") == 7


def test_a_gauge_keeps_its_function_when_installed_and_when_taken_out(clean, registry, make_backend):
    before, after = Gauge("before", "", registry=registry), Gauge("after", "", registry=registry)
    before.set_function(lambda: 42)
    backend = shm_metrics.prometheus.install(make_backend())
    after.set_function(lambda: 43)
    assert [registry.get_sample_value(name) for name in ("before", "after")] == [42, 43]
    assert backend.snapshot().value("before") == 42
    shm_metrics.prometheus.uninstall()
    assert [registry.get_sample_value(name) for name in ("before", "after")] == [42, 43]


def test_a_gauge_with_a_function_from_before_is_not_kept_alive(clean, make_backend):
    gauge = Gauge("g", "", registry=None)
    gauge.set_function(lambda: 42)
    shm_metrics.prometheus.install(make_backend())
    watched = weakref.ref(gauge)
    del gauge
    gc.collect()
    assert watched() is None


def test_metrics_that_the_garbage_collector_was_told_to_forget_are_found(clean, make_backend):
    counter = Counter("frozen", "", ["a"], registry=None)
    child = counter.labels("x")
    child.inc()
    gc.freeze()
    try:
        backend = shm_metrics.prometheus.install(make_backend())
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
    child.inc()
    assert backend.snapshot().value("frozen", a="x") == 2


def test_a_default_backend_that_has_a_name_for_something_else_costs_that_metric_only(
    clean, metrics_backend, registry, make_backend, tmp_path, caplog
):
    from shm_metrics.default import use_backend

    metrics = [Counter(name, "", registry=registry) for name in ("first", "taken_there", "last")]
    shm_metrics.prometheus.install()
    second = make_backend(path=tmp_path / "second")
    second.gauge("taken_there").set(1)
    use_backend(second)
    try:
        for metric in metrics:
            metric.inc()
        assert [second.snapshot().value(name) for name in ("first", "taken_there", "last")] == [1, 1, 1]
        assert registry.get_sample_value("taken_there_total") == 1
        assert "counts for its own process only" in caplog.text
    finally:
        use_backend(metrics_backend)


def test_two_metrics_of_one_definition_count_together_and_move_once(clean, metrics_backend):
    from shm_metrics import configure

    shm_metrics.prometheus.install()
    one, two = (Counter("shared", "", registry=CollectorRegistry()) for _ in range(2))
    one.inc(3)
    two.inc(4)
    moved = configure(metrics_backend.place.path.rpartition("/")[2] + "-moved")
    try:
        one.inc()
        two.inc()
        assert moved.snapshot().value("shared") == 9
    finally:
        moved.unlink()


def test_taken_out_it_follows_no_default_backend(clean, metrics_backend, make_backend, tmp_path):
    from shm_metrics.default import use_backend
    from shm_metrics.metrics.default_backend import declared

    shm_metrics.prometheus.install()
    stale = [each for each in declared.values() if hasattr(each, "put_in_place")]
    shm_metrics.prometheus.uninstall()
    second = make_backend(path=tmp_path / "second")
    use_backend(second)
    try:
        assert stale
        # of the drop-in; what other tests of this process declared follows the default backend
        assert [found.family.name for found in second.snapshot() if found.family.name.startswith("python_")] == []
    finally:
        use_backend(metrics_backend)


def test_a_summary_that_the_parent_never_observed_is_not_told_as_left_out(python):
    code = """
import os, time, logging, sys
from prometheus_client import Summary
idle = Summary("idle", "", registry=None)
deadline = time.monotonic() + 0.05
while time.monotonic() < deadline:
    pass
pid = os.fork()
if pid == 0:
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    import shm_metrics.prometheus
    shm_metrics.prometheus.install()
    sys.stdout.flush()
    os._exit(0)
os.waitpid(pid, 0)
"""
    assert python(code) == ""


# -- one name, two definitions -----------------------------------------------------------------------------------------


def unregistered(metric):
    REGISTRY.unregister(metric)
    return metric


@pytest.fixture
def in_default():
    """in_default(metric): in the default registry until the test ends."""
    made = []

    def keep(metric):
        made.append(metric)
        return metric

    yield keep
    for metric in made:
        with contextlib.suppress(KeyError):
            REGISTRY.unregister(metric)


def test_a_metric_that_was_unregistered_gives_way_to_another_type(installed, other, in_default, caplog):
    first = unregistered(Counter("by_type", ""))
    first.inc(3)
    second = in_default(Gauge("by_type", ""))
    second.set(5)
    for seen in (installed, other):
        assert seen.snapshot().family("by_type").family.type == "gauge"
        assert seen.snapshot().value("by_type") == 5
    assert b"by_type 5.0" in generate_latest()
    first.inc()  # somebody holds it yet: it counts unseen
    assert installed.stats()["shadowed_series"] == 1
    assert caplog.records == []


def test_a_metric_that_was_unregistered_gives_way_to_other_buckets_and_back(installed, other, in_default):
    def make(*buckets):
        return in_default(Histogram("by_buckets", "", ["a"], buckets=buckets))

    made = make(1, 2)
    made.labels("x").observe(1)
    for buckets in ((5, 6), (1, 2)):
        REGISTRY.unregister(made)
        made = make(*buckets)
        made.labels("x").observe(1)
        found = other.snapshot().family("by_buckets")
        assert found.family.bounds[:-1] == buckets
    assert found.values.tolist() == [[2, 0, 0]], "made again it goes on where it stopped"


def test_a_metric_that_was_unregistered_gives_way_to_other_labels(installed, other, in_default):
    first = unregistered(Counter("by_labels", "", ["a"]))
    first.labels("x").inc(3)
    second = in_default(Counter("by_labels", "", ["a", "b"]))
    second.labels("x", "y").inc()
    assert other.snapshot().family("by_labels").labels == ((("a", "x"), ("b", "y")),)
    third = in_default(Counter("by_labels", "", registry=unregistered(second) and REGISTRY))
    third.inc(4)
    assert other.snapshot().value("by_labels") == 4
    assert [sample.labels for sample in collected("by_labels") if sample.name == "by_labels_total"] == [{}]


def collected(name):
    return [sample for metric in REGISTRY.collect() if metric.name == name for sample in metric.samples]


def test_a_metric_that_is_gone_gives_way(installed):
    first = Counter("by_gone", "", registry=CollectorRegistry())
    del first
    gc.collect()
    second = Gauge("by_gone", "", registry=CollectorRegistry())
    second.set(5)
    assert installed.snapshot().value("by_gone") == 5


def test_a_metric_that_another_registry_still_has_keeps_its_name(installed, registry, caplog):
    first = Counter("by_two_registries", "", registry=registry)
    REGISTRY.register(first)
    REGISTRY.unregister(first)
    second = Gauge("by_two_registries", "", registry=None)
    second.set(5)
    first.inc()
    assert "counts for its own process only" in caplog.text
    assert installed.snapshot().value("by_two_registries") == 1


def test_what_the_engine_s_own_api_made_gives_way_to_nobody(installed, registry, caplog):
    installed.counter("by_own_api").inc()
    Gauge("by_own_api", "", registry=registry).set(5)
    assert "counts for its own process only" in caplog.text
    installed.counter("by_own_api").inc()
    assert installed.snapshot().value("by_own_api") == 2


def test_of_two_definitions_before_install_the_registered_one_counts(clean, make_backend, in_default, caplog):
    first = unregistered(Counter("by_early", ""))
    second = in_default(Gauge("by_early", "", ["a"]))
    second.labels("x").set(5)
    backend = shm_metrics.prometheus.install(make_backend())
    assert backend.snapshot().value("by_early", a="x") == 5
    assert "counts for its own process only" in caplog.text
    first.inc()
    assert first._value.get() == 1


def test_removal_of_a_metric_that_gave_way_touches_nothing_of_the_newer(installed, in_default):
    first = unregistered(Histogram("by_removed", "", ["a"], buckets=[1]))
    first.labels("x").observe(1)
    second = in_default(Histogram("by_removed", "", ["a"], buckets=[2]))
    second.labels("x").observe(1)
    first.clear()
    first.remove("x")
    assert installed.snapshot().family("by_removed").values.tolist() == [[1, 0]]
