"""Rules that make one value of many workers'.

Lives here: arithmetic on arrays. May not: read anything.
"""

from __future__ import annotations

import numpy as np

from shm_metrics.arrays import BoolArray, FloatArray

__all__ = ["combine"]


def combine(rule: str, stamps: FloatArray, values: FloatArray) -> tuple[FloatArray, BoolArray]:
    """One value a series.

    stamps, values: shape (workers, n); a stamp of 0 means that the worker has no value.
    Returns values (n,) and whether any worker had one (n,). The sum of none is 0; min, max and newest of none are 0
    and marked.
    """
    there = stamps > 0.0
    some: BoolArray = there.sum(axis=0) > 0
    if rule == "sum":
        return np.where(there, values, 0.0).sum(axis=0), some
    if not len(stamps):
        return np.zeros(values.shape[1]), some
    if rule == "newest":
        return np.where(some, np.take_along_axis(values, stamps.argmax(axis=0)[None], axis=0)[0], 0.0), some
    if rule == "min":
        return np.where(some, np.where(there, values, np.inf).min(axis=0), 0.0), some
    return np.where(some, np.where(there, values, -np.inf).max(axis=0), 0.0), some
