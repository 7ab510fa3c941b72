"""Blobs for the tests: by hand, and any that a segment could publish."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from math import inf

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from shm_metrics.cluster.codec import wire
from shm_metrics.cluster.model.blob import Blob
from shm_metrics.cluster.model.capture import Capture
from shm_metrics.model.families import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    INFO,
    STATESET,
    SUMMARY,
    Family,
    FamilySnapshot,
    LabelPairs,
    SeriesLabels,
)
from shm_metrics.model.gauge_modes import MODES
from shm_metrics.model.snapshot import Snapshot

# A machine that does other things beside is no failure.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

A, B, C = "a" * 32, "b" * 32, "c" * 32


def pairs(**labels: str) -> LabelPairs:
    return tuple(sorted(labels.items()))


def numbers(values) -> np.ndarray:
    return np.array(list(values), dtype=float)


def snapshot_of(*families: FamilySnapshot, instance: str = A, at: float = 1_000.0) -> Snapshot:
    return Snapshot(tuple(families), at, instance, (1,), (1,))


def blob(*families: FamilySnapshot, instance: str = A, sequence: int = 1, host: str = "web-1", **more) -> Blob:
    told = {"pid": 7, "created_at": 500.0, "token": 3, "interval": 15.0, **more}
    return Capture().blob(snapshot_of(*families, instance=instance), host=host, sequence=sequence, **told)


def counter(name: str = "jobs", value: float | None = None, more: Mapping[str, float] | None = None, **about):
    """A counter without labels, or with a series for each of `more`: shop -> value."""
    told = {(): value} if value is not None else {}
    told |= {pairs(shop=shop): number for shop, number in (more or {}).items()}
    return FamilySnapshot(Family(name, COUNTER, **about), SeriesLabels(told), numbers(told.values()))


def gauge(mode: str, value: float, stamp: float = 1.0, name: str = "", labels: LabelPairs = ()) -> FamilySnapshot:
    family = Family(name or f"depth_{mode}", GAUGE, mode=mode)
    return FamilySnapshot(family, SeriesLabels([labels]), numbers([value]), stamps=numbers([stamp]))


def histogram(counts, total: float, bounds: tuple[float, ...] = (1.0, inf), name: str = "seconds") -> FamilySnapshot:
    family = Family(name, HISTOGRAM, bounds=bounds)
    return FamilySnapshot(family, SeriesLabels([()]), numbers(counts).reshape(1, -1), numbers([total]))


def info(stamp: float, own: LabelPairs = (), **said: str) -> FamilySnapshot:
    labels = SeriesLabels([tuple(sorted((*own, *said.items())))])
    return FamilySnapshot(Family("build", INFO), labels, np.ones(1), stamps=numbers([stamp]), keys=(own,))


def stateset(index: float, stamp: float) -> FamilySnapshot:
    family = Family("light", STATESET, states=("red", "green"))
    return FamilySnapshot(family, SeriesLabels([()]), numbers([index]), stamps=numbers([stamp]))


def sent(published: Blob) -> Blob:
    """As it arrives."""
    return wire.decode(wire.encode(published))


def forged(frame: bytes) -> bytes:
    """`frame` with a checksum that fits."""
    return frame[:12] + zlib.crc32(frame[16:], zlib.crc32(frame[:12])).to_bytes(4, "little") + frame[16:]


def plain(families) -> dict[str, tuple]:
    """name -> all that a family says, for comparing; bits of numbers, as NaN equals nothing."""

    def bits(array):
        return None if array is None else (array.shape, np.ascontiguousarray(array).tobytes())

    return {
        found.family.name: (
            found.family,
            tuple(found.labels),
            bits(found.values),
            bits(found.sums),
            bits(found.stamps),
            found.keys,
        )
        for found in families
    }


# -- any that a segment could publish ----------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
label_names = st.from_regex(r"[a-z][a-zA-Z0-9_]{0,5}", fullmatch=True)
label_sets = st.dictionaries(label_names, texts, max_size=3).map(lambda found: tuple(sorted(found.items())))
floats = st.floats(width=64)
stamps = st.just(0.0) | st.integers(1, 2**41).map(lambda n: n / 1024)


@st.composite
def families(draw: st.DrawFn, name: str) -> FamilySnapshot:
    """A family of up to five series with any labels and values, in the order in which they are published."""
    kind = draw(st.sampled_from([COUNTER, GAUGE, HISTOGRAM, SUMMARY, INFO, STATESET]))
    labels = sorted(draw(st.lists(label_sets, max_size=5, unique=True)))
    n = len(labels)

    def array(each, count: int = n) -> np.ndarray:
        return numbers(draw(st.lists(each, min_size=count, max_size=count)))

    bounds = sorted(draw(st.lists(st.floats(-1e9, 1e9), max_size=3, unique=True)))
    family = Family(
        name,
        kind,
        draw(texts),
        draw(st.sampled_from(["", "seconds"])),
        (*bounds, inf) if kind == HISTOGRAM else (),
        draw(st.sampled_from([*MODES])) if kind == GAUGE else "",
        tuple(draw(st.lists(texts, min_size=1, max_size=3, unique=True))) if kind == STATESET else (),
    )
    stamped, keys, sums = None, None, None
    if kind in (GAUGE, INFO, STATESET):
        stamped = array(stamps)
    if kind == INFO:
        keys = tuple(draw(st.lists(label_sets, min_size=n, max_size=n, unique=True)))
    if kind in (HISTOGRAM, SUMMARY):
        sums = array(floats)
    k = len(family.bounds)
    values = array(floats, n * k).reshape(n, k) if kind == HISTOGRAM else np.ones(n) if kind == INFO else array(floats)
    return FamilySnapshot(family, SeriesLabels(labels), values, sums, stamps=stamped, keys=keys)


@st.composite
def pages(draw: st.DrawFn) -> list[FamilySnapshot]:
    names = draw(st.lists(st.from_regex(r"[a-z_:][a-z0-9_:]{0,6}", fullmatch=True), max_size=4, unique=True))
    return [draw(families(name)) for name in names]


u64 = st.integers(0, 2**64 - 1)
times = st.floats(allow_nan=False, allow_infinity=False)
blobs = st.builds(
    lambda page, host, pid, sequence, token, interval, created: blob(
        *page, host=host, pid=pid, sequence=sequence, token=token, interval=interval, created_at=created
    ),
    pages(),
    texts,
    st.integers(0, 2**32 - 1),
    u64,
    u64,
    times,
    times,
)
