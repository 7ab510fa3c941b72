"""Which format a scraper gets, by its Accept header."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from shm_metrics.exposition.csv_table import CONTENT_TYPE_CSV, render_csv
from shm_metrics.exposition.json_document import CONTENT_TYPE_JSON, render_json
from shm_metrics.exposition.json_lines import CONTENT_TYPE_JSON_LINES, render_json_lines
from shm_metrics.exposition.openmetrics import CONTENT_TYPE_OPENMETRICS, render_openmetrics
from shm_metrics.exposition.text import CONTENT_TYPE_TEXT, render_text

__all__ = [
    "CSV",
    "FORMATS",
    "JSON",
    "JSON_LINES",
    "OPENMETRICS",
    "SCRAPED",
    "SCRAPED_OR_JSON",
    "TEXT",
    "Format",
    "Offers",
    "negotiate",
]


@dataclass(frozen=True, slots=True)
class Format:
    """A format by name; `render(families, *, on_dropped=...)` gives the body for `content_type`."""

    name: str
    content_type: str
    render: Callable[..., bytes]


TEXT = Format("text", CONTENT_TYPE_TEXT, render_text)
OPENMETRICS = Format("openmetrics", CONTENT_TYPE_OPENMETRICS, render_openmetrics)
JSON = Format("json", CONTENT_TYPE_JSON, render_json)
JSON_LINES = Format("jsonl", CONTENT_TYPE_JSON_LINES, render_json_lines)
CSV = Format("csv", CONTENT_TYPE_CSV, render_csv)

FORMATS = {each.name: each for each in (TEXT, OPENMETRICS, JSON, JSON_LINES, CSV)}
"""By name, for a command line or a query parameter."""

Offers = tuple[tuple[Format, str, str, str], ...]
"""What a scrape may get: type, subtype, and the version a range may name. The first wins where nothing else decides."""

SCRAPED: Offers = (
    (TEXT, "text", "plain", "0.0.4"),
    (OPENMETRICS, "application", "openmetrics-text", "1.0.0"),
)
SCRAPED_OR_JSON: Offers = (*SCRAPED, (JSON, "application", "json", ""))
"""For pages that programs read, too. Others have only what prometheus_client's have."""


class _Range(NamedTuple):
    type: str
    subtype: str
    version: str
    quality: float


def negotiate(accept_header: str | None, offers: Offers = SCRAPED) -> Format:
    """Return the format with the highest quality; text 0.0.4 if the header is missing or accepts no offered format.

    The quality of a format is that of the most specific range matching it (RFC 9110, 12.5.1), so that
    `text/plain;q=0, */*` means anything but text. A range for another version matches nothing. Equal qualities go to
    the more specific match, then to the one named first. A malformed quality leaves out its range.
    """
    ranges = list(_ranges(accept_header or ""))
    best = (0.0, 0, 0)
    chosen = TEXT
    for format, type, subtype, version in offers:
        matches = []
        for place, each in enumerate(ranges):
            specific = _specificity(each, type, subtype, version)
            if specific:
                matches.append((specific, -place, each.quality))
        if not matches:
            continue
        specific, place, quality = max(matches)
        if quality > 0 and (quality, specific, place) > best:
            best = (quality, specific, place)
            chosen = format
    return chosen


def _specificity(each: _Range, type: str, subtype: str, version: str) -> int:
    """0: no match; 1: */*; 2: type/*; 3: type/subtype; 4: with the version."""
    if (each.type, each.subtype) == ("*", "*"):
        return 1
    if (each.type, each.subtype) == (type, "*"):
        return 2
    if (each.type, each.subtype) != (type, subtype) or each.version not in ("", version):
        return 0
    return 4 if each.version else 3


def _ranges(header: str) -> Iterator[_Range]:
    for element in header.split(","):
        media, *parameters = (part.strip() for part in element.split(";"))
        type, slash, subtype = media.lower().partition("/")
        if not slash:
            continue
        version, quality = "", 1.0
        for parameter in parameters:
            name, _, value = (part.strip() for part in parameter.partition("="))
            if name.lower() == "version":
                version = value.strip('"')
            elif name.lower() == "q":
                quality = _quality(value)
        if quality >= 0:
            yield _Range(type, subtype, version, quality)


def _quality(text: str) -> float:
    """From 0 to 1, or -1 where it is no number in that range."""
    try:
        quality = float(text)
    except ValueError:
        return -1.0
    return quality if 0 <= quality <= 1 else -1.0
