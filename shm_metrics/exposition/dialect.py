"""What differs between the two text formats: the head of a family, and how types and names are written.

type             0.0.4: name, type           OpenMetrics: name, type
counter          x_total  counter            x  counter
info             x_info   gauge              x  info
stateset         x        gauge              x  stateset
gaugehistogram   x        histogram          x  gaugehistogram
unknown          x        untyped            x  unknown
others           x        as they are        x  as they are
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shm_metrics.exposition.escaping import escape_help, escape_value, metric_name
from shm_metrics.model.families import COUNTER, GAUGE, HISTOGRAM, INFO, STATESET, SUMMARY

__all__ = ["OPENMETRICS", "TEXT", "Dialect"]

_TEXT_NAMES = {
    COUNTER: ("_total", "counter"),
    GAUGE: ("", "gauge"),
    HISTOGRAM: ("", "histogram"),
    SUMMARY: ("", "summary"),
    INFO: ("_info", "gauge"),
    STATESET: ("", "gauge"),
    "gaugehistogram": ("", "histogram"),
}
_OPENMETRICS_TYPES = {*_TEXT_NAMES}


@dataclass(frozen=True, slots=True)
class Dialect:
    """One of the two text formats.

    key: its name in caches.

    head: (name, type, documentation, unit) -> the lines before a family's samples.
    openmetrics: exemplars and timestamps in seconds; `_created`, `_gcount` and `_gsum` stay among the samples.
    """

    key: str
    head: Callable[[str, str, str, str], str]
    openmetrics: bool


def _text_head(name: str, type: str, documentation: str, unit: str) -> str:
    suffix, shown = _TEXT_NAMES.get(type, ("", "untyped"))
    name = metric_name(name + suffix)
    return f"# HELP {name} {escape_help(documentation)}\n# TYPE {name} {shown}\n"


def _openmetrics_head(name: str, type: str, documentation: str, unit: str) -> str:
    name = metric_name(name)
    shown = type if type in _OPENMETRICS_TYPES else "unknown"
    head = f"# HELP {name} {escape_value(documentation)}\n# TYPE {name} {shown}\n"
    # A unit that the name does not end in would make the whole page invalid; info and stateset may not have one.
    if unit and name.endswith(f"_{unit}") and type not in (INFO, STATESET):
        head += f"# UNIT {name} {unit}\n"
    return head


TEXT = Dialect("text", _text_head, openmetrics=False)
OPENMETRICS = Dialect("openmetrics", _openmetrics_head, openmetrics=True)
