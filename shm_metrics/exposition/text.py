"""Prometheus text format 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Iterable

from shm_metrics.exposition.dialect import TEXT
from shm_metrics.exposition.names import OnDropped, ignore
from shm_metrics.exposition.page import render_page
from shm_metrics.exposition.samples import Renderable

__all__ = ["CONTENT_TYPE_TEXT", "render_text"]

CONTENT_TYPE_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def render_text(families: Iterable[Renderable], *, on_dropped: OnDropped = ignore, created: bool = False) -> bytes:
    """Render the families in format 0.0.4, in the order given.

    on_dropped: called for each family that could not be shown (see names.Dropped).
    created: also show the creation time of each series, as gauges `x_created`; this bypasses the line caches.
    """
    return b"".join(render_page(families, TEXT, on_dropped, created))
