"""A full segment under load: workers that meet unknown label sets at a steady rate, and one that meets existing ones.

    python -m tests.torture.full --slots 131072 --workers 4 --rate 250 --seconds 20

Prints what it measured as JSON: of each call the time by the clock, and the CPU time, without
waits for a processor. The pace is kept by a wait after each batch; nothing is synchronised by time.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from typing import Any

from shm_metrics import Counter, MetricsBackend
from tests.support.processes import Child, Link

OPTIONS: dict[str, Any] = {"rows": 16, "process_metrics": False}
BATCH = 250  # in a row: the first call after a wait measures cold caches, several times the cost of the others
Times = list[tuple[float, float]]


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def meet_unknown(link: Link, path: str, worker: int, count: int, rate: float) -> Times:
    """(clock, CPU) seconds of each of `count` updates with a label set of its own."""
    backend = MetricsBackend(path=path, **OPTIONS)
    jobs = Counter("jobs", "", ["of"], registry=backend)
    jobs.labels(f"first {worker}").inc()
    link.say("ready")
    link.hear()
    return paced(count, rate, lambda n: jobs.labels(f"unknown {worker} {n}").inc(), backend)


def meet_existing(link: Link, path: str, count: int, rate: float) -> Times:
    """The same, with label sets that exist, and that this process has not met."""
    backend = MetricsBackend(path=path, **OPTIONS)
    jobs = Counter("jobs", "", ["of"], registry=backend)
    jobs.labels("0").inc()
    link.say("ready")
    link.hear()
    return paced(count, rate, lambda n: jobs.labels(str(n)).inc(), backend)


def paced(count: int, rate: float, call: Any, backend: MetricsBackend) -> Times:
    taken, began = [], time.perf_counter()
    for n in range(count):
        if n % BATCH == 0:
            time.sleep(max(0.0, began + n / rate - time.perf_counter()))
        clock, cpu = time.perf_counter(), time.thread_time()
        call(n)
        taken.append((time.perf_counter() - clock, time.thread_time() - cpu))
    backend.close()
    return taken


def figures(name: str, taken: Times) -> dict[str, float]:
    """p50 and p99 in microseconds, by the clock and of CPU."""
    found = {}
    for what, values in zip(("", "cpu_"), zip(*taken, strict=True), strict=True):
        for part in (50, 99):
            found[f"{name}{what}p{part}_us"] = round(1e6 * percentile(list(values), part / 100), 1)
    return found


def fill(link: Link, path: str, slots: int) -> int:
    """Take all slots, in a process of its own: the workers are not forked from one with all these series."""
    backend = MetricsBackend(path=path, **OPTIONS)
    jobs = Counter("jobs", "", ["of"], registry=backend)
    number = 0
    while not jobs.labels(str(number)).overflowed:
        number += 1
    assert backend.stats()["slots_used"] == slots
    backend.close()
    return number


def measure(path: str, slots: int, workers: int, rate: float, seconds: float) -> dict[str, Any]:
    backend = MetricsBackend(path=path, slots=slots, **OPTIONS)
    series, count = Child(fill, (path, slots)).result(), int(rate * seconds)
    gc.freeze()  # as a server that preloads: a child's collections copy no memory of its parent
    existing = min(count, series)
    children = [Child(meet_unknown, (path, worker, count, rate)) for worker in range(workers)]
    children.append(Child(meet_existing, (path, existing, rate)))
    for child in children:
        assert child.hear() == "ready"
    for child in children:
        child.say()
    taken = [child.result() for child in children]
    snapshot = backend.snapshot()
    family = snapshot.family("jobs_total")
    assert family is not None
    overflowed = snapshot.value("jobs_total", overflow="true") or 0.0
    unknown, known = [each for list_ in taken[:-1] for each in list_], taken[-1]
    found = {
        "slots": slots,
        "calls": len(unknown),
        **figures("", unknown),
        **figures("existing_", known),
        "missing": len(unknown) + workers - overflowed,
        "existing_missing": existing + 1 - (float(family.values.sum()) - overflowed),
    }
    backend.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slots", type=int, default=131_072)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=250.0)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    path = f"/dev/shm/shm_metrics-test-full-{os.getpid()}"
    try:
        found = measure(path, given.slots, given.workers, given.rate, given.seconds)
    finally:
        if os.path.exists(path):
            os.unlink(path)
    print(json.dumps({**found, "failure": None}))


if __name__ == "__main__":
    main()
