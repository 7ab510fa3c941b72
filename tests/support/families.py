"""Families for the tests of the exposition: made by hand, by hypothesis, and as prometheus_client would have them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from math import inf

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.utils import floatToGoString

from shm_metrics.model.families import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    INFO,
    STATESET,
    SUMMARY,
    Family,
    FamilySnapshot,
    SeriesLabels,
)

# A machine that does other things beside is no failure.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Names no other family's suffix can turn into: every family of a page has its own first letters.
name_tails = st.from_regex(r"[a-z0-9_:]{0,8}[a-z0-9]", fullmatch=True)
label_names = st.from_regex(r"[a-km-z][a-zA-Z0-9_]{0,6}", fullmatch=True).filter(lambda name: name != "quantile")
label_values = st.text(max_size=12) | st.text(alphabet='a"\\\n,{}= #é\U0001f600', max_size=8)
texts = st.text(alphabet='ab"\\\nn é', max_size=12).map(str.strip)
counts = st.integers(0, 10) | st.integers(999_990, 2**40)
amounts = st.one_of(counts.map(float), st.floats(0, 1e300), st.sampled_from([0.0, 999_999.0, 1e6, 1e15, 1e16, 1e21]))
anything = amounts | st.floats()


def labels_of(names: list[str], count: int) -> st.SearchStrategy[SeriesLabels]:
    row = st.tuples(*[label_values] * len(names)).map(lambda values: tuple(zip(names, values, strict=True)))
    return st.lists(row, min_size=min(count, 1), max_size=count if names else 1, unique=True).map(SeriesLabels)


@st.composite
def snapshots(draw: st.DrawFn, kind: str, prefix: str = "m_", most: int = 4) -> FamilySnapshot:
    """A family of `kind` with up to `most` series."""
    name = prefix + draw(name_tails)
    if kind == STATESET:
        name = name.replace(":", "_")
    names = sorted(draw(st.lists(label_names.filter(lambda label: label != name), max_size=3, unique=True)))
    labels = draw(labels_of(names, most))
    bounds = draw(st.lists(st.floats(0, 1e9), max_size=4, unique=True))
    family = Family(
        name,
        kind,
        draw(texts),
        bounds=(*sorted(bounds), inf) if kind == HISTOGRAM else (),
        states=tuple(draw(st.lists(label_values, min_size=1, max_size=3, unique=True))) if kind == STATESET else (),
    )
    n = len(labels)

    def array(each: st.SearchStrategy) -> np.ndarray:
        return np.array(draw(st.lists(each, min_size=n, max_size=n)), dtype=float)

    if kind == HISTOGRAM:
        k = len(family.bounds)
        values = np.array([draw(st.lists(counts, min_size=k, max_size=k)) for _ in range(n)], dtype=float)
        return FamilySnapshot(family, labels, values.reshape(n, k), array(amounts))
    if kind == SUMMARY:
        return FamilySnapshot(family, labels, array(counts), array(amounts))
    if kind == STATESET:
        return FamilySnapshot(family, labels, array(st.integers(0, len(family.states) - 1)))
    if kind == INFO:
        return FamilySnapshot(family, labels, np.ones(n))
    return FamilySnapshot(family, labels, array(amounts if kind == COUNTER else anything))


KINDS = (COUNTER, GAUGE, HISTOGRAM, SUMMARY, INFO, STATESET)


@st.composite
def pages(draw: st.DrawFn) -> list[FamilySnapshot]:
    """A page of up to four families, each with its own first letters, so that none takes another's names."""
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    return [draw(snapshots(kind, prefix=f"m{place}_")) for place, kind in enumerate(kinds)]


class Registry:
    """As much of a registry as prometheus_client's renderers want."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> list[Metric]:
        return self._metrics


def as_metric(snapshot: FamilySnapshot) -> Metric:
    """The family as prometheus_client's own Metric, built without a line of the package's code."""
    family = snapshot.family
    metric = Metric(family.name, family.documentation, family.type)
    metric.unit = family.unit
    for index, pairs in enumerate(snapshot.labels):
        labels, value = dict(pairs), snapshot.values[index]
        if family.type == COUNTER:
            metric.add_sample(f"{family.name}_total", labels, value)
        elif family.type == GAUGE:
            metric.add_sample(family.name, labels, value)
        elif family.type == INFO:
            metric.add_sample(f"{family.name}_info", labels, value)
        elif family.type == STATESET:
            for place, state in enumerate(family.states):
                metric.add_sample(family.name, {**labels, family.name: state}, float(place == value))
        else:
            cells = list(accumulate(value.tolist())) if family.type == HISTOGRAM else [value]
            for bound, cell in zip(family.bounds, cells, strict=False):
                metric.add_sample(f"{family.name}_bucket", {**labels, "le": floatToGoString(bound)}, cell)
            metric.add_sample(f"{family.name}_count", labels, cells[-1])
            metric.add_sample(f"{family.name}_sum", labels, snapshot.sums[index])
    return metric


def peer_text(snapshots: Iterable[FamilySnapshot]) -> bytes:
    """What prometheus_client writes for the same families."""
    return generate_latest(Registry(map(as_metric, snapshots)))


def by_name(body: bytes, parse) -> dict[tuple, float]:
    """Sample name and labels -> value, of all samples; a duplicate fails."""
    samples: dict[tuple, float] = {}
    for metric in parse(body.decode()):
        for sample in metric.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in samples, f"{key} twice"
            samples[key] = sample.value
    return samples


def counter(name: str = "jobs", values: Iterable[float] = (1.0,), label: str = "queue", **more) -> FamilySnapshot:
    """A counter with a series for each value."""
    numbers = np.array(list(values), dtype=float)
    labels = SeriesLabels([((label, f"q{i}"),) for i in range(len(numbers))])
    return FamilySnapshot(Family(name, COUNTER, "Jobs done.", **more), labels, numbers)


def histogram(name: str = "latency_seconds", bounds: tuple[float, ...] = (0.1, 1.0, inf)) -> FamilySnapshot:
    """A histogram of one series, five observations and the sum 2.5."""
    values = np.array([[2.0, 2.0, 1.0]])
    family = Family(name, HISTOGRAM, "How long it took.", "seconds", bounds)
    return FamilySnapshot(family, SeriesLabels([(("path", "/a"), ("zone", "b"))]), values, np.array([2.5]))
