"""Versions of an application side by side: the newest definition that a living process uses is shown."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shm_metrics import Counter, Histogram, MetricsBackend
from tests.support.processes import Child, Link

BOUNDS = {"v1": [1.0, 2.0], "v2": [5.0]}


def serve(link: Link, path: str, version: str) -> None:
    """A worker of one version: it observes as often as it hears of, until it hears None."""
    backend = MetricsBackend(path=path, process_metrics=False)
    seconds = Histogram("seconds", "", ["of"], buckets=BOUNDS[version], registry=backend)
    other = Counter("other", "", registry=backend)
    link.say()
    while (times := link.hear()) is not None:
        for _ in range(times):
            seconds.labels(version).observe(1.5)
            seconds.labels("both").observe(1.5)
            other.inc()
        link.say()
    backend.close()


class Deployment:
    """What a master sees while its workers come and go. The master itself declares nothing."""

    def __init__(self, backend: MetricsBackend, fork: Callable[..., Child]) -> None:
        self.backend = backend
        self.fork = fork

    def start(self, version: str, times: int = 0) -> Child:
        child = self.fork(serve, self.backend.place.path, version)
        child.hear()
        if times:
            self.observe(child, times)
        return child

    def observe(self, child: Child, times: int) -> None:
        child.say(times)
        child.hear()

    def end(self, child: Child) -> None:
        child.say(None)
        assert child.result() is None

    def shown(self) -> tuple[str, dict[str, int]]:
        """The version that is shown, and the count of each of its series."""
        family = self.backend.snapshot().family("seconds")
        assert family is not None
        bounds = [bound for bound in family.family.bounds if bound != float("inf")]
        version = next(version for version, found in BOUNDS.items() if found == bounds)
        counts = family.values.sum(axis=1)
        return version, {dict(pairs)["of"]: int(count) for pairs, count in zip(family.labels, counts, strict=True)}

    def shadowed(self) -> int:
        return int(self.backend.stats()["shadowed_series"])


@pytest.fixture
def deployment(attach: Callable[..., MetricsBackend], fork: Callable[..., Child]) -> Deployment:
    return Deployment(attach(), fork)


def test_after_a_rollback_the_old_version_is_shown_with_its_totals(deployment: Deployment) -> None:
    first = deployment.start("v1", 3)
    assert deployment.shown() == ("v1", {"v1": 3, "both": 3})
    assert deployment.shadowed() == 0
    second = deployment.start("v2", 5)
    assert deployment.shown() == ("v2", {"v2": 5, "both": 5})
    assert deployment.shadowed() == 2
    deployment.end(first)
    assert deployment.shown() == ("v2", {"v2": 5, "both": 5})
    again = deployment.start("v1", 4)
    assert deployment.shown() == ("v2", {"v2": 5, "both": 5}), "while a worker of the new version lives"
    deployment.end(second)
    assert deployment.shown() == ("v1", {"v1": 7, "both": 7})
    assert deployment.shadowed() == 2
    assert deployment.backend.snapshot().value("other_total") == 12.0, "what both declare alike is one"
    deployment.end(again)


def test_a_killed_worker_uses_nothing(deployment: Deployment) -> None:
    first, second = deployment.start("v1", 1), deployment.start("v2", 1)
    assert deployment.shown()[0] == "v2"
    second.kill()
    assert deployment.shown() == ("v1", {"v1": 1, "both": 1})
    deployment.end(first)


def test_with_no_living_worker_the_newest_of_all_is_shown(deployment: Deployment) -> None:
    deployment.end(deployment.start("v1", 2))
    assert deployment.shown() == ("v1", {"v1": 2, "both": 2})
    deployment.end(deployment.start("v2", 3))
    assert deployment.shown() == ("v2", {"v2": 3, "both": 3})


def test_a_definition_that_is_used_again_shows_again(deployment: Deployment) -> None:
    deployment.end(deployment.start("v1", 1))
    deployment.end(deployment.start("v2", 1))
    rolled_back = deployment.start("v1", 1)
    assert deployment.shown() == ("v1", {"v1": 2, "both": 2})
    again = deployment.start("v2", 1)
    assert deployment.shown() == ("v2", {"v2": 2, "both": 2})
    deployment.end(again)
    assert deployment.shown() == ("v1", {"v1": 2, "both": 2})
    deployment.observe(rolled_back, 5)
    assert deployment.shown() == ("v1", {"v1": 7, "both": 7})
    deployment.end(rolled_back)


def test_a_reader_from_outside_shows_the_same(deployment: Deployment) -> None:
    first = deployment.start("v1", 3)
    deployment.end(deployment.start("v2", 5))
    reader = MetricsBackend(path=deployment.backend.place.path, read_only=True)
    assert Deployment(reader, deployment.fork).shown() == ("v1", {"v1": 3, "both": 3})
    reader.close()
    deployment.end(first)
