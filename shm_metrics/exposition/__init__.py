"""Families to bytes: Prometheus text 0.0.4, OpenMetrics 1.0.0, JSON, JSON Lines and CSV, and the choice between them.

Lives here: pure functions of what they are given. May not: os, mmap, sockets, clocks.

    negotiate                      which format
    selection                      which families and samples
    text, openmetrics              the two text formats, over page (the walk), dialect (what differs),
                                   line_cache (the fast path) and names (one owner a name)
    json_document, json_lines, csv_table
                                   the others
    samples, lines, run            families in other forms: sample by sample, number by number, many in one
    escaping, floats               leaves
"""

from shm_metrics.exposition.csv_table import CONTENT_TYPE_CSV, render_csv
from shm_metrics.exposition.json_document import CONTENT_TYPE_JSON, render_json
from shm_metrics.exposition.json_lines import CONTENT_TYPE_JSON_LINES, render_json_lines
from shm_metrics.exposition.names import Dropped
from shm_metrics.exposition.negotiate import FORMATS, SCRAPED, SCRAPED_OR_JSON, Format, Offers, negotiate
from shm_metrics.exposition.openmetrics import CONTENT_TYPE_OPENMETRICS, render_openmetrics
from shm_metrics.exposition.selection import filter_families
from shm_metrics.exposition.text import CONTENT_TYPE_TEXT, render_text
from shm_metrics.model.family_run import FamilyRun, RunFamilies

__all__ = [
    "CONTENT_TYPE_CSV",
    "CONTENT_TYPE_JSON",
    "CONTENT_TYPE_JSON_LINES",
    "CONTENT_TYPE_OPENMETRICS",
    "CONTENT_TYPE_TEXT",
    "FORMATS",
    "SCRAPED",
    "SCRAPED_OR_JSON",
    "Dropped",
    "FamilyRun",
    "Format",
    "Offers",
    "RunFamilies",
    "filter_families",
    "negotiate",
    "render_csv",
    "render_json",
    "render_json_lines",
    "render_openmetrics",
    "render_text",
]
