"""Families as JSON Lines: one object a series and line, for log shippers and `jq`.

{"name": "jobs", "type": "counter", "unit": "", "labels": {"queue": "a"}, "value": 3.0}
{"name": "latency_seconds", "type": "histogram", "unit": "seconds", "labels": {}, "buckets": {"+Inf": 3.0}, ...}
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from shm_metrics.exposition.escaping import utf8
from shm_metrics.exposition.json_document import json_family
from shm_metrics.exposition.names import OnDropped, ignore, resolve_conflicts
from shm_metrics.exposition.samples import Renderable, as_samples, one_by_one

__all__ = ["CONTENT_TYPE_JSON_LINES", "render_json_lines"]

CONTENT_TYPE_JSON_LINES = "application/x-ndjson; charset=utf-8"


def render_json_lines(families: Iterable[Renderable], *, on_dropped: OnDropped = ignore) -> bytes:
    """Render a line for each series, each with a newline; a family without series has none."""
    lines: list[str] = []
    for part in one_by_one(resolve_conflicts(families, on_dropped)[0]):
        family = json_family(as_samples(part))
        head = {key: family[key] for key in ("name", "type", "unit")}
        lines += [json.dumps({**head, **series}, ensure_ascii=False) + "\n" for series in family["series"]]
    return utf8("".join(lines))
