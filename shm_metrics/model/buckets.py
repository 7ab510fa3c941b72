"""Histogram buckets."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

from shm_metrics.errors import InvalidMetricError

__all__ = ["DEFAULT_BUCKETS", "check_buckets"]

# prometheus_client's default (prometheus_client/metrics.py, Histogram.DEFAULT_BUCKETS): seconds of a web request.
DEFAULT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, math.inf)


def check_buckets(buckets: Iterable[float], name: str = "") -> tuple[float, ...]:
    """Return the upper bounds as floats, ascending, with +Inf as the last. Raise InvalidMetricError."""
    try:
        bounds = [float(bound) for bound in buckets]
    except (TypeError, ValueError):
        raise InvalidMetricError(
            f"{name}: buckets {buckets!r}: give a list of upper bounds, such as [0.1, 1, 10]"
        ) from None
    if any(math.isnan(bound) for bound in bounds):
        raise InvalidMetricError(f"{name}: buckets {bounds}: NaN is no upper bound")
    if any(low >= high for low, high in pairwise(bounds)):
        raise InvalidMetricError(f"{name}: buckets {bounds}: give each bound once, in ascending order")
    if not bounds or bounds[-1] != math.inf:
        bounds.append(math.inf)
    if len(bounds) < 2:
        raise InvalidMetricError(f"{name}: buckets {bounds}: give at least one finite upper bound")
    return tuple(bounds)
