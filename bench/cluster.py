"""`python -m bench.cluster [--quick] [--json FILE]`: what publishing and merging cost, and how that grows.

Exit status: 0 whether or not the targets are met, since a busy machine must not fail a build; 1 if a
measurement could not be made.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from statistics import median

import numpy as np

from bench.instances import blob_of, counters, mixed, request_labels, the_same, unlike
from bench.machine import describe, versions
from bench.memory import private_bytes
from shm_metrics.families import FamilySnapshot
from shm_metrics.sync import wire
from shm_metrics.sync.blob import Blob, Retired
from shm_metrics.sync.capture import Capture
from shm_metrics.sync.cluster import Merger
from shm_metrics.sync.fold import fold

__all__ = ["main"]

LARGE = 10_000  # series of the instance that is published
MANY = 1_000  # instances of the largest merge, and series of each


@dataclass(frozen=True)
class Plan:
    rounds: int
    instances: tuple[int, ...]


FULL = Plan(7, (10, 100, MANY))
QUICK = Plan(3, (10, MANY))


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


def typical(rounds: int, work: Callable[[], object]) -> float:
    """Milliseconds: the median."""
    took = []
    for _ in range(rounds):
        gc.collect()
        start = time.perf_counter()
        work()
        took.append((time.perf_counter() - start) * 1e3)
    return median(took)


def apart(work: Callable[..., list[Figure]], *arguments: object) -> list[Figure]:
    """What `work` measures, in a new process: its memory is its own, and nothing was decoded there before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


# ---- publishing -----------------------------------------------------------------------------------------------------


def publishing(plan: Plan) -> list[Figure]:
    """One instance of 10,000 series, without the network."""
    found = []
    rng, labels = np.random.default_rng(1), request_labels(LARGE)
    for kind, make, most in (("counters", counters, 20.0), ("mixed", mixed, None)):
        families, capture = make(labels, rng), Capture()
        blob = blob_of(families, 1, capture)
        frame = wire.encode(blob)
        table, _, _ = blob.parts[0].table.packed or (b"", b"", 0)
        title = f"{LARGE:,} series, {kind}"
        found += [
            Figure(f"{title}: bytes a series", "B", len(frame) / LARGE, most),
            Figure(f"{title}: of them table", "B", len(table) / LARGE),
            Figure(f"{title}: first capture", "ms", typical(plan.rounds, partial(blob_of, families, 1))),
            Figure(
                f"{title}: capture and encode again",
                "ms",
                typical(plan.rounds * 5, partial(_publish, families, capture)),
            ),
        ]
        wire._tables.clear()
        found.append(Figure(f"{title}: first decode", "ms", typical(1, partial(wire.decode, frame))))
        found.append(Figure(f"{title}: decode again", "ms", typical(plan.rounds * 5, partial(wire.decode, frame))))
    return found


def _publish(families: list[FamilySnapshot], capture: Capture) -> bytes:
    return wire.encode(blob_of(families, 1, capture))


# ---- merging --------------------------------------------------------------------------------------------------------


def merging(plan: Plan) -> list[Figure]:
    """1,000 series each; the reader begins with nothing, and then reads again what was published anew."""
    found = []
    for instances in plan.instances:
        for kind in ("alike", "unlike"):
            found += apart(_merging, kind, instances, MANY, plan.rounds)
    return found


def _merging(kind: str, instances: int, series: int, rounds: int) -> list[Figure]:
    frames = list((the_same if kind == "alike" else unlike)(instances, series))
    wire._tables.clear()
    gc.collect()
    before, merger = private_bytes(), Merger()

    def look() -> None:
        view = merger.merge([wire.decode(frame) for frame in frames], None, {})
        if len(view.instances) != instances:
            raise RuntimeError(f"{len(view.instances)} instances of {instances}")

    first, again = typical(1, look), typical(rounds, look)
    gc.collect()
    title = f"{instances:,} x {series:,} {kind}"
    most = 2000.0 if instances == MANY else None
    return [
        Figure(f"{title}: first decode and merge", "ms", first, most),
        Figure(f"{title}: decode and merge again", "ms", again, most),
        Figure(f"{title}: bytes fetched", "KiB", sum(map(len, frames)) / 1024),
        Figure(f"{title}: memory kept", "KiB", (private_bytes() - before) / 1024),
    ]


def folding(plan: Plan) -> list[Figure]:
    """One instance that is gone into the totals, with the record's bytes; and the totals of many."""
    found = []
    for series in (1_000, LARGE):
        labels, rng = request_labels(series), np.random.default_rng(2)
        retired = fold(None, blob_of(counters(labels, rng), 0), None, 1.0)
        gone = blob_of(counters(labels, rng), 1)
        found.append(
            Figure(
                f"fold of {series:,} series and encode",
                "ms",
                typical(plan.rounds, partial(_fold, retired, gone)),
            )
        )
    labels, rng, capture, retired = request_labels(MANY), np.random.default_rng(2), Capture(), Retired()
    for number in range(MANY):
        retired = fold(retired, blob_of(counters(labels, rng), number, capture), None, 1.0)
    record = wire.encode_retired(retired)
    found.append(Figure(f"record of {MANY:,} folded instances of {MANY:,} series", "KiB", len(record) / 1024))
    return found


def _fold(retired: Retired, gone: Blob) -> bytes:
    return wire.encode_retired(fold(retired, gone, None, 2.0))


SECTIONS: tuple[Callable[[Plan], list[Figure]], ...] = (publishing, merging, folding)


# ---- the table ------------------------------------------------------------------------------------------------------


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


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write the raw results where asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.cluster", description="What publishing and merging cost, and how that grows."
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes")
    parser.add_argument("--json", metavar="FILE", help="write the results, the machine and the versions there")
    names = [section.__name__ for section in SECTIONS]
    parser.add_argument("--only", choices=names, action="append", help="this part alone (may be said again)")
    options = parser.parse_args(arguments)

    plan = QUICK if options.quick else FULL
    machine, begun = describe(), time.monotonic()
    figures: list[Figure] = []
    errors: list[str] = []
    for section in SECTIONS:
        if not options.only or section.__name__ in options.only:
            print(f"[{time.monotonic() - begun:4.0f} s] {section.__name__}", file=sys.stderr)
            try:
                figures += section(plan)
            except Exception:
                errors.append(f"{section.__name__}: {traceback.format_exc()}")
    taken = time.monotonic() - begun

    print(f"\n{machine['processor']}, {machine['cores']} cores, {machine['python']}, Linux {machine['kernel']}")
    print(", ".join(f"{package} {version}" for package, version in versions().items()))
    kind = "quick" if options.quick else "full"
    print(f"{kind} run of {taken:.0f} s, load at its start {machine['load_at_start']:.1f}\n")
    print(render(figures))
    for error in errors:
        print(f"FAILED: {error}")

    if options.json:
        with open(options.json, "w") as file:
            json.dump(
                {
                    "command": ["python", "-m", "bench.cluster", *(sys.argv[1:] if arguments is None else arguments)],
                    "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                    "seconds": round(taken, 1),
                    "machine": machine,
                    "versions": versions(),
                    "plan": asdict(plan),
                    "figures": [asdict(each) | {"met": each.met} for each in figures],
                    "errors": errors,
                },
                file,
                indent=1,
            )
            file.write("\n")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
