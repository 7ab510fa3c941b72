"""Quantiles from buckets: Prometheus' histogram_quantile, and how far off it may be."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm_metrics.model.quantiles import estimate

BOUNDS = (1.0, 2.0, 4.0, inf)


@pytest.mark.parametrize(
    ("quantile", "counts", "expected"),
    [
        (0.5, (10, 0, 0, 0), 0.5),  # the first bucket begins at 0
        (0.9, (10, 0, 0, 0), 0.9),
        (0.5, (0, 10, 0, 0), 1.5),
        (0.5, (5, 5, 0, 0), 1.0),
        (0.9, (5, 0, 5, 0), 3.6),
        (0.99, (1, 1, 1, 97), 4.0),  # beyond the last bound: at least so much
        (0.5, (0, 0, 0, 1), 4.0),
        (0.5, (0, 0, 0, 0), None),
    ],
)
def test_estimates_are_those_of_prometheus(quantile, counts, expected):
    found = estimate(quantile, BOUNDS, list(accumulate(counts)))
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_first_bucket_below_zero_is_its_bound():
    assert estimate(0.5, (-1.0, 1.0, inf), [10, 10, 10]) == -1.0
    assert estimate(0.5, (0.0, 1.0, inf), [10, 10, 10]) == 0.0


def test_a_damaged_count_has_no_quantile():
    assert estimate(0.5, BOUNDS, [float("nan")] * 4) is None


@given(st.lists(st.floats(0.001, 4.0), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.99]))
def test_an_estimate_lies_in_the_bucket_of_the_true_value(values, quantile):
    counts = [0] * len(BOUNDS)
    for value in values:
        counts[bisect_left(BOUNDS, value)] += 1
    found = estimate(quantile, BOUNDS, list(accumulate(counts)))
    rank = quantile * len(values)
    true = sorted(values)[max(0, int(-(-rank // 1)) - 1)]
    bucket = bisect_left(BOUNDS, true)
    assert (BOUNDS[bucket - 1] if bucket else 0.0) <= found <= BOUNDS[bucket] + 1e-9
