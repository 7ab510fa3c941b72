"""What the instances of one application publish: made-up series with realistic labels, and their blobs."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np

from shm_metrics.cluster.codec import wire
from shm_metrics.cluster.model.blob import Blob
from shm_metrics.cluster.model.capture import Capture
from shm_metrics.model.families import COUNTER, GAUGE, HISTOGRAM, Family, FamilySnapshot, LabelPairs, SeriesLabels
from shm_metrics.model.snapshot import Snapshot

__all__ = [
    "blob_of",
    "counters",
    "counts",
    "instance_name",
    "mixed",
    "request_labels",
    "snapshot_of",
    "the_same",
    "unlike",
]

METHODS = ("GET", "GET", "GET", "POST", "POST", "PUT", "DELETE", "PATCH")
THINGS = ("users", "orders", "carts", "items", "invoices", "payments", "sessions", "reports", "shipments", "coupons")
UNDER = ("", "/comments", "/history", "/lines", "/export", "/search", "/status", "/attachments", "/owner", "/audit")
CODES = ("200", "201", "204", "301", "304", "400", "401", "403", "404", "409", "422", "429", "500", "502", "503")
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, float("inf"))


def request_labels(count: int, seed: int = 7) -> SeriesLabels:
    """As many label sets as requests of a web application have: method, endpoint, status, in the order of first use."""
    rng, found = random.Random(seed), dict[LabelPairs, None]()
    while len(found) < count:
        path = f"/api/v{rng.randint(1, 4)}/{rng.choice(THINGS)}/{{id}}{rng.choice(UNDER)}"
        found[("endpoint", path), ("method", rng.choice(METHODS)), ("status", rng.choice(CODES))] = None
    return SeriesLabels(found)


def counts(rng: np.random.Generator, size: int) -> np.ndarray:
    """Counters as they come: most are small, a few are large (Pareto with a tail exponent of 0.5)."""
    return np.floor(np.minimum(rng.pareto(0.5, size) * 100.0, 1e12))


def counters(labels: SeriesLabels, rng: np.random.Generator) -> list[FamilySnapshot]:
    return [FamilySnapshot(Family("http_requests", COUNTER, "Requests served."), labels, counts(rng, len(labels)))]


def mixed(labels: SeriesLabels, rng: np.random.Generator) -> list[FamilySnapshot]:
    """Eight of ten series are counters, one is a gauge, one a histogram of 15 buckets."""
    n = len(labels) // 10
    seconds = Family("http_request_seconds", HISTOGRAM, "Time to answer.", "seconds", BOUNDS)
    buckets = counts(rng, n * len(BOUNDS)).reshape(n, -1)
    depth = FamilySnapshot(
        Family("queue_depth", GAUGE, "Jobs waiting.", mode="mostrecent"),
        SeriesLabels(labels[:n]),
        np.floor(rng.random(n) * 1000),
        stamps=1.76e9 + rng.random(n) * 3600,
    )
    histograms = FamilySnapshot(seconds, SeriesLabels(labels[n : 2 * n]), buckets, rng.random(n) * 1e4)
    return [*counters(SeriesLabels(labels[2 * n :]), rng), depth, histograms]


def snapshot_of(families: list[FamilySnapshot], instance: str) -> Snapshot:
    return Snapshot(tuple(families), 1.76e9, instance, (1,), (1,))


def instance_name(number: int) -> str:
    return random.Random(number).randbytes(16).hex()


def blob_of(families: list[FamilySnapshot], number: int, capture: Capture | None = None, sequence: int = 1) -> Blob:
    return (capture or Capture()).blob(
        snapshot_of(families, instance_name(number)),
        host=f"web-{number:04}.example.com",
        pid=1000 + number,
        created_at=1.75e9 + number,
        sequence=sequence,
        token=number,
        interval=15.0,
    )


def the_same(instances: int, series: int) -> Iterator[bytes]:
    """Blobs of instances that all have the same series."""
    labels, capture, rng = request_labels(series), Capture(), np.random.default_rng(3)
    for number in range(instances):
        yield wire.encode(blob_of(counters(labels, rng), number, capture))


def unlike(instances: int, series: int) -> Iterator[bytes]:
    """Blobs of instances of which each lacks another sixth of the series, so that no two have the same table."""
    labels, rng, choice = request_labels(series * 6 // 5), np.random.default_rng(3), random.Random(5)
    for number in range(instances):
        own = SeriesLabels(choice.sample(labels, series))
        yield wire.encode(blob_of(counters(own, rng), number))
