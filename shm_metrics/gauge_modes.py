"""The gauge modes, as one table.

Lives here: what each mode means, to a new owner of a row and to a reader. May not: read or write a row.

prometheus_client's ten modes (its documentation, "Multiprocess Mode") and `shared`, the default: one value that any
worker may set, inc or dec.
"""

from __future__ import annotations

from dataclasses import dataclass

from shm_metrics import layout as L
from shm_metrics.errors import InvalidMetricError

__all__ = ["MODES", "GaugeMode", "gauge_mode"]

SHARED = "shared"
DEFAULT_MODE = SHARED


@dataclass(frozen=True, slots=True)
class GaugeMode:
    """
    combine: how a reader makes one value of the workers' (`each`: none, one series a worker, with a pid label).
    live: only living workers count.
    stamp_code: what the slot map says of its stamp, and so what becomes of a dead worker's value.
    """

    name: str
    combine: str
    live: bool
    stamp_code: int
    slots: int = 2
    moves: bool = True  # whether inc and dec make sense

    @property
    def slot_codes(self) -> bytes:
        if self.name == SHARED:
            stamp, value = self.stamp_code, L.SLOT_VALUE
            return bytes([stamp, value, stamp, value, stamp, L.SLOT_DELTA])
        return bytes([self.stamp_code, L.SLOT_VALUE])


MODES = {
    mode.name: mode
    for mode in (
        GaugeMode(SHARED, "shared", False, L.SLOT_STAMP_SHARED, slots=6),
        GaugeMode("all", "each", False, L.SLOT_STAMP_CLEARED),
        GaugeMode("liveall", "each", True, L.SLOT_STAMP_CLEARED),
        GaugeMode("min", "min", False, L.SLOT_STAMP_MIN),
        GaugeMode("livemin", "min", True, L.SLOT_STAMP_CLEARED),
        GaugeMode("max", "max", False, L.SLOT_STAMP_MAX),
        GaugeMode("livemax", "max", True, L.SLOT_STAMP_CLEARED),
        GaugeMode("sum", "sum", False, L.SLOT_STAMP_INHERITED),
        GaugeMode("livesum", "sum", True, L.SLOT_STAMP_CLEARED),
        GaugeMode("mostrecent", "newest", False, L.SLOT_STAMP_NEWEST, moves=False),
        GaugeMode("livemostrecent", "newest", True, L.SLOT_STAMP_CLEARED, moves=False),
    )
}


def gauge_mode(name: str) -> GaugeMode:
    """The mode of this name. Raises InvalidMetricError."""
    mode = MODES.get(name) if isinstance(name, str) else None
    if mode is None:
        raise InvalidMetricError(f"gauge mode {name!r}: use one of {', '.join(MODES)}")
    return mode
