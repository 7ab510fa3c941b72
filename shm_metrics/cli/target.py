"""The arguments that select a segment and what of it to show; the same for every command."""

from __future__ import annotations

import argparse
import os

from shm_metrics.backend import MetricsBackend
from shm_metrics.segment.location import SEGMENT_PREFIX, SHM_DIRECTORY, SegmentLocation, locate_segment

__all__ = ["add_target", "others_there", "read_target", "target"]

MOST_NAMED = 8


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add NAME and the options on process metrics."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="the segment's name, or a path with a slash in it; default: what SHM_METRICS_SEGMENT says, else `default`",
    )
    parser.add_argument("--no-process-metrics", action="store_true", help="leave out CPU, memory, ... of the workers")
    parser.add_argument("--per-worker", action="store_true", help="also one series a worker of these")


def target(arguments: argparse.Namespace) -> SegmentLocation:
    """The place that NAME means. Raises InvalidMetricError."""
    name: str | None = arguments.name
    return locate_segment(path=name) if name is not None and "/" in name else locate_segment(name)


def read_target(arguments: argparse.Namespace) -> MetricsBackend:
    """Open the selected segment, read only. Raise InvalidMetricError, or FileNotFoundError that lists the others."""
    place = target(arguments)
    try:
        return MetricsBackend(
            path=place.path,
            read_only=True,
            process_metrics=not arguments.no_process_metrics,
            per_worker=arguments.per_worker,
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}{others_there(place)}") from None


def others_there(place: SegmentLocation) -> str:
    """Return a sentence that lists the existing segments, or "" if there are none."""
    if place.shm is None:
        return ""
    try:
        names = sorted(name for name in os.listdir(SHM_DIRECTORY) if name.startswith(SEGMENT_PREFIX))
    except OSError:
        return ""
    if not names:
        return ""
    listed = " ".join(f"{SHM_DIRECTORY}/{name}" for name in names[:MOST_NAMED])
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"\nThere are (shm_metrics-UID-NAME): {listed}{more}"
