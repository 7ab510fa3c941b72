"""Writers that observe only 1, and what every scrape of them must show.

python -m tests.support.observers write PATH     until its input is closed
python -m tests.support.observers read PATH N    exits with 1 at the first torn scrape of N
"""

from __future__ import annotations

import sys
from threading import Thread

import numpy as np

from shm_metrics import MetricsBackend, Snapshot

SERIES = ("a", "b", "c")


def observe(backend: MetricsBackend) -> None:
    """Observe 1 for ever, as fast as can be."""
    observing = [backend.histogram("ones_seconds", buckets=(0.5, 1.0, 2.0), of=of).observe for of in SERIES]
    observing.append(backend.summary("ones_bytes").observe)
    long = backend.histogram("ones_long_seconds", buckets=[float(n) for n in range(-20, 20)]).observe
    counting = backend.counter("ones_total").inc
    one, two, three, four = observing
    while True:
        one(1)
        two(1)
        three(1)
        four(1)
        long(1)
        counting()


class Watch:
    """Checks one scrape after another."""

    def __init__(self) -> None:
        self.before: dict[str, np.ndarray] = {}
        self.seen = 0

    def check(self, snapshot: Snapshot) -> None:
        """Every observation is in the bucket that 1 belongs to, and in the sum, and nothing has fallen."""
        for found in snapshot.families:
            name, values = found.family.name, found.values
            if found.sums is not None:
                counts = values.reshape(len(found.sums), -1).sum(axis=1)  # what the +Inf bucket and _count show
                assert np.array_equal(counts, found.sums), f"{name}: counts {counts}, sums {found.sums}"
                if found.family.bounds:
                    assert np.array_equal(values[:, found.family.bounds.index(1.0)], found.sums), f"{name}: {values}"
            before = self.before.get(name)
            if before is not None and before.shape == values.shape:
                assert (values >= before).all(), f"{name} fell from {before} to {values}"
            self.before[name] = values
        self.seen += 1

    @property
    def moved(self) -> float:
        """Observations in the scrape that was checked last."""
        return float(sum(values.sum() for values in self.before.values()))


def write(path: str) -> None:
    backend = MetricsBackend(path=path)
    Thread(target=observe, args=(backend,), daemon=True).start()
    sys.stdin.read()


def read(path: str, scrapes: int) -> None:
    backend = MetricsBackend(path=path, read_only=True)
    watch = Watch()
    watch.check(backend.snapshot())
    first = watch.moved
    for _ in range(scrapes):
        watch.check(backend.snapshot())
    if not watch.moved > first:
        raise SystemExit("nobody was writing")


if __name__ == "__main__":
    write(sys.argv[2]) if sys.argv[1] == "write" else read(sys.argv[2], int(sys.argv[3]))
