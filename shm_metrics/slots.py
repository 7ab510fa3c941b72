"""How many slots a series takes, and what each is for.

Lives here: the shape of a series by its family. May not: allocate.
"""

from __future__ import annotations

from shm_metrics import layout as L
from shm_metrics.families import COUNTER, GAUGE, HISTOGRAM, SUMMARY, Family
from shm_metrics.gauge_modes import MODES

__all__ = ["slot_codes"]


def slot_codes(family: Family) -> bytes:
    """What the slot map says of the slots of one series of this family."""
    if family.type == COUNTER:
        return bytes([L.SLOT_ADDS])
    if family.type in (HISTOGRAM, SUMMARY):
        buckets = max(1, len(family.bounds))  # a summary counts into one bucket
        return bytes([L.SLOT_SEQUENCE] + [L.SLOT_BUCKET] * buckets + [L.SLOT_SUM] * 2)
    return MODES[family.mode if family.type == GAUGE else "mostrecent"].slot_codes
