"""Sums that are the same in any order, to the last bit."""

from __future__ import annotations

import functools
import math
import operator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm_metrics.cluster.merge.compensated_sum import add_compensated
from tests.support.blobs import unhurried

# Bits from 2**-57 to 2**45: what a sum of them needs is less than 105.
amounts = st.integers(-(2**52), 2**52).flatmap(lambda n: st.integers(-57, -8).map(lambda e: math.ldexp(n, e)))


def total(values, low=None) -> tuple[float, float]:
    high, rest, at = np.zeros(1), np.zeros(1), np.array([0])
    with np.errstate(invalid="ignore", over="ignore"):
        for value in values:
            add_compensated(high, rest, at, np.array([value]))
    return float(high[0]), float(rest[0])


@unhurried
@given(st.lists(amounts, max_size=30), st.randoms())
def test_a_sum_is_exact_in_any_order(values, random):
    high, low = total(values)
    exact = sum(map(Fraction, values), Fraction())
    assert Fraction(high) + Fraction(low) == exact
    assert high == float(exact)
    random.shuffle(values)
    assert total(values) == (high, low)


@unhurried
@given(st.lists(amounts, min_size=1, max_size=20), st.data())
def test_a_pair_that_was_summed_before_is_as_good_as_what_it_was_made_of(values, data):
    cut = data.draw(st.integers(0, len(values)))
    before = total(values[:cut])
    high, low, at = np.zeros(1), np.zeros(1), np.array([0])
    add_compensated(high, low, at, np.array([before[0]]), np.array([before[1]]))
    for value in values[cut:]:
        add_compensated(high, low, at, np.array([value]))
    assert (high[0], low[0]) == total(values)


def test_what_float_addition_would_lose_is_kept():
    values = [0.1] * 3 + [1e15] + [-1e15]
    assert total(values)[0] == math.fsum(values)
    assert functools.reduce(operator.add, values) != math.fsum(values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([math.inf], math.inf),
        ([1.0, math.inf, 2.0], math.inf),
        ([-math.inf, 5.0], -math.inf),
        ([1e308, 1e308, 1.0], math.inf),
    ],
)
def test_infinities_stay(values, expected):
    assert total(values) == (expected, 0.0)


@pytest.mark.parametrize("values", [[math.nan], [1.0, math.nan, 2.0], [math.inf, -math.inf]])
def test_what_is_no_number_stays_none(values):
    assert math.isnan(total(values)[0])
    assert total(values)[1] == 0.0
