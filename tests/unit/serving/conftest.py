"""Sources that the serving tests scrape: one at rest, one that is held in the middle of collect()."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from shm_metrics.model.families import COUNTER, GAUGE, Sample, SampleFamily

PATIENCE_SECONDS = 30  # guards against hangs; nothing waits this long to pass


def two_families() -> list[SampleFamily]:
    return [
        SampleFamily("jobs", "Jobs done.", COUNTER, [Sample("jobs_total", {"queue": 'a"b'}, 3.0)]),
        SampleFamily("depth", "Jobs waiting.", GAUGE, [Sample("depth", {}, 7.0)]),
    ]


class RestingSource:
    """Counts how often it is collected; raises `error` when it has one."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: BaseException | None = None

    def collect(self) -> Iterator[SampleFamily]:
        self.calls += 1
        if self.error is not None:
            raise self.error
        yield from two_families()


class GatedSource(RestingSource):
    """Says by `began` that a collect() is under way, and stays in it until `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Event()
        self.gate = threading.Event()

    def collect(self) -> Iterator[SampleFamily]:
        self.calls += 1
        self.began.set()
        assert self.gate.wait(PATIENCE_SECONDS)
        if self.error is not None:
            raise self.error
        yield from two_families()


class CountingTable(dict):  # type: ignore[type-arg]
    """A table of flights that says when a number of callers have boarded, the first and those who join it."""

    def __init__(self, expected: int) -> None:
        super().__init__()
        self._expected = expected
        self._boarded = 0
        self._lock = threading.Lock()
        self.all_aboard = threading.Event()

    def setdefault(self, key, default=None):  # type: ignore[no-untyped-def]
        flight = super().setdefault(key, default)
        with self._lock:
            self._boarded += 1
            if self._boarded == self._expected:
                self.all_aboard.set()
        return flight


@pytest.fixture
def source() -> RestingSource:
    return RestingSource()


@pytest.fixture
def gated() -> Iterator[GatedSource]:
    source = GatedSource()
    yield source
    source.gate.set()


@pytest.fixture
def watch_boarding():
    """watch_boarding(flights, n) -> an event, set once n callers have joined or begun a flight."""

    def watch(flights, expected: int) -> threading.Event:
        table = CountingTable(expected)
        flights._flights = table
        return table.all_aboard

    return watch


@pytest.fixture
def patience() -> float:
    return PATIENCE_SECONDS
