"""The rows of the table: which figure, beside which, and what was promised.

The numbers are promises to users; they change in a commit that says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.peers import DROP_IN, FLOOR, INTERPRETED, MULTIPROCESS, OURS, SINGLE
from bench.record import Record
from bench.sections import Plan

__all__ = ["Row", "Verdict", "judge", "rows"]


@dataclass(frozen=True)
class Row:
    """One promise.

    ours, base: (figure, peer); base is what ours is set against.
    rule: `faster`: base / ours is at least the target; `at most times`, `at least times`: so is ours / base;
        `at most`: our amount itself, with no base.
    """

    title: str
    unit: str
    ours: tuple[str, str]
    base: tuple[str, str]
    rule: Literal["faster", "at most times", "at least times", "at most"]
    target: float


@dataclass(frozen=True)
class Verdict:
    """value: the ratio, or the amount, that the target is set against; None where it was not measured."""

    value: float | None
    met: bool | None


def _faster(title: str, figure: str, target: float, unit: str = "ns", base: str = "", ours: str = OURS) -> Row:
    return Row(title, unit, (figure, ours), (base or figure, MULTIPROCESS), "faster", target)


def rows(plan: Plan) -> list[Row]:
    """Every row of the table, in its order."""
    series = f"{plan.untouched:,} untouched series"
    return [
        Row("counter.inc(), to a C no-op", "ns", ("inc", OURS), ("floor", FLOOR), "at most times", 1.5),
        _faster("counter.inc()", "inc", 35),
        _faster("counter.labels(a, b).inc()", "labels", 20),
        _faster("counter.labels(a=, b=).inc()", "labels_keyword", 12),
        _faster("backend.counter(name, a=, b=).inc()", "by_name", 5, base="labels_keyword"),
        _faster("gauge.set(v)", "set", 20),
        _faster("histogram.observe(v)", "observe", 60),
        _faster("with histogram.time()", "time", 15),
        _faster("counter.inc(), interpreted", "inc", 3, ours=INTERPRETED),
        _faster("counter.inc(), drop-in", "inc", 8, ours=DROP_IN),
        _faster("counter.labels(a, b).inc(), drop-in", "labels", 4, ours=DROP_IN),
        _faster("gauge.set(v), drop-in", "set", 8, ours=DROP_IN),
        _faster("histogram.observe(v), drop-in", "observe", 4, ours=DROP_IN),
        Row("backend.handle_event(), 3 labels", "ns", ("event", OURS), ("", ""), "at most", 1_500),
        _faster("the same, by hand", "event", 3, base="event_by_hand"),
        _faster("scrape: 8 x 10,000 counters", "scrape_wide", 100, "ms"),
        _faster("scrape: 8 x 10,000 counters, drop-in", "scrape_wide", 100, "ms", ours=DROP_IN),
        _faster("scrape: 32 x (1,000 c. + 100 hist.)", "scrape_mixed", 250, "ms"),
        Row(
            f"scrape after {plan.recycled:,} recycled workers",
            "ms",
            ("recycled", OURS),
            ("unrecycled", OURS),
            "at most times",
            1.2,
        ),
        Row("increments/s, 2 processes to 1", "M/s", ("rate_2", OURS), ("rate_1", OURS), "at least times", 1.9),
        _faster("first use of a label set, counter", "first_counter", 1, "us"),
        _faster("first use of a label set, histogram", "first_histogram", 5, "us"),
        Row("import", "ms", ("import", OURS), ("import", SINGLE), "at most times", 1.2),
        Row(f"memory for {series}, joined", "KiB", ("memory_joined", OURS), ("", ""), "at most", 1024),
        Row(f"memory for {series}, forked", "KiB", ("memory_forked", OURS), ("", ""), "at most", 1024),
    ]


def judge(row: Row, record: Record) -> Verdict:
    """What came out for the row, and whether that keeps the promise."""
    if row.rule == "at most":
        value = record.typical(*row.ours)
    elif row.rule == "faster":
        value = record.ratio(row.base, row.ours)
    else:
        value = record.ratio(row.ours, row.base)
    if value is None:
        return Verdict(None, None)
    at_least = row.rule in ("faster", "at least times")
    return Verdict(value, value >= row.target if at_least else value <= row.target)
