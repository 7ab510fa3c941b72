"""Bucket bounds as users give them, and as they are kept."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
from prometheus_client import Histogram

from shm_metrics.errors import InvalidMetricError
from shm_metrics.model.buckets import DEFAULT_BUCKETS, check_buckets


def test_the_default_buckets_are_prometheus_clients():
    assert DEFAULT_BUCKETS == Histogram.DEFAULT_BUCKETS


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([1, 2], (1.0, 2.0, inf)),
        ((0.5, inf), (0.5, inf)),
        (iter([-1.0, 0.0]), (-1.0, 0.0, inf)),
        (np.array([0.1, 1.0]), (0.1, 1.0, inf)),
        (["1", "2.5"], (1.0, 2.5, inf)),
    ],
)
def test_bounds_are_kept_as_ascending_floats_that_end_with_infinity(given, kept):
    assert check_buckets(given) == kept


@pytest.mark.parametrize("given", [[], [inf], [2, 1], [1, 1], [nan], [1, nan, 2], [None], 7, ["x"], [1, inf, inf]])
def test_bounds_that_divide_nothing_are_refused_by_metric(given):
    with pytest.raises(InvalidMetricError, match="latency: buckets"):
        check_buckets(given, "latency")
