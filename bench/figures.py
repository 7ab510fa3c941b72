"""Figures of one program, each with its target, as one table of text."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

__all__ = ["Figure", "milliseconds", "render", "typical"]


@dataclass(frozen=True)
class Figure:
    """A row of the table. most: the target, or None."""

    title: str
    unit: str
    value: float
    most: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.most is None else self.value <= self.most


def milliseconds(work: Callable[[], object]) -> float:
    """How long it took, once."""
    gc.collect()
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def typical(rounds: int, work: Callable[[], object]) -> float:
    """Milliseconds: the median."""
    return median(milliseconds(work) for _ in range(rounds))


def render(figures: list[Figure]) -> str:
    lines = [["", "unit", "measured", "target", ""]]
    for each in figures:
        target = "" if each.most is None else f"<= {each.most:,g}"
        verdict = {True: "met", False: "MISSED", None: ""}[each.met]
        shown = f"{each.value:,.0f}" if each.value >= 100 else f"{each.value:.2f}"
        lines.append([each.title, each.unit, shown, target, verdict])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join([title.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))]).rstrip()
        for title, *cells in lines
    ]
    texts.insert(1, "-" * max(map(len, texts)))
    return "\n".join(texts)
