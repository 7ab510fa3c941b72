"""The slots of a series: how many there are, and the code of each."""

from __future__ import annotations

from shm_metrics.model.families import COUNTER, GAUGE, HISTOGRAM, SUMMARY, Family
from shm_metrics.model.gauge_modes import MODES, SHARED, GaugeMode
from shm_metrics.segment import layout as L

__all__ = ["SHARED_SLOTS", "slot_codes"]

_STAMPS = {
    "inherited": L.SLOT_STAMP_INHERITED,
    "cleared": L.SLOT_STAMP_CLEARED,
    "min": L.SLOT_STAMP_MIN,
    "max": L.SLOT_STAMP_MAX,
    "newest": L.SLOT_STAMP_NEWEST,
    "shared": L.SLOT_STAMP_SHARED,
}


def _gauge_codes(mode: GaugeMode) -> bytes:
    stamp, value = _STAMPS[mode.dead], L.SLOT_VALUE
    if mode.name == SHARED:
        return bytes([stamp, value, stamp, value, stamp, L.SLOT_DELTA])
    return bytes([stamp, value])


_GAUGES = {mode.name: _gauge_codes(mode) for mode in MODES.values()}
SHARED_SLOTS = len(_GAUGES[SHARED])


def slot_codes(family: Family) -> bytes:
    """Return the codes in the slot map of one series of this family."""
    if family.type == COUNTER:
        return bytes([L.SLOT_ADDS])
    if family.type in (HISTOGRAM, SUMMARY):
        buckets = max(1, len(family.bounds))  # a summary counts into one bucket
        return bytes([L.SLOT_SEQUENCE] + [L.SLOT_BUCKET] * buckets + [L.SLOT_SUM] * 2)
    return _GAUGES[family.mode if family.type == GAUGE else "mostrecent"]
