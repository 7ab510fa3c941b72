"""Labels that this library adds beside the application's own: no page has one series twice."""

from __future__ import annotations

from collections import Counter as Multiset
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from shm_metrics import Counter, Gauge, Histogram, MetricsBackend
from tests.support.processes import Child, Link


def samples(backend: MetricsBackend) -> dict[str, float]:
    """`name{labels}` -> value, as both parsers read the pages; a series that comes twice fails."""
    pages: list[dict[str, float]] = []
    for read, text in (
        (read_text, backend.export_as("text").decode()),
        (read_openmetrics, backend.export_as("openmetrics").decode()),
    ):
        found: list[tuple[str, float]] = []
        for family in read(text):
            for sample in family.samples:
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                found.append((f"{sample.name}{{{labels}}}", sample.value))
        twice = [key for key, times in Multiset(key for key, _ in found).items() if times > 1]
        assert twice == []
        # A label that comes twice in one series is lost when it is read into a dict.
        for line in text.splitlines():
            if not line.startswith("#") and "{" in line:
                names = [part.partition("=")[0] for part in line[line.index("{") + 1 : line.index("}")].split(",")]
                assert len(names) == len(set(names)), line
        pages.append({key: value for key, value in found if "_created{" not in key})
    assert {key: value for key, value in pages[0].items() if "shm_metrics" not in key} == {
        key: value for key, value in pages[1].items() if "shm_metrics" not in key
    }
    return pages[0]


def set_and_stay(link: Link, path: str, mode: str, names: list[str]) -> None:
    backend = MetricsBackend(path=path, process_metrics=False)
    gauge = Gauge("level", "", names, multiprocess_mode=mode, registry=backend)
    gauge.labels(*("7" for _ in names)).set(2)
    link.say()
    link.hear()
    backend.close()


@pytest.mark.parametrize("mode", ["all", "liveall"])
@pytest.mark.parametrize(
    ("names", "label"),
    [
        (["of"], "pid"),
        (["pid"], "worker_pid"),
        (["pid", "of"], "worker_pid"),
        (["pid", "worker_pid"], "worker_pid_"),
        (["worker_pid"], "pid"),
    ],
    ids=str,
)
def test_a_label_named_pid_of_the_application_stays_its_own(
    mode: str, names: list[str], label: str, attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    gauge: Any = Gauge("level", "", names, multiprocess_mode=mode, registry=backend)
    gauge.labels(*("7" for _ in names)).set(1)
    children = [fork(set_and_stay, backend.place.path, mode, names) for _ in range(2)]
    for child in children:
        child.hear()
    found = {key: value for key, value in samples(backend).items() if key.startswith("level{")}
    assert sorted(found.values()) == [1.0, 2.0, 2.0]
    for child in children:
        assert sum(f"{label}={child.pid}" in key for key in found) == 1
    for key in found:
        assert all(f"{name}=7" in key for name in names)
    for child in children:
        child.say()
        child.result()


def fill(backend: MetricsBackend) -> None:
    number = 0
    while not backend.counter("filler_total", n=str(number)).overflowed:
        number += 1


@pytest.mark.parametrize("early", [True, False])
def test_a_label_overflow_of_the_application_stays_its_own_in_a_full_segment(
    early: bool, attach: Callable[..., MetricsBackend]
) -> None:
    backend = attach(slots=512)
    jobs = Counter("jobs", "", ["overflow"], registry=backend)
    seconds = Histogram("seconds", "", ["overflow"], buckets=[1.0], registry=backend)
    for value in ("true", "false") if early else ("false",):
        jobs.labels(value).inc(3)
        seconds.labels(value).observe(0.5)
    fill(backend)
    for n in range(5):
        jobs.labels(str(n)).inc()
        seconds.labels(str(n)).observe(0.5)
    if not early:
        jobs.labels("true").inc(3)
        seconds.labels("true").observe(0.5)
    found = samples(backend)
    assert found["jobs_total{overflow=false}"] == 3.0
    if early:
        assert found["jobs_total{overflow=true}"] == 3.0
        assert found["jobs_total{shm_metrics_overflow=true}"] == 5.0
        assert found["seconds_count{overflow=true}"] == 1.0
        assert found["seconds_count{shm_metrics_overflow=true}"] == 5.0
    else:
        assert found["jobs_total{overflow=true}"] == 8.0, "one series, in which all is that has no place"
        assert found["seconds_count{overflow=true}"] == 6.0


def test_both_at_once_in_a_full_family_are_told_apart(attach: Callable[..., MetricsBackend]) -> None:
    backend = attach(slots=512)
    level: Any = Gauge("level", "", ["overflow"], multiprocess_mode="all", registry=backend)
    level.labels("true").set(1)
    fill(backend)
    level.labels("more").set(2)
    found = {key: value for key, value in samples(backend).items() if key.startswith("level{")}
    assert sorted(found.values()) == [1.0, 2.0]
