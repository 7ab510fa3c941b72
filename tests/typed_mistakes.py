"""Mistakes that type checkers report: one at each line that ends in `# wrong`, and none elsewhere. It is never run.

mypy is given --strict; neither is told to be silent about a line.
"""

from __future__ import annotations

from shm_metrics import Counter, Enum, Gauge, Histogram, Info, MetricsBackend, Snapshot, Summary


def constructors(backend: MetricsBackend) -> None:
    Counter("jobs", "Jobs.", regsitry=backend)  # wrong
    Gauge("depth", "Jobs.", regsitry=backend)  # wrong
    Counter()  # wrong
    Counter(1)  # wrong
    Counter("jobs", "Jobs.", "shop")  # wrong
    Histogram("wait", labelnames="shop")  # wrong
    Counter("jobs", "Jobs.", [1])  # wrong
    Counter("jobs", buckets=[1])  # wrong
    Gauge("depth", multiprocess_mode="livesumm")  # wrong
    Gauge("depth", multiprocess_mode=3)  # wrong
    Histogram("wait", bukets=[1])  # wrong
    Histogram("wait", buckets=["1"])  # wrong
    Enum("light", states=[1])  # wrong


def updates() -> None:
    Counter("jobs").inc("1")  # wrong
    Counter("jobs").inc(1, exemplar="trace")  # wrong
    Counter("jobs").set(1)  # wrong
    Counter("jobs").observe(1)  # wrong
    Counter("jobs").incr()  # wrong
    Gauge("depth").set()  # wrong
    Gauge("depth").inc("1")  # wrong
    Histogram("wait").inc()  # wrong
    Histogram("wait").observe()  # wrong
    Histogram("wait").observe("0.5")  # wrong
    Summary("size").observe(1, {"trace_id": "a"})  # wrong
    Info("build").info("1.2")  # wrong
    Enum("light").state(1)  # wrong
    Enum("light").set(1)  # wrong


def series() -> None:
    jobs = Counter("jobs", "", ["shop"])
    jobs.labels("a").set(1)  # wrong
    jobs.labels("a").inc("1")  # wrong
    jobs.labels("a", shop="a")  # wrong
    jobs.remove()  # wrong
    jobs.remove_by_labels(["a"])  # wrong
    text: str = jobs.labels("a").value  # wrong
    count: Gauge = jobs.labels("a")  # wrong
    print(text, count)


class Metered(Counter):
    def twice(self) -> None:
        self.inc(2)


def subclasses() -> None:
    Metered("jobs", "", ["shop"]).labels("a").twice()  # wrong


def got(backend: MetricsBackend, snapshot: Snapshot) -> None:
    backend.counter(1)  # wrong
    backend.counter("jobs").observe(1)  # wrong
    backend.gauge("depth", multiprocess_mode="livesumm")  # wrong
    backend.histogram("wait", buckets=1)  # wrong
    snapshot.value("jobs").total  # wrong
