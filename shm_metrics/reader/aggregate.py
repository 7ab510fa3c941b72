"""Rules that combine the values of many workers."""

from __future__ import annotations

import numpy as np

from shm_metrics.model.arrays import BoolArray, FloatArray

__all__ = ["combine", "shared_gauges"]


def combine(rule: str, stamps: FloatArray, values: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Return one value a series.

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


def shared_gauges(epochs: FloatArray, block: FloatArray) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Return values, stamps and whether there is a value, of n shared gauges: shape (n,) each.

    epochs: shape (n,), of the ledger row: the stamp of the base that counts; 0 before the first set().
    block: shape (rows, 6 or more, n): (stamp, base) twice, epoch, delta.
    """
    if not block.size:
        return np.zeros(len(epochs)), np.zeros(len(epochs)), np.zeros(len(epochs), np.bool_)
    stamps, bases = block[:, (0, 2)].reshape(-1, len(epochs)), block[:, (1, 3)].reshape(-1, len(epochs))
    match = (stamps == epochs) & (epochs != 0.0)
    # No row has it: a worker that had not followed a removal yet set it. The newest of the others counts.
    which = np.where(match.any(axis=0), match.argmax(axis=0), stamps.argmax(axis=0))[None]
    stamp = np.take_along_axis(stamps, which, axis=0)[0]
    values = np.where(stamp > 0.0, np.take_along_axis(bases, which, axis=0)[0], 0.0)
    added = np.where((block[:, 4] == epochs) | (block[:, 4] == stamp), block[:, 5], 0.0)
    moved = np.zeros(len(epochs), np.bool_)
    for row in added:
        values = values + row
        moved |= row != 0.0
    return values, stamp, (stamp > 0.0) | moved
