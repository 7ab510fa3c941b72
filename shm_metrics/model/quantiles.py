"""Quantiles estimated from buckets, as Prometheus' histogram_quantile() estimates them.

The observations of a bucket are taken to be spread evenly over it, and those of the first bucket to begin at 0 if its
bound is above 0. So an estimate is off by less than the width of the bucket that the quantile falls into: it and the
true value lie in the same bucket. Beyond the last finite bound there is nothing to interpolate, and that bound is
given: the true value is at least so much.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["estimate"]


def estimate(quantile: float, bounds: Sequence[float], cumulative: Sequence[float]) -> float | None:
    """Return the value below which `quantile` (0 to 1) of the observations lie; None: there are no observations.

    bounds: upper, ascending, the last one +Inf. cumulative: how many observations are at or below each.
    """
    count = cumulative[-1]
    if not math.isfinite(count) or count <= 0:
        return None
    rank = quantile * count
    bucket = bisect_left(cumulative, rank)
    if bucket >= len(bounds) - 1:
        return float(bounds[-2])
    high = float(bounds[bucket])
    if bucket == 0 and high <= 0:
        return high
    low = float(bounds[bucket - 1]) if bucket else 0.0
    before = cumulative[bucket - 1] if bucket else 0.0
    within = cumulative[bucket] - before
    return low + (high - low) * ((rank - before) / within) if within > 0 else high
