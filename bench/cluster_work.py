"""What capturing, encoding, decoding, merging and folding cost, without the network."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from bench.figures import Figure, typical
from bench.instances import blob_of, counters, mixed, request_labels, the_same, unlike
from bench.memory import private_bytes
from shm_metrics.cluster.codec import wire
from shm_metrics.cluster.merge.fold import fold, rest_of
from shm_metrics.cluster.merge.merge import Merger
from shm_metrics.cluster.model.blob import Blob, Retired
from shm_metrics.cluster.model.capture import Capture
from shm_metrics.model.families import FamilySnapshot

__all__ = ["FULL", "LARGE", "MANY", "QUICK", "Plan", "folding", "merging", "publishing"]

LARGE = 10_000  # series of the instance that is published
MANY = 1_000  # instances of the largest merge, and series of each


@dataclass(frozen=True)
class Plan:
    rounds: int
    instances: tuple[int, ...]


FULL = Plan(7, (10, 100, MANY))
QUICK = Plan(3, (10, MANY))


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
        back = wire.decode(wire.encode(gone))
        found.append(
            Figure(
                f"{series:,} series of one that has returned, less their tomb",
                "ms",
                typical(plan.rounds, partial(rest_of, back, back)),
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
