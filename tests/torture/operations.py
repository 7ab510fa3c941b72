"""Every operation that stores something in a segment, ready to be followed store by store.

A function here prepares one in the child that is going to be killed, and gives the operation itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shm_metrics import Counter, Gauge, Histogram, MetricsBackend
from shm_metrics.segment import layout as L
from shm_metrics.segment.file_locks import FileLocks
from shm_metrics.writer import allocator
from tests.torture.next_life import LABELS, MODES, SUM_MODES, TOOK, attach, series
from tests.torture.stepping import Work

__all__ = ["OPERATIONS", "Operation"]

SLOTS = 512


# Prepares an operation of a worker, and gives it.
Act = Callable[[MetricsBackend], Callable[[], object]]


@dataclass(frozen=True)
class Operation:
    """name: of the test. work: prepares it. rows, slots: of the segment; reserve: it has slots for 20 more series.

    act: does the same in a worker that it is given, among others that stay alive; None where there is no such thing.
    after: what a scrape shows of some series when the operation is over, so that it is sure to have happened.
    cheap: for every run of the tests; the others are for `make torture`.
    moves: what was counted in private memory is counted in the segment, number by number; a kill in between leaves what
        had come so far, each series in a state that some observations and additions make.
    """

    name: str
    work: Work
    act: Act | None = None
    rows: int = 3
    slots: int = SLOTS
    reserve: bool = True
    kept: bool = True
    cheap: bool = False
    moves: bool = False
    after: dict[str, Any] | None = None

    def __str__(self) -> str:
        return self.name


def populated(path: str, rows: int = 3, slots: int = SLOTS) -> list[MetricsBackend]:
    """Workers in all rows. Each has counted in every series; worker 1 set the shared gauge last."""
    first = attach(path, rows, slots)
    workers = [first, *(first.another_worker(pid=70_000 + n) for n in range(2, rows + 1))]
    for n, worker in enumerate(workers, 1):
        count(worker, n)
    series(workers[0])["g_shared"].set(50.0)
    return workers


def count(worker: MetricsBackend, n: int, *, shared: bool = True) -> None:
    """Count in every series, in the shared gauge only if `shared`."""
    mine = series(worker)
    mine["jobs"].inc(n)
    mine["shop"].inc(2 * n)
    for _ in range(n + 1):
        mine["took"].observe(1.0)
    for value in (0.25, 0.75, 0.75, 1.5):
        mine["spread"].observe(value * n)
    if shared:
        mine["g_shared"].set(10.0 * n)
        mine["g_shared"].inc(0.5 * n)
    for mode in MODES[1:]:
        # Far below and far above what the next life counts.
        mine[f"g_{mode}"].set(-100.0 * n if mode.endswith("min") else 100.0 * n + 11.0)


def no_threads() -> None:
    """This process repairs nothing in a thread, whose stores could not be followed."""
    import _thread

    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    _thread.start_new_thread = refused  # type: ignore[assignment]


# -- making ------------------------------------------------------------------------------------------------------------


def create(path: str) -> Callable[[], object]:
    return lambda: attach(path)


def replace(path: str) -> Callable[[], object]:
    """A segment that is in no use is replaced by a new one."""
    for worker in populated(path):
        worker.close()
    return lambda: attach(path)


def first_series(path: str) -> Callable[[], object]:
    backend = attach(path)
    return lambda: backend.counter("jobs")


def first_of_labels(path: str) -> Callable[[], object]:
    backend = attach(path)
    return lambda: backend.counter("shop", **LABELS)


def another_series(worker: MetricsBackend) -> Callable[[], object]:
    return lambda: worker.counter("shop", shop="b")


def all_series(path: str) -> Callable[[], object]:
    backend = attach(path)
    backend.counter("others").inc(4)
    return lambda: series(backend)


def grow_index(path: str) -> Callable[[], object]:
    """The table is doubled by the last of so many series."""
    workers = populated(path, slots=1024)
    segment = workers[1]._writer.segment
    n = 0
    while L.INDEX_ENTRIES_PER_KEY * segment.get(L.INDEX_USED_OFFSET) < L.INDEX_FIRST_SIZE:
        workers[1].counter("many", n=str(n)).inc(n)
        n += 1
    return lambda: workers[1].counter("many", n="last")


def grow_catalog(path: str) -> Callable[[], object]:
    """The catalog's memory is extended for the last series."""
    workers = populated(path, slots=1024)
    segment = workers[1]._writer.segment
    n = 0
    while segment.get(L.CATALOG_RESERVED_OFFSET) - segment.get(L.CATALOG_COMMIT_OFFSET) > 1200:
        workers[1].counter("long", n=f"{n:01000}").inc(n)
        n += 1
    return lambda: workers[1].counter("long", n=f"{n:01000}")


def fill(path: str) -> MetricsBackend:
    """A segment without a free slot, in which 30 counters were removed; the worker that is given can reuse theirs."""
    workers = populated(path)
    many = Counter("many", "", ["n"], registry=workers[0])
    for n in range(40):
        many.labels(str(n)).inc(100 + n)
    wide = Histogram("wide", "", ["n"], buckets=[float(n) for n in range(40)], registry=workers[0])
    for each in (wide, many):
        while not each.labels(str(n)).overflowed:
            n += 1
    for n in range(30):
        many.remove(str(n))
    for worker in workers:
        worker.close()
    return attach(path, keep=True)


def reuse(path: str) -> Callable[[], object]:
    backend = fill(path)
    return lambda: backend.counter("many", n="another")


# -- rows --------------------------------------------------------------------------------------------------------------


def claim_fresh(path: str) -> Callable[[], object]:
    first = attach(path)
    count(first, 1)
    return lambda: first.another_worker(pid=70_009, role="a new worker")


def claim_of_dead(path: str) -> Callable[[], object]:
    workers = populated(path)
    workers[0].close()
    return lambda: workers[1].another_worker(pid=70_009, role="a worker that takes over")


def attach_to_dead(path: str) -> Callable[[], object]:
    """The first process of the next life."""
    for worker in populated(path):
        worker.close()
    return lambda: attach(path, keep=True)


def fold_again(path: str) -> Callable[[], object]:
    """Gauges are folded into what was folded before."""
    workers = populated(path)
    workers[0].close()
    again = workers[1].another_worker(pid=70_008)
    for mode in MODES[1:]:
        series(again)[f"g_{mode}"].set(-500.0 if mode.endswith("min") else 900.0)
    again.close()
    return lambda: workers[1].another_worker(pid=70_009)


def close_and_claim(path: str) -> Callable[[], object]:
    """A worker leaves its row, and one of the same process takes it."""
    workers = populated(path)

    def operation() -> None:
        workers[0].close()
        workers[1].another_worker(pid=70_009)

    return operation


def close(path: str) -> Callable[[], object]:
    workers = populated(path)
    return workers[0].close


def adopt(path: str) -> Callable[[], object]:
    """A worker that found no row gets the one of a worker that ended, with what it counted."""
    no_threads()
    workers = populated(path, rows=2)
    rowless = workers[1].another_worker(pid=70_009)
    assert rowless.row is None
    count(rowless, 5)
    workers[0].close()

    def operation() -> None:
        assert rowless._writer.repair()
        assert rowless.row is not None

    return operation


def move(path: str) -> Callable[[], object]:
    """Series that were counted in private memory, as the catalog was locked, are made, and take their counts along."""
    no_threads()
    workers = populated(path)
    waiting = workers[1]
    waiting.counter("waiting_known", n="0").inc()
    waiting.histogram("waiting_took", buckets=(0.5, 1.0), n="0").observe(1.0)
    allocator.CATALOG_SECONDS = 0.01
    other = FileLocks(os.open(path, os.O_RDWR))
    assert other.try_exclusive(L.LOCK_CATALOG)
    waiting.counter("waiting_known", n="1").inc(5)
    kept = [waiting.histogram("waiting_took", buckets=(0.5, 1.0), n="1"), waiting.gauge("waiting_shared")]
    for value in (0.25, 0.75, 0.75, 1.5, 1.5):
        kept[0].observe(value)
    kept[1].set(4.0)
    kept[1].inc(1.5)
    for mode in MODES[1:]:
        kept.append(waiting.gauge(f"waiting_{mode}", multiprocess_mode=mode))
        kept[-1].set(7.0)
        if mode in SUM_MODES:
            kept[-1].inc(2.0)
    other.close()

    def operation() -> None:
        assert waiting._writer.repair()
        assert kept

    return operation


# -- removal -----------------------------------------------------------------------------------------------------------


def declared(backend: MetricsBackend, name: str) -> Any:
    """The metric that some of series() are of, declared."""
    if name == "shop":
        return Counter(name, "", ["shop"], registry=backend)
    if name == "took":
        return Histogram(name, "", ["shop"], buckets=TOOK, registry=backend)
    return Gauge(name, "", ["shop"], multiprocess_mode=name.removeprefix("g_"), registry=backend)


def remove(name: str) -> Act:
    def act(worker: MetricsBackend) -> Callable[[], object]:
        metric = declared(worker, name)
        return lambda: metric.remove("a")

    return act


def revive(name: str) -> Act:
    """It was removed, and is asked for again."""

    def act(worker: MetricsBackend) -> Callable[[], object]:
        metric = declared(worker, name)
        metric.remove("a")
        return lambda: metric.labels("a")

    return act


def clear(worker: MetricsBackend) -> Callable[[], object]:
    return worker.clear


def reset(worker: MetricsBackend) -> Callable[[], object]:
    return worker.counter("jobs").reset


# -- updates -----------------------------------------------------------------------------------------------------------


def update(name: str, how: str, *amount: Any, **options: Any) -> Act:
    def act(worker: MetricsBackend) -> Callable[[], object]:
        mine = series(worker)[name]
        return lambda: getattr(mine, how)(*amount, **options)

    return act


def replace_exemplar(worker: MetricsBackend) -> Callable[[], object]:
    counter = series(worker)["jobs"]
    counter.inc(1, exemplar={"trace": "first"})
    return lambda: counter.inc(3, exemplar={"trace": "another"})


def set_role(worker: MetricsBackend) -> Callable[[], object]:
    return lambda: worker.set_role("another role")


# -- CPU seconds -------------------------------------------------------------------------------------------------------


def _burn(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def note_cpu(path: str) -> Callable[[], object]:
    """A scrape notes the CPU seconds of a worker whose row had another one, which was seen too."""
    pid = os.fork()
    if pid == 0:
        try:
            before = attach(path, process_metrics=True)
            _burn(0.3)
            before.collect()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    backend = attach(path, keep=True, process_metrics=True)
    _burn(0.2)
    return backend.collect


def note_more_cpu(path: str) -> Callable[[], object]:
    """A scrape notes the CPU seconds of a worker that the last scrape saw already."""
    scrape = note_cpu(path)
    scrape()
    _burn(0.4)
    return scrape


def by_a_worker(name: str, act: Act, **options: Any) -> Operation:
    """An operation of worker 2, where worker 1 set the shared gauge last."""
    return Operation(name, lambda path: act(populated(path)[1]), act, **options)


REMOVED = ("shop", "took", *(f"g_{mode}" for mode in MODES))

OPERATIONS = [
    Operation("create", create, cheap=True),
    Operation("replace", replace, kept=False),
    Operation("first_series", first_series, cheap=True, after={"jobs_total": 0.0}),
    Operation("first_of_labels", first_of_labels, after={"shop_total": 0.0}),
    by_a_worker("another_series", another_series, cheap=True, after={'shop_total{shop="b"}': 0.0}),
    Operation("all_series", all_series, after={"jobs_total": 0.0}),
    Operation("grow_index", grow_index, slots=1024, after={'many_total{n="last"}': 0.0}),
    Operation("grow_catalog", grow_catalog, slots=1024),
    Operation("reuse", reuse, after={'many_total{n="another"}': 0.0}),
    Operation("claim_fresh", claim_fresh, cheap=True),
    Operation("claim_of_dead", claim_of_dead, cheap=True),
    Operation("attach_to_dead", attach_to_dead),
    Operation("fold_again", fold_again),
    Operation("close_and_claim", close_and_claim),
    Operation("close", close, cheap=True),
    Operation("adopt", adopt, rows=2, cheap=True, moves=True, after={"jobs_total": 8.0}),
    Operation("move", move, cheap=True, moves=True, after={'waiting_known_total{n="1"}': 5.0, "waiting_shared": 5.5}),
    *(by_a_worker(f"remove_{name}", remove(name), cheap=name in ("took", "g_shared", "g_max")) for name in REMOVED),
    by_a_worker("clear", clear),
    *(by_a_worker(f"revive_{name}", revive(name), cheap=name == "g_shared") for name in REMOVED),
    by_a_worker("reset", reset, cheap=True, after={"jobs_total": 0.0}),
    by_a_worker("inc_counter", update("jobs", "inc", 5.0), cheap=True, after={"jobs_total": 11.0}),
    by_a_worker("observe", update("took", "observe", 1.0), cheap=True, after={"took": (10, 10.0, (0, 10, 10, 10))}),
    by_a_worker("observe_other", update("spread", "observe", 0.5)),
    by_a_worker("set_shared", update("g_shared", "set", 60.0), cheap=True, after={"g_shared": 60.0}),
    by_a_worker("inc_shared", update("g_shared", "inc", 2.0), cheap=True),
    *(
        by_a_worker(f"set_{mode}", update(f"g_{mode}", "set", 6.0), cheap=mode in ("livesum", "max"))
        for mode in MODES[1:]
    ),
    *(by_a_worker(f"inc_{mode}", update(f"g_{mode}", "inc", 6.0)) for mode in MODES[1:] if "mostrecent" not in mode),
    by_a_worker("first_exemplar", update("jobs", "inc", 3.0, exemplar={"trace": "abc"}), cheap=True),
    by_a_worker("exemplar_of_bucket", update("took", "observe", 1.0, exemplar={"trace": "abc"})),
    by_a_worker("replace_exemplar", replace_exemplar),
    by_a_worker("role", set_role),
]
