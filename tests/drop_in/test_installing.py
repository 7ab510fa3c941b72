"""Putting the drop-in in its place, before or after the metrics exist, and taking it out again."""

from __future__ import annotations

import inspect
import logging

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary, generate_latest, values

import shm_metrics.prometheus
from shm_metrics import MetricsBackend, MetricsError
from shm_metrics.prometheus.replacing import Replacements


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

    replacements = Replacements()
    replacements.function(add, lambda before: lambda *args, **kwargs: 10 * before(*args, **kwargs))
    assert (add(1), add(1, 1, c=1)) == (60, 30)
    replacements.restore()
    assert (add(1), add(1, 1, c=1)) == (6, 3)


@pytest.mark.parametrize(("told", "wanted"), [("1", True), ("true", True), ("0", False), ("", False), ("no", False)])
def test_the_environment_asks_for_it(monkeypatch, told, wanted):
    monkeypatch.setenv("SHM_METRICS_PROMETHEUS", told)
    assert shm_metrics.prometheus.is_wanted() is wanted


def test_importing_it_does_not_import_prometheus_client(python):
    code = "import sys, shm_metrics.prometheus; print('prometheus_client' in sys.modules)"
    assert python(code) == "False\n"
