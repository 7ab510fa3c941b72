"""The classes that the public ones make: what help, repr, isinstance and a patch see of them."""

from __future__ import annotations

import inspect
import pydoc
import re
from unittest import mock

import pytest

from shm_metrics import Counter, Enum, Gauge, Histogram, Info, InvalidMetricError, Summary
from shm_metrics.model.gauge_modes import MODES

OPTIONS = {Enum: {"states": ["on", "off"]}}

# Every method that updates a series, with arguments.
UPDATES = [
    (Counter, "inc", (2,)),
    (Counter, "increment", (2,)),
    (Counter, "reset", ()),
    (Gauge, "set", (2,)),
    (Gauge, "inc", (2,)),
    (Gauge, "dec", (2,)),
    (Histogram, "observe", (2,)),
    (Histogram, "time", ()),
    (Summary, "observe", (2,)),
    (Info, "info", ({"version": "1"},)),
    (Enum, "state", ("off",)),
]


def declare(type_, name, labelnames=()):
    return type_(name, "Words.", labelnames, **OPTIONS.get(type_, {}))


@pytest.mark.parametrize(("type_", "method", "arguments"), UPDATES)
def test_a_patched_method_is_called_for_every_metric_and_series(type_, method, arguments, metrics_backend):
    plain, series = declare(type_, "plain"), declare(type_, "family", ["path"]).labels("/a")
    calls = []
    with mock.patch.object(type_, method, lambda self, *given: calls.append((self, given))):
        getattr(plain, method)(*arguments)
        getattr(series, method)(*arguments)
    assert calls == [(plain, arguments), (series, arguments)]
    with mock.patch.object(type_, method) as patched:
        getattr(series, method)(*arguments)
    patched.assert_called_once_with(*arguments)
    getattr(plain, method)(*arguments)
    assert len(calls) == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_patched_set_is_called_for_gauges_of_every_mode(mode, metrics_backend):
    gauge = Gauge("depth", "", multiprocess_mode=mode)
    with mock.patch.object(Gauge, "set") as patched:
        gauge.set(3)
    patched.assert_called_once_with(3)


def test_patched_labels_and_what_removes_are_called(metrics_backend):
    jobs = Counter("jobs", "", ["shop"])
    for method, arguments in {"labels": ("a",), "remove": ("a",), "clear": ()}.items():
        with mock.patch.object(Counter, method) as patched:
            getattr(jobs, method)(*arguments)
        patched.assert_called_once_with(*arguments)


def test_a_patched_method_is_called_for_series_in_the_overflow(make_backend):
    backend = make_backend(rows=2, slots=512)
    jobs = Counter("jobs", "", ["number"], registry=backend)
    series = [jobs.labels(str(number)) for number in range(600)]
    overflowed = series[-1]
    assert overflowed.overflowed
    assert isinstance(overflowed, Counter)
    with mock.patch.object(Counter, "inc") as patched:
        overflowed.inc(2)
    patched.assert_called_once_with(2)


@pytest.mark.parametrize("type_", [Counter, Gauge, Histogram, Summary, Info, Enum])
def test_help_shows_labels_and_updates_with_signatures_and_words(type_):
    text = pydoc.plain(pydoc.render_doc(type_))
    assert re.search(
        r"\n \|  labels\(self, (/, )?\*labelvalues, \*\*labelkwargs\)[^\n]*\n \|      Return the series with", text
    )
    # Newer Pythons begin a new line after the bracket.
    assert re.search(rf"\|  {type_.__name__}\([\s|]*name: 'str',[\s|]*documentation: 'str' = ''", text)
    for update_type, method, _ in UPDATES:
        if update_type is type_:
            assert inspect.getdoc(getattr(type_, method))
            assert next(iter(inspect.signature(getattr(type_, method)).parameters)) == "self"


@pytest.mark.parametrize("type_", [Counter, Gauge, Histogram, Summary, Info, Enum])
def test_a_series_is_an_instance_of_the_public_class(type_, metrics_backend):
    series = declare(type_, "thing", ["shop"]).labels("a")
    assert isinstance(series, type_)
    assert (series.name, series.documentation) == ("thing", "Words.")


class Metered(Counter):
    """A user's subclass."""


def test_a_repr_names_the_class_the_metric_and_the_labels(metrics_backend):
    requests = Counter("http_requests", "", ["path", "code"])
    assert repr(requests) == "<Counter http_requests>"
    assert repr(requests.labels("/a", 200)) == '<Counter http_requests{code="200",path="/a"}>'
    assert repr(requests.labels('"\\\n', "1")) == r'<Counter http_requests{code="1",path="\"\\\n"}>'
    assert repr(Metered("metered", "")) == "<Metered metered>"
    assert repr(Gauge("depth", "", multiprocess_mode="max")) == "<Gauge depth>"
    assert len(repr(requests.labels("x" * 10_000, "1"))) < 150


def test_what_concerns_the_family_is_refused_on_a_series(metrics_backend):
    series = Counter("jobs", "", ["shop"]).labels("a")
    refused = {"remove": ("a",), "remove_by_labels": ({"shop": "a"},), "clear": (), "collect": ()}
    for method, arguments in refused.items():
        with pytest.raises(InvalidMetricError, match=rf"jobs{{shop='a'}}: {method}\(\) on a series"):
            getattr(series, method)(*arguments)


def test_a_value_without_labels_is_an_attribute_error_that_says_so(metrics_backend):
    with pytest.raises(AttributeError, match=r"jobs: missing label values; it has the labels \['shop'\]"):
        Counter("jobs", "", ["shop"]).value
