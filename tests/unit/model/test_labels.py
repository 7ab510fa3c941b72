"""Names and labels: Prometheus' rules, and one canonical form."""

from __future__ import annotations

import pytest

from shm_metrics.errors import InvalidMetricError
from shm_metrics.model.labels import (
    MAX_VALUE_CHARACTERS,
    check_label_names,
    check_metric_name,
    label_pairs,
    label_text,
)


@pytest.mark.parametrize("name", ["a", "_a", ":", "a:b_C9", "A" * 200])
def test_a_metric_name_that_prometheus_takes_is_taken(name):
    assert check_metric_name(name) == name


@pytest.mark.parametrize("name", ["", "9a", "a-b", "a b", "é", "a\n", None, 7, b"a", "x" * 100 + "-"])
def test_a_metric_name_that_prometheus_refuses_is_refused_by_value(name):
    with pytest.raises(InvalidMetricError) as caught:
        check_metric_name(name)
    assert repr(name)[:70] in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("names", [(), ["a"], ("a", "_b", "C9"), iter(["x", "y"])])
def test_valid_label_names_come_back_as_a_tuple_in_the_declared_order(names):
    checked = check_label_names(names, "counter", "m")
    assert isinstance(checked, tuple)
    assert checked in {(), ("a",), ("a", "_b", "C9"), ("x", "y")}


@pytest.mark.parametrize("names", [["a-b"], ["9"], [""], ["a:b"], ["__a"], [None], ["a", "a"], "ab", ["é"], ["a\n"]])
def test_invalid_label_names_are_refused_by_metric(names):
    with pytest.raises(InvalidMetricError, match="requests: label name"):
        check_label_names(names, "counter", "requests")


@pytest.mark.parametrize(("type_", "label"), [("histogram", "le"), ("summary", "quantile"), ("stateset", "light")])
def test_a_label_that_the_type_needs_for_itself_is_reserved(type_, label):
    with pytest.raises(InvalidMetricError, match="reserved"):
        check_label_names([label], type_, "light")
    assert check_label_names([label], "counter", "light") == (label,)


class Shop:
    def __str__(self) -> str:
        return "shop 1"


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no name")


def test_a_label_value_is_text_or_what_str_makes_of_it():
    values = ["", 'é\n"', 200, 1.5, None, True, Shop()]
    assert [label_text(value) for value in values] == ["", 'é\n"', "200", "1.5", "None", "True", "shop 1"]


def test_a_label_value_without_text_is_refused_by_label():
    with pytest.raises(InvalidMetricError, match=r"label 'shop': str\(\) of its Broken failed: no name"):
        label_text(Broken(), "shop")


def test_a_label_value_of_extreme_length_is_refused_by_label():
    assert label_text("x" * MAX_VALUE_CHARACTERS, "shop")
    with pytest.raises(InvalidMetricError, match=r"label 'shop'.*16385 characters"):
        label_text("x" * (MAX_VALUE_CHARACTERS + 1), "shop")


def test_a_label_value_that_is_no_unicode_is_refused_by_label():
    with pytest.raises(InvalidMetricError, match=r"label 'shop'.*surrogate"):
        label_text("a\ud800b", "shop")


def test_labels_of_extreme_length_in_all_are_refused():
    assert label_pairs({f"l{n}": "x" * 15_000 for n in range(3)})
    with pytest.raises(InvalidMetricError, match="labels of 60008 bytes in all"):
        label_pairs({f"l{n}": "x" * 15_000 for n in range(4)})
    with pytest.raises(InvalidMetricError, match="labels of 60002 bytes in all"):
        label_pairs({"a": "é" * 15_000, "b": "é" * 15_000})


def test_pairs_are_sorted_by_name_whatever_the_order_they_came_in():
    assert label_pairs({"b": 1, "a": "x"}) == label_pairs({"a": "x", "b": "1"}) == (("a", "x"), ("b", "1"))


@pytest.mark.parametrize("value", [[], ["a"], {}, {"a": 1}, set(), bytearray(b"a"), ([],)])
def test_what_cannot_be_hashed_is_no_label_value(value):
    with pytest.raises(InvalidMetricError, match=f"label 'shop': a {type(value).__name__} is no label value"):
        label_text(value, "shop")


@pytest.mark.parametrize("names", [5, None, "shop"])
def test_label_names_that_are_no_list_are_refused_by_metric(names):
    with pytest.raises(InvalidMetricError, match=r"jobs: label names .*: give a list or tuple of names"):
        check_label_names(names, name="jobs")
