"""The rules that make one value of many workers'."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shm_metrics.reader.aggregate import combine, shared_gauges

RULES = ("sum", "min", "max", "newest")


def one(rule, *workers):
    """combine() of one series: (stamp, value) a worker."""
    given = np.array(workers, float).reshape(len(workers), 2)
    values, some = combine(rule, given[:, :1], given[:, 1:])
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


@settings(deadline=None)  # the machine may be busy
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


# -- shared gauges -----------------------------------------------------------------------------------------------------


def shared(epoch, *rows):
    """shared_gauges() of one series: the six slots of each row. Value, stamp, whether there is one."""
    block = np.array(rows, float).reshape(len(rows), 6, 1)
    values, stamps, some = shared_gauges(np.array([float(epoch)]), block)
    return float(values[0]), float(stamps[0]), bool(some[0])


NOTHING = (0, 0, 0, 0, 0, 0)


def test_the_base_of_the_epoch_counts_wherever_it_stands():
    assert shared(5, (3, 30, 5, 50, 0, 0), (4, 40, 2, 20, 0, 0)) == (50.0, 5.0, True)
    assert shared(4, (3, 30, 5, 50, 0, 0), (4, 40, 2, 20, 0, 0)) == (40.0, 4.0, True), "of a set() that has not come to"
    assert shared(2, (3, 30, 5, 50, 0, 0), (4, 40, 2, 20, 0, 0)) == (20.0, 2.0, True)


def test_deltas_of_the_epoch_are_added_and_those_of_before_are_dropped():
    assert shared(5, (5, 50, 0, 0, 5, 1.5), (0, 0, 0, 0, 5, -4), (0, 0, 0, 0, 4, 1000)) == (47.5, 5.0, True)


def test_before_the_first_set_the_deltas_are_the_value():
    assert shared(0, (0, 0, 0, 0, 0, 3), (0, 0, 0, 0, 0, -1)) == (2.0, 0.0, True)


def test_a_base_without_an_epoch_of_it_was_not_set_yet():
    """Between the stores of a first set(): the pair stands in the row, and the ledger does not say so yet."""
    assert shared(0, NOTHING) == (0.0, 0.0, False)
    assert shared(0, (0, 7, 0, 0, 0, 0)) == (0.0, 0.0, False)


def test_where_no_row_has_the_base_of_the_epoch_the_newest_one_counts_with_its_deltas():
    assert shared(9, (3, 30, 5, 50, 5, 1), (4, 40, 2, 20, 9, 2), (0, 0, 0, 0, 4, 7)) == (53.0, 5.0, True)


def test_no_row_and_no_series_make_no_value():
    assert shared(0) == (0.0, 0.0, False)
    assert shared(7) == (0.0, 0.0, False)
    values, stamps, some = shared_gauges(np.zeros(0), np.zeros((3, 6, 0)))
    assert values.shape == stamps.shape == some.shape == (0,)


def test_moves_that_add_up_to_nothing_are_a_value_all_the_same():
    assert shared(0, (0, 0, 0, 0, 0, 3), (0, 0, 0, 0, 0, -3)) == (0.0, 0.0, True)
    assert shared(5, (5, 0, 0, 0, 0, 0)) == (0.0, 5.0, True), "set to 0"


def test_shared_gauges_are_put_together_apart():
    epochs = np.array([5.0, 0.0, 7.0])
    rows = [[5.0, 50.0, 0.0, 0.0, 5.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 2.0], [6.0, 60.0, 7.0, 70.0, 6.0, 3.0]]
    values, stamps, some = shared_gauges(epochs, np.array([rows]).transpose(0, 2, 1))
    assert values.tolist() == [51.0, 2.0, 70.0]
    assert stamps.tolist() == [5.0, 0.0, 7.0]
    assert some.tolist() == [True, True, True]
