"""The rules that make one value of many workers'."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm_metrics.aggregate import combine

RULES = ("sum", "min", "max", "newest")


def one(rule, *workers):
    """combine() of one series: (stamp, value) a worker."""
    told = np.array(workers, float).reshape(len(workers), 2)
    values, some = combine(rule, told[:, :1], told[:, 1:])
    return float(values[0]), bool(some[0])


@pytest.mark.parametrize(("rule", "value"), [("sum", 6.0), ("min", -1.0), ("max", 4.0), ("newest", 3.0)])
def test_each_rule_makes_one_value_of_three_workers(rule, value):
    assert one(rule, (1.0, 4.0), (9.0, 3.0), (2.0, -1.0)) == (value, True)


@pytest.mark.parametrize("rule", RULES)
def test_a_worker_that_never_set_has_no_say(rule):
    assert one(rule, (0.0, -99.0), (1.0, 7.0), (0.0, 99.0)) == (7.0, True)


@pytest.mark.parametrize("rule", RULES)
def test_no_worker_with_a_value_makes_a_marked_zero(rule):
    assert one(rule, (0.0, 5.0), (0.0, 6.0)) == (0.0, False)
    assert one(rule) == (0.0, False)


@pytest.mark.parametrize("rule", RULES)
def test_no_series_at_all_is_nothing(rule):
    values, some = combine(rule, np.zeros((3, 0)), np.zeros((3, 0)))
    assert values.shape == some.shape == (0,)


@given(
    st.sampled_from(RULES),
    st.lists(
        st.tuples(st.integers(0, 5).map(float), st.floats(-1e9, 1e9)), min_size=1, max_size=6, unique_by=lambda w: w[0]
    ),
)
def test_combining_agrees_with_plain_python(rule, workers):
    there = [(stamp, value) for stamp, value in workers if stamp]
    plain = {"sum": lambda v: sum(v), "min": min, "max": max}
    if not there:
        expected = 0.0
    elif rule == "newest":
        expected = max(there)[1]
    else:
        expected = plain[rule]([value for _, value in there])
    found, some = one(rule, *workers)
    assert found == pytest.approx(expected)
    assert some == bool(there)


def test_series_are_combined_apart():
    stamps = np.array([[1.0, 0.0, 2.0], [2.0, 0.0, 1.0]])
    values = np.array([[10.0, 20.0, 30.0], [11.0, 21.0, 31.0]])
    found, some = combine("newest", stamps, values)
    assert found.tolist() == [11.0, 0.0, 30.0]
    assert some.tolist() == [True, False, True]
