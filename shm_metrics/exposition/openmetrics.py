"""OpenMetrics text format 1.0.0.

https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md
"""

from __future__ import annotations

from collections.abc import Iterable

from shm_metrics.exposition.dialect import OPENMETRICS
from shm_metrics.exposition.names import OnDropped, ignore
from shm_metrics.exposition.page import render_page
from shm_metrics.exposition.samples import Renderable

__all__ = ["CONTENT_TYPE_OPENMETRICS", "render_openmetrics"]

CONTENT_TYPE_OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def render_openmetrics(
    families: Iterable[Renderable], *, on_dropped: OnDropped = ignore, created: bool = False
) -> bytes:
    """Render the families in OpenMetrics 1.0.0, in the order given, ending in `# EOF`.

    on_dropped: called for each family that could not be shown (see names.Dropped).
    created: also show the creation time of each series, as `x_created`; this bypasses the line caches.
    """
    return b"".join([*render_page(families, OPENMETRICS, on_dropped, created), b"# EOF\n"])
