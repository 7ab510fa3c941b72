"""Infos of many instances."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from shm_metrics.cluster.model.blob import Part
from shm_metrics.cluster.model.tables import Definition, Rows
from shm_metrics.model.arrays import FloatArray
from shm_metrics.model.families import INFO, Family, LabelPairs, SeriesLabels

__all__ = ["latest_info"]


def latest_info(
    parts: Iterable[Part], take: Callable[[Family], bool] = lambda family: True
) -> tuple[list[Rows], FloatArray]:
    """Return the infos of all parts, with the latest labels of each series, and the time at which each was set."""
    families: dict[Definition, Family] = {}
    best: dict[Definition, dict[LabelPairs, tuple[float, LabelPairs]]] = {}
    for part in parts:
        for rows, key, start in zip(part.table.families, part.table.definitions, part.table.starts, strict=False):
            if rows.family.type != INFO or not take(rows.family):
                continue
            families.setdefault(key, rows.family)
            newest = best.setdefault(key, {})
            at = part.stamps[start[1] : start[1] + len(rows.labels)].tolist()
            for own, labels, stamp in zip(rows.keys or rows.labels, rows.labels, at, strict=True):
                if stamp > 0.0 and stamp > newest.get(own, (0.0, ()))[0]:
                    newest[own] = stamp, labels
    infos, stamps = [], []
    for key in sorted(families):
        series = sorted(best[key].items())
        infos.append(
            Rows(families[key], SeriesLabels(latest for _, (_, latest) in series), tuple(own for own, _ in series))
        )
        stamps += [stamp for _, (stamp, _) in series]
    return infos, np.array(stamps, np.float64)
