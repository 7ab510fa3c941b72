"""How long rendering takes, families to bytes: python -m bench.exposition

Prints the best of many runs in milliseconds, for text 0.0.4 and OpenMetrics. "none changed" is a scrape that finds
every number as the last one left it, "all changed" one that finds every number new, "first" one without any cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import numpy as np

from shm_metrics.exposition import FamilyRun, RunFamilies, render_openmetrics, render_text
from shm_metrics.model.families import COUNTER, GAUGE, HISTOGRAM, Family, FamilySnapshot, SeriesLabels

RUNS = 30
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, float("inf"))

Make = Callable[[np.random.Generator], list[Any]]


def unlabelled() -> SeriesLabels:
    return SeriesLabels([()])


def paths(n: int) -> SeriesLabels:
    return SeriesLabels([(("path", f"/items/{i}"),) for i in range(n)])


def one_family(n: int, kind: str = COUNTER, scale: float = 1e5, whole: bool = True) -> Make:
    family, labels = Family("http_requests", kind, "Requests."), paths(n)

    def make(rng: np.random.Generator) -> list[Any]:
        values = rng.random(n) * scale + (scale if scale > 1e5 else 0)
        return [FamilySnapshot(family, labels, np.floor(values) if whole else values)]

    return make


def many_families(n: int, run: bool) -> Make:
    families = RunFamilies((Family(f"requests_{i}", COUNTER, "Requests."), unlabelled()) for i in range(n))

    def make(rng: np.random.Generator) -> list[Any]:
        together = FamilyRun(families, np.floor(rng.random(n) * 1e5))
        return [together] if run else list(together.split())

    return make


def histograms(families: int, series: int, run: bool = False) -> Make:
    heads = RunFamilies(
        (Family(f"latency_{i}", HISTOGRAM, "Latency.", bounds=BOUNDS), paths(series)) for i in range(families)
    )

    def make(rng: np.random.Generator) -> list[Any]:
        n = families * series
        together = FamilyRun(heads, np.floor(rng.random((n, len(BOUNDS))) * 500), rng.random(n) * 100)
        return [together] if run else list(together.split())

    return make


def both(first: Make, second: Make) -> Make:
    return lambda rng: first(rng) + second(rng)


CASES: dict[str, Callable[[], Make]] = {
    "1 family x 10,000 counters": lambda: one_family(10_000),
    "1 family x 10,000 counters over 1e6": lambda: one_family(10_000, scale=1e8),
    "1 family x 10,000 fractional gauges": lambda: one_family(10_000, GAUGE, whole=False),
    "1,000 counters + 100 histograms, 2 families": lambda: both(one_family(1_000), histograms(1, 100)),
    "the same, 1,100 families in 2 runs": lambda: both(many_families(1_000, run=True), histograms(100, 1, run=True)),
    "the same, 1,100 families one by one": lambda: both(many_families(1_000, run=False), histograms(100, 1)),
    "10,000 counter families in 1 run": lambda: many_families(10_000, run=True),
    "10,000 counter families one by one": lambda: many_families(10_000, run=False),
    "100,000 counters + 10,000 histograms": lambda: both(one_family(100_000), histograms(1, 10_000)),
}


def timed(render: Callable[[list[Any]], bytes], inputs: Iterator[list[Any]]) -> float:
    best = float("inf")
    for families in inputs:
        start = perf_counter()
        render(families)
        best = min(best, perf_counter() - start)
    return best * 1e3


def main() -> None:
    rng = np.random.default_rng(7)
    print(f"{'ms, best of ' + str(RUNS):46} {'none changed':>13} {'all changed':>12} {'first':>8} {'OpenMetrics':>12}")
    for title, case in CASES.items():
        make = case()
        runs = RUNS if "100,000" not in title else 5
        same = make(rng)
        first = timed(render_text, iter([same]))
        none = timed(render_text, iter([same] * runs))
        changed = timed(render_text, (make(rng) for _ in range(runs)))
        render_openmetrics(same)
        openmetrics = timed(render_openmetrics, (make(rng) for _ in range(runs)))
        print(f"{title:46} {none:13.3f} {changed:12.3f} {first:8.1f} {openmetrics:12.3f}")


if __name__ == "__main__":
    main()
