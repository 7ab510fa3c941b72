"""The record as one table of text, for a terminal and for the documentation."""

from __future__ import annotations

from collections.abc import Sequence

from bench.peers import FLOOR, MULTIPROCESS, RUST, SINGLE
from bench.record import Record
from bench.targets import Row, judge

__all__ = ["render"]

# the units in which a figure is kept, and how many of them make the unit in which it is shown
DIVISORS = {"ns": 1.0, "us": 1e3, "ms": 1.0, "M/s": 1e6, "KiB": 1.0}
PEER_COLUMNS = {FLOOR: "C no-op", SINGLE: "client", MULTIPROCESS: "client mp", RUST: "promrs"}
HEADINGS = ["", "unit", "shm_metrics", *PEER_COLUMNS.values(), "ratio", "target", ""]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _figure(row: Row, peer: str) -> str:
    """Which of a peer's figures stands in the row: for our way by name, say, its labels(a=, b=)."""
    base_figure, base_peer = row.base
    if peer == FLOOR:
        return base_figure if base_peer == FLOOR else ""
    return base_figure if base_peer == MULTIPROCESS else row.ours[0]


def _row(row: Row, record: Record) -> list[str]:
    divisor = DIVISORS[row.unit]

    def shown(figure: str, peer: str) -> str:
        value = record.typical(figure, peer)
        return _number(None if value is None else value / divisor)

    cells = [row.title, row.unit, shown(*row.ours), *(shown(_figure(row, peer), peer) for peer in PEER_COLUMNS)]
    verdict = judge(row, record)
    if verdict.value is None:
        return [*cells, "-", "", "not measured"]
    sign = ">=" if row.rule in ("faster", "at least times") else "<="
    suffix = f" {row.unit}" if row.rule == "at most" else "x"
    ratio = "" if row.rule == "at most" else f"{_number(verdict.value)}x"
    return [*cells, ratio, f"{sign} {row.target:,g}{suffix}", "met" if verdict.met else "MISSED"]


def render(rows: Sequence[Row], record: Record) -> str:
    """The table; the first column stands left, the others right."""
    lines = [HEADINGS, *(_row(row, record) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = []
    for title, *others in lines:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        texts.append("  ".join([title.ljust(widths[0]), *cells]))
    texts.insert(1, "-" * len(texts[0]))
    return "\n".join(texts)
