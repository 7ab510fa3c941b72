"""The table of gauge modes: how a reader combines each, and what the next owner of a dead worker's row does.

prometheus_client's ten modes (its documentation, "Multiprocess Mode") and `shared`, the default: one value that any
worker may set, inc or dec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from shm_metrics.errors import InvalidMetricError

__all__ = ["MODES", "GaugeMode", "ModeName", "gauge_mode"]

ModeName = Literal[
    "shared",
    "all",
    "liveall",
    "min",
    "livemin",
    "max",
    "livemax",
    "sum",
    "livesum",
    "mostrecent",
    "livemostrecent",
]
"""The modes for the type checker; MODES has what each means."""

SHARED: Final = "shared"
DEFAULT_MODE: Final = SHARED


@dataclass(frozen=True, slots=True)
class GaugeMode:
    """One gauge mode.

    combine: how a reader makes one value of the workers' (`each`: none, one series a worker, with a pid label).
    live: only living workers count.
    dead: what becomes of a dead worker's value: `inherited` by the next owner of the row, `cleared`, or combined with
        those of other dead workers (`min`, `max`, `newest`, `shared`).
    """

    name: str
    combine: str
    live: bool
    dead: str
    slots: int = 2
    moves: bool = True  # whether inc and dec make sense


MODES = {
    mode.name: mode
    for mode in (
        GaugeMode(SHARED, "shared", False, "shared", slots=6),
        GaugeMode("all", "each", False, "cleared"),
        GaugeMode("liveall", "each", True, "cleared"),
        GaugeMode("min", "min", False, "min"),
        GaugeMode("livemin", "min", True, "cleared"),
        GaugeMode("max", "max", False, "max"),
        GaugeMode("livemax", "max", True, "cleared"),
        GaugeMode("sum", "sum", False, "inherited"),
        GaugeMode("livesum", "sum", True, "cleared"),
        GaugeMode("mostrecent", "newest", False, "newest", moves=False),
        GaugeMode("livemostrecent", "newest", True, "cleared", moves=False),
    )
}


def gauge_mode(name: str) -> GaugeMode:
    """Return the mode of this name. Raise InvalidMetricError."""
    mode = MODES.get(name) if isinstance(name, str) else None
    if mode is None:
        raise InvalidMetricError(f"gauge mode {name!r}: use one of {', '.join(MODES)}")
    return mode
