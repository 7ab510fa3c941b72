"""Sums that do not depend on the order of their terms.

Cluster totals must not fall, not even in the last bit, when an instance moves from the blobs to the retired totals and
so to another position in the sum: a rate would treat the fall as a counter reset. Rounding after each addition makes
the last bit depend on the order. So a sum is a pair, high + low: high is the sum rounded to float64, and low is what
was rounded away (T. J. Dekker, "A floating-point technique for extending the available precision", 1971). This is exact
while the highest and lowest bits of the sum are at most 105 bits apart. Beyond, the relative error is at most 2**-104.
"""

from __future__ import annotations

import numpy as np

from shm_metrics.model.arrays import FloatArray, IntArray

__all__ = ["add_compensated"]


def add_compensated(
    high: FloatArray, low: FloatArray, at: IntArray, values: FloatArray, more: FloatArray | None = None
) -> None:
    """Add `values` (and `more`, far smaller, if given) to the pairs at `at`, no position twice, in place."""
    before = high[at]
    total = before + values
    back = total - before
    # What `total` rounded away. Of infinities it would be NaN; they have nothing to round away.
    error = (before - (total - back)) + (values - back) + low[at]
    if more is not None:
        error += more
    rounded = total + error
    back = rounded - total  # after a subtraction `error` may be the greater one, so this too is done in full
    rest = (total - (rounded - back)) + (error - back)
    finite = np.isfinite(rounded) & np.isfinite(rest)
    if finite.all():
        high[at], low[at] = rounded, rest
    else:
        high[at], low[at] = np.where(finite, rounded, total), np.where(finite, rest, 0.0)
