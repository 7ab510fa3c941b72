"""Families as CSV: a row for each sample, for spreadsheets and scripts."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import StringIO

from shm_metrics.exposition.escaping import label_text, utf8
from shm_metrics.exposition.floats import go_text
from shm_metrics.exposition.names import OnDropped, ignore, resolve_conflicts
from shm_metrics.exposition.samples import Renderable, as_samples, base_name, one_by_one

__all__ = ["CONTENT_TYPE_CSV", "render_csv"]

CONTENT_TYPE_CSV = "text/csv; charset=utf-8; header=present"

_COLUMNS = ("family", "type", "unit", "sample", "labels", "value", "timestamp")


def render_csv(families: Iterable[Renderable], *, on_dropped: OnDropped = ignore) -> bytes:
    """Render columns family, type, unit, sample, labels, value, timestamp; a row for each bucket, count and sum.

    Labels are written as in Prometheus (`path="/a",le="0.1"`), values as in format 0.0.4.
    """
    table = StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for item in one_by_one(resolve_conflicts(families, on_dropped)[0]):
        metric = as_samples(item)
        name = base_name(metric.name, metric.type)
        for sample in metric.samples:
            if sample.value is None:
                continue
            labels = label_text(sorted((label, str(value)) for label, value in sample.labels.items()))
            # The csv module of CPython 3.10 neither writes nor reads NUL, and few other readers accept it.
            labels = labels.replace("\0", "\ufffd")
            stamp = "" if sample.timestamp is None else str(sample.timestamp)
            writer.writerow((name, metric.type, metric.unit, sample.name, labels, go_text(sample.value), stamp))
    return utf8(table.getvalue())
