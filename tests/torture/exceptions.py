"""An exception at every line and at every bytecode of what changes a segment, or reads it.

A *trial* prepares a small segment, does one operation under a trace function that raises at the n-th event, and looks
at what is left: no lock is held, the values are those of before or of after, and the same operation done again works.
The n-th event is the n-th opcode, or line, that runs inside the package. Of one that runs in a `__del__` the exception
would be swallowed, so there it is raised a bit later.

    python -m tests.torture.exceptions by-event SCENARIO|all opcode|line --seconds 5 --seed 1
    python -m tests.torture.exceptions by-signal --seconds 5 --seed 1
    python -m tests.torture.exceptions by-fork --seconds 5 --seed 1
"""

from __future__ import annotations

import argparse
import gc
import json
import opcode
import os
import random
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import shm_metrics
from shm_metrics import MetricsBackend
from shm_metrics.reader.catalog_view import CatalogView
from shm_metrics.segment import layout as L
from shm_metrics.segment.file_locks import FileLocks
from shm_metrics.segment.slot_table import FREE
from shm_metrics.segment.slots import slot_codes
from shm_metrics.writer.writer import Writer

__all__ = ["SCENARIOS", "Wrong"]

PACKAGE = os.path.dirname(shm_metrics.__file__) + os.sep
HOT = (
    PACKAGE + "native/_cells_cy.py",
    PACKAGE + "native/_no_cython.py",
)  # its steps are single for real signals; compiled, there is nothing to trace
MODES = ("min", "max", "mostrecent", "sum", "shared", "all")


class Injected(BaseException):
    """What is raised on top of the operation."""


class Wrong(AssertionError):
    """What a trial left is not right."""


# -- raising -----------------------------------------------------------------------------------------------------------


# After these CPython runs no handler, and nothing is collected: they call nothing and make no container.
_QUIET = frozenset(
    """
    BINARY_ADD BINARY_AND BINARY_OP BINARY_OR BINARY_SUBSCR CACHE COMPARE_OP COPY DUP_TOP DUP_TOP_TWO IS_OP LOAD_ATTR
    LOAD_CONST LOAD_DEREF LOAD_FAST LOAD_FAST_LOAD_FAST LOAD_GLOBAL NOP POP_JUMP_FORWARD_IF_FALSE
    POP_JUMP_FORWARD_IF_TRUE POP_JUMP_IF_FALSE POP_JUMP_IF_TRUE PUSH_NULL ROT_THREE ROT_TWO STORE_FAST
    STORE_FAST_LOAD_FAST STORE_FAST_STORE_FAST STORE_SUBSCR SWAP TO_BOOL
    """.split()  # noqa: SIM905
)


def trace(
    operation: Callable[[], Any], kind: str, at: int, act: Callable[[], None], *, where_handlers_run: bool = False
) -> int:
    """Do the operation, and call `act` at event number `at`; how many events there were, until then or at all.

    where_handlers_run: at the next opcode on top of which CPython would run a signal handler or a `__del__`. What must
    not be forked between a look at the lock and the store after it has none there.
    """
    seen = 0
    previous: dict[FrameType, int] = {}
    done = False

    def tracer(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen, done
        name = frame.f_code.co_filename
        if done or not name.startswith(PACKAGE) or name in HOT:
            return None
        frame.f_trace_opcodes = kind == "opcode"
        if event == kind:
            seen += 1
            if where_handlers_run:
                last, previous[frame] = previous.get(frame), frame.f_lasti
                if last is not None and opcode.opname[frame.f_code.co_code[last]] in _QUIET:
                    return tracer
            if seen >= at > 0 and not _in_del(frame):
                done = True
                act()
        return tracer

    sys.settrace(tracer)
    try:
        operation()
    finally:
        sys.settrace(None)
    return seen


def _in_del(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def inject() -> None:
    raise Injected


# -- scenarios ---------------------------------------------------------------------------------------------------------


class Scenario:
    """One operation in a fresh segment.

    before, after: what the page shows, the sum of each family; what is missing in one is not shown.
    """

    rows, slots = 3, 256
    before: dict[str, float] = {}  # noqa: RUF012
    after: dict[str, float] = {}  # noqa: RUF012
    halfway: tuple[dict[str, float], ...] = ()  # what else an interrupted operation may show
    between: dict[str, float] = {}  # noqa: RUF012  # after the operation, before finish(); empty: as after

    def __init__(self, path: str) -> None:
        self.path = path
        self.backends = [self.attach()]
        self.first = self.backends[0]
        self.prepare()

    def attach(self, **options: Any) -> MetricsBackend:
        told = {"process_metrics": False, "rows": self.rows, "slots": self.slots, **options}
        return MetricsBackend(path=self.path, **told)

    def prepare(self) -> None:
        """Make what the operation finds."""

    def operation(self) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """After the operation was done to its end: count in what it made."""

    def close(self) -> None:
        for backend in self.backends:
            backend.close()


class CreateCounter(Scenario):
    after = {"jobs": 2.0}  # noqa: RUF012

    def operation(self) -> None:
        self.series = self.first.counter("jobs", shop="a")

    def finish(self) -> None:
        self.series.inc(2)


class CreateGauge(Scenario):
    after = {"depth": 3.0}  # noqa: RUF012

    def operation(self) -> None:
        self.series = self.first.gauge("depth", shop="a")

    def finish(self) -> None:
        self.series.set(3)


class CreateHistogram(Scenario):
    after = {"took": 1.0}  # noqa: RUF012

    def operation(self) -> None:
        self.series = self.first.histogram("took", buckets=(0.5, 1.0), shop="a")

    def finish(self) -> None:
        self.series.observe(0.75)


class CreateInfo(Scenario):
    after = {"build": 1.0}  # noqa: RUF012

    def prepare(self) -> None:
        from shm_metrics import Info

        self.make = Info

    def operation(self) -> None:
        self.make("build", "", registry=self.first).info({"version": "1"})


class Reuse(Scenario):
    """A creation in a full segment, in the slots of a removed series."""

    slots = 64

    def prepare(self) -> None:
        kept = []
        for n in range(200):
            series = self.first.counter("jobs", shop=str(n))
            if series.overflowed:
                break
            series.inc(1)
            kept.append(series)
        self.kept = len(kept)
        self.first.families.handles["jobs"].remove((("shop", "0"),))
        kept[1].inc(0)  # this worker has followed
        self.before = {"jobs": self.kept - 1.0}
        self.after = {"jobs": self.kept - 1.0 + 5.0}

    def operation(self) -> None:
        self.series = self.first.counter("jobs", shop="new")
        if self.series.overflowed:
            raise Wrong("the slots of the removed series are not found")

    def finish(self) -> None:
        self.series.inc(5)


class ClaimFresh(Scenario):
    before = {"jobs": 1.0}  # noqa: RUF012
    after = {"jobs": 3.0}  # noqa: RUF012

    def prepare(self) -> None:
        self.first.counter("jobs", shop="a").inc(1)

    def operation(self) -> None:
        made = self.attach()
        self.backends.append(made)

    def finish(self) -> None:
        if self.backends[-1].row is None:
            raise Wrong("no row is free")
        self.backends[-1].counter("jobs", shop="a").inc(2)


class ClaimDead(ClaimFresh):
    """The same of a row that a dead worker left, with what is folded."""

    before = {"jobs": 3.0, "took": 1.0, "g_min": 2.0, "g_max": 4.0, "g_mostrecent": 3.0, "g_sum": 7.0, "g_shared": 3.0}  # noqa: RUF012
    after = {**before, "jobs": 5.0}  # noqa: RUF012

    def prepare(self) -> None:
        gone = self.attach()
        for n, backend in ((1, self.first), (2, gone)):
            backend.counter("jobs", shop="a").inc(n)
            for mode in MODES[:-1]:
                gauge = backend.gauge(f"g_{mode}", multiprocess_mode=mode)
                gauge.set(
                    {"min": 4.0 - 2 * n + 2, "max": 2.0 * n, "sum": 3.0 * n - 2 * (n == 2) + n - 1}.get(mode, n + 1.0)
                )
        gone.histogram("took", buckets=(0.5, 1.0), shop="a").observe(0.25)
        # min: 4, 2; max: 2, 4; mostrecent and shared: 2, 3; sum: 3, 5
        self.before = {**self.before, "g_sum": 8.0}
        self.after = {**self.after, "g_sum": 8.0}
        gone.close()


class Remove(Scenario):
    before = {"jobs": 3.0, "others": 4.0}  # noqa: RUF012
    after = {"others": 4.0}  # noqa: RUF012

    def prepare(self) -> None:
        self.backends.append(self.attach())
        for n, backend in enumerate(self.backends, 1):
            backend.counter("jobs", shop="a").inc(n)
            backend.counter("others", shop="a").inc(2)
        self.first.collect()

    def operation(self) -> None:
        self.first.families.handles["jobs"].remove((("shop", "a"),))


class Clear(Remove):
    after = {}  # noqa: RUF012

    def operation(self) -> None:
        self.first.clear()


class Reset(Remove):
    after = {"jobs": 0.0, "others": 4.0}  # noqa: RUF012

    def operation(self) -> None:
        self.first.families.handles["jobs"].reset((("shop", "a"),))


class Scrape(Remove):
    after = Remove.before

    def prepare(self) -> None:
        self.first._scraper.process_metrics = True
        super().prepare()
        self.backends[1].counter("later", shop="b").inc(2)  # so that this scrape reads on in the catalog
        self.backends[1].counter("others", shop="b").keep_exemplar({"trace": "1"}, value=1.0)
        self.before = {**self.before, "later": 2.0}
        self.after = self.before

    def operation(self) -> None:
        self.found = self.first.collect()

    def finish(self) -> None:
        names = {getattr(item, "name", "") for item in self.found}
        for item in self.found:
            names |= {family.name for family, _ in getattr(getattr(item, "families", None), "pairs", ())}
        if self.first.snapshot().damaged_records:
            raise Wrong("a record is damaged")


class Keep(Scenario):
    before = {"jobs": 6.0}  # noqa: RUF012
    after = {"jobs": 6.0}  # noqa: RUF012

    def prepare(self) -> None:
        self.all = [self.first.counter("jobs", shop=str(n)) for n in range(6)]
        for series in self.all:
            series.inc()
        for series in self.all[:5]:
            series.keep_exemplar({"trace": "old"}, value=1.0)

    def operation(self) -> None:
        self.all[5].keep_exemplar({"trace": "new"}, value=2.0)

    def finish(self) -> None:
        for n, series in enumerate(self.all):
            series.keep_exemplar({"trace": f"last{n}"}, value=1.0)
        found = [dict(series.exemplar().labels) for series in self.all]
        if found != [{"trace": f"last{n}"} for n in range(6)]:
            raise Wrong(f"exemplars: {found}")


class Adopt(Scenario):
    """A worker without a row gets one.

    Its series are carried over one by one, each as a whole; after an exception in between, the next repair goes on.
    """

    rows = 1
    halfway = ({"jobs": 3.0}, {"jobs": 10.0})
    before = {"jobs": 1.0}  # noqa: RUF012
    after = {"jobs": 13.0, "took": 2.0, "depth": 4.0}  # noqa: RUF012
    between = {"jobs": 12.0, "took": 1.0, "depth": 4.0}  # noqa: RUF012

    def prepare(self) -> None:
        self.first.counter("jobs", shop="a").inc(1)
        self.second = self.attach()
        self.backends.append(self.second)
        if self.second.row is not None:
            raise Wrong("two workers have one row")
        self.jobs, self.more = self.second.counter("jobs", shop="a"), self.second.counter("jobs", shop="b")
        self.jobs.inc(2)
        self.more.inc(9)
        self.took = self.second.histogram("took", buckets=(0.5, 1.0))
        self.took.observe(0.25)
        self.depth = self.second.gauge("depth", multiprocess_mode="sum")
        self.depth.inc(4)
        self.first.close()
        self.backends.remove(self.first)
        self.first = self.second

    def operation(self) -> None:
        if not self.second._writer.repair():
            raise Wrong("not repaired")

    def finish(self) -> None:
        if self.second.row is None:
            raise Wrong("no row")
        self.jobs.inc(1)
        self.took.observe(0.25)


SCENARIOS: dict[str, type[Scenario]] = {
    "counter": CreateCounter,
    "gauge": CreateGauge,
    "histogram": CreateHistogram,
    "info": CreateInfo,
    "reuse": Reuse,
    "claim": ClaimFresh,
    "fold": ClaimDead,
    "remove": Remove,
    "clear": Clear,
    "reset": Reset,
    "scrape": Scrape,
    "exemplar": Keep,
    "adopt": Adopt,
}


# -- checks ------------------------------------------------------------------------------------------------------------


def totals(backend: MetricsBackend) -> dict[str, float]:
    """family -> the sum of its series, of histograms their counts; overflows left out when they are 0."""
    snapshot = backend.snapshot()
    if snapshot.damaged_records:
        raise Wrong(f"{snapshot.damaged_records} records are damaged")
    if snapshot.shadowed_series:
        raise Wrong(f"{snapshot.shadowed_series} series are shadowed")
    found: dict[str, float] = {}
    for each in backend.all_metrics().values():
        value = each.get("count", each.get("value", 1.0))
        name = each["name"].removesuffix("_total").removesuffix("_info")
        found[name] = found.get(name, 0.0) + float(1.0 if isinstance(value, dict) else value)
    return found


def check_page(scenario: Scenario, *rights: dict[str, float], exactly: bool = False) -> None:
    """What the worker itself shows, and one that only reads: each family as in one of `rights`."""
    reader = scenario.attach(read_only=True)
    try:
        for backend in (reader, *scenario.backends):
            found = totals(backend)
            for name in {*found, *(name for right in rights for name in right)}:
                wanted = {right.get(name) for right in rights}
                if not exactly and None in wanted:
                    wanted |= {0.0}  # made, and not counted in; or removed, and counted from 0
                if found.get(name) not in wanted:
                    raise Wrong(f"{name} is {found.get(name)} and not {wanted}; all: {found}")
    finally:
        reader.close()


def check_locks(scenario: Scenario) -> None:
    other = FileLocks(os.open(scenario.path, os.O_RDWR | os.O_CLOEXEC))
    try:
        for name, byte in (("catalog", L.LOCK_CATALOG), ("ledger", L.LOCK_LEDGER), ("creation", L.LOCK_CREATION)):
            if not other.try_exclusive(byte):
                raise Wrong(f"the lock of the {name} is held")
            other.release(byte)
        owned = {backend.row for backend in scenario.backends}
        layout = scenario.first._segment.layout
        for row in range(L.FIRST_WORKER_ROW, layout.matrix_rows):
            for what, byte in (("claimed", L.LOCK_CLAIM + row), ("live", L.LOCK_LIVE + row)):
                free = other.try_exclusive(byte)
                if free:
                    other.release(byte)
                if free == (row in owned):
                    raise Wrong(f"row {row} is {'not ' * free}{what}; owned are {owned}")
    finally:
        other.close()


def check_slots(scenario: Scenario) -> None:
    """No two living series share a slot."""
    catalog_view = CatalogView(scenario.first._segment)
    catalog_view.refresh()
    taken: dict[int, str] = {}
    for family in (*catalog_view.families.values(), *catalog_view.older):
        count = len(slot_codes(family.family))
        for entry in family.series.values():
            if catalog_view.table.state(entry.slot, entry.hash) == FREE:
                continue
            for slot in range(entry.slot, entry.slot + count):
                name = f"{family.family.name}{entry.labels}"
                if taken.setdefault(slot, name) != name:
                    raise Wrong(f"slot {slot} is of {name} and of {taken[slot]}")


def check_thread(scenario: Scenario, number: int) -> None:
    """Another thread makes a series at once."""
    failed: list[BaseException] = []

    def make() -> None:
        try:
            if scenario.first.counter("beside", shop=str(number)).overflowed and scenario.slots > 64:
                raise Wrong("no slot for the series of another thread")
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    thread.join(1.0)
    if thread.is_alive():
        raise Wrong("another thread waits for ever")
    if failed:
        raise failed[0]


def check_process(scenario: Scenario) -> None:
    """Another process makes a series at once."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(5)
            mine = MetricsBackend(path=scenario.path, process_metrics=False)
            mine.counter("process", shop="x")
            code = 0 if not mine._writer._waiting else 2
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    if status:
        raise Wrong(f"another process cannot make a series: status {status}")


@contextmanager
def fresh_path() -> Iterator[str]:
    path = f"/dev/shm/shm_metrics-test-{os.getpid()}-{uuid.uuid4().hex}"
    try:
        yield path
    finally:
        if os.path.exists(path):
            os.unlink(path)


def trial(kind_of: type[Scenario], kind: str, at: int, number: int) -> tuple[bool, int]:
    """Whether the exception was raised before the operation had ended; and the number of events until then."""
    with fresh_path() as path:
        scenario = kind_of(path)
        try:
            events = raised = 0
            try:
                events = trace(scenario.operation, kind, at, inject)
            except Injected:
                raised = 1
            check_locks(scenario)
            holder = scenario.first._writer.allocator.lock.holder
            if holder is not None:
                try:
                    holder.clear()
                except RuntimeError:
                    raise Wrong("the allocator's lock is held") from None
            if raised:
                check_page(scenario, scenario.before, scenario.between or scenario.after, *scenario.halfway)
                scenario.operation()
            scenario.finish()
            check_page(scenario, scenario.after, exactly=True)
            check_locks(scenario)
            check_thread(scenario, number)
            if number % 50 == 0:
                check_process(scenario)
            check_slots(scenario)
            return bool(raised), events
        finally:
            scenario.close()


def by_event(name: str, kind: str, seconds: float, seed: int) -> dict[str, Any]:
    """Every event if there is time for it, in random order."""
    Writer._start_repairs = lambda self: None  # type: ignore[method-assign]  # what a trial repairs, it repairs itself
    kind_of, rng = SCENARIOS[name], random.Random(seed)
    trial(kind_of, kind, 0, 0)  # loads what is loaded late
    _, events = trial(kind_of, kind, 0, 0)
    places = list(range(1, events + 1))
    rng.shuffle(places)
    counts: dict[str, Any] = {"seed": seed, "events": events, "trials": 0, "raised": 0, "failure": None}
    deadline = time.monotonic() + seconds
    for number, at in enumerate(places):
        if time.monotonic() > deadline:
            break
        try:
            raised, _ = trial(kind_of, kind, at, number)
        except (Exception, Injected):
            counts["failure"] = f"{name}, {kind} {at}: {traceback.format_exc()}"
            break
        counts["trials"] += 1
        counts["raised"] += raised
    return counts


# -- real signals ------------------------------------------------------------------------------------------------------


def by_signal(seconds: float, seed: int) -> dict[str, Any]:
    """A timer's handler raises on top of creations, removals and scrapes; then all is as what succeeded says."""
    rng, armed = random.Random(seed), False
    counts: dict[str, Any] = {"seed": seed, "operations": 0, "raised": 0, "series": 0, "failure": None}

    def handler(*_: object) -> None:
        if armed:
            raise Injected

    def attempt(operation: Callable[[], Any]) -> Any:
        """Do it until it was not interrupted."""
        nonlocal armed
        while True:
            counts["operations"] += 1
            signal.setitimer(signal.ITIMER_REAL, rng.choice((6e-4, 3e-3, 1e-2)) * rng.random() + 2e-5)
            try:
                armed = True
                result = operation()
                armed = False
                return result
            except Injected:
                armed = False
                counts["raised"] += 1
            finally:
                armed = False

    signal.signal(signal.SIGALRM, handler)
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline and counts["failure"] is None:
            with fresh_path() as path:
                scenario = Remove.__new__(Remove)
                scenario.path, scenario.slots = path, 4096
                scenario.backends = [scenario.attach()]
                scenario.first = backend = scenario.backends[0]
                backend.collect()
                wanted: dict[str, float] = {}
                life = time.monotonic() + min(2.0, seconds / 2)
                n = 0
                while time.monotonic() < min(life, deadline) and n < 1000:
                    n += 1
                    name = f"c{n % 40}"
                    series = attempt(lambda backend=backend, name=name, n=n: backend.counter(name, shop=str(n)))
                    series.inc(n)
                    wanted[name] = wanted.get(name, 0.0) + n
                    if n % 3 == 0:
                        took = attempt(
                            lambda backend=backend, n=n: backend.histogram("took", buckets=(0.5, 1.0), shop=str(n))
                        )
                        took.observe(0.5)
                        wanted["took"] = wanted.get("took", 0.0) + 1
                    if n % 7 == 0:
                        attempt(backend.collect)
                    if n % 5 == 0:
                        gone = backend.families.handles[name]
                        attempt(lambda gone=gone, n=n: gone.remove((("shop", str(n)),)))
                        wanted[name] -= n
                    if n % 11 == 0:
                        attempt(lambda scenario=scenario: scenario.attach().close())
                counts["series"] += n
                signal.setitimer(signal.ITIMER_REAL, 0)
                gc.collect()
                check_locks(scenario)
                found = {name: value for name, value in totals(backend).items() if value}
                if found != {name: value for name, value in wanted.items() if value}:
                    raise Wrong(f"{found} and not {wanted}")
                check_slots(scenario)
                check_thread(scenario, n)
                check_process(scenario)
                backend.close()
    except (Exception, Injected):
        counts["failure"] = traceback.format_exc()
    return counts


# -- forks -------------------------------------------------------------------------------------------------------------

MORE = 20


class _Forks:
    """An object that forks when it goes."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act

    def __del__(self) -> None:
        self.act()


def fork_trial(at: int, way: str) -> bool:
    """Fork on top of event `at` of a creation; whether it came to that. Both go on, and count what they have."""
    with fresh_path() as path:
        scenario = CreateCounter(path)
        backend, child = scenario.first, -1
        backend.counter("before", shop="a").inc(1)

        def fork(*_: object) -> None:
            nonlocal child
            child = os.fork()

        def act() -> None:
            if way == "handler":
                signal.signal(signal.SIGUSR1, fork)
                os.kill(os.getpid(), signal.SIGUSR1)
                while child < 0:
                    time.sleep(0)
            elif way == "del":
                _Forks(fork)
            else:
                fork()

        code = 1
        try:
            trace(scenario.operation, "opcode", at, act, where_handlers_run=True)
            commit = backend._writer.allocator.catalog.commit
            who = "child" if child == 0 else "parent"
            scenario.series.inc(2)
            for n in range(MORE):
                backend.counter(f"own_{who}", shop=str(n)).inc(n + 1)
                backend.counter("common", shop=str(n)).inc(n + 1)
            if backend._writer.allocator.catalog.commit < commit:
                raise Wrong("the commit was moved back")
            if backend.row is None or backend._writer._waiting:
                raise Wrong("no row, or something waits")
            code = 0
        finally:
            if child == 0:
                if code:
                    traceback.print_exc()
                    sys.stderr.flush()
                os._exit(code)
        if child < 0:
            scenario.close()
            return False
        try:
            status = os.waitpid(child, 0)[1]
            if status:
                raise Wrong(f"the child ended with status {status}")
            each = MORE * (MORE + 1) / 2.0
            right = {"jobs": 4.0, "before": 1.0, "own_parent": each, "own_child": each, "common": 2 * each}
            check_page(scenario, right, exactly=True)
            found = [(one["name"], str(one["labels"])) for one in backend.all_metrics().values()]
            if len(found) != 2 + 3 * MORE or len(set(found)) != len(found):
                raise Wrong(f"{len(found)} series, {len(set(found))} different ones")
            check_slots(scenario)
            check_locks(scenario)
        finally:
            scenario.close()
        return True


def by_fork(seconds: float, seed: int) -> dict[str, Any]:
    counts: dict[str, Any] = {"seed": seed, "events": 0, "forks": 0, "failure": None}
    rng, deadline = random.Random(seed), time.monotonic() + seconds
    for _ in range(2):
        _, counts["events"] = trial(CreateCounter, "opcode", 0, 1)
    places = list(range(1, counts["events"] + 1))
    rng.shuffle(places)
    for number, at in enumerate(places):
        if time.monotonic() > deadline:
            break
        way = ("handler", "del", "call")[number % 3]
        try:
            counts["forks"] += fork_trial(at, way)
        except Exception:
            counts["failure"] = f"{way} at {at}: {traceback.format_exc()}"
            break
    return counts


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=("by-event", "by-signal", "by-fork"))
    parser.add_argument("scenario", nargs="?", choices=("all", *SCENARIOS))
    parser.add_argument("kind", nargs="?", choices=("opcode", "line"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    if told.way == "by-event" and told.scenario == "all":
        counts = {"failure": None, "trials": 0, "raised": 0}
        for name in SCENARIOS:
            if counts["failure"] is None:
                found = by_event(name, told.kind, told.seconds / len(SCENARIOS), told.seed)
                counts["failure"] = found["failure"]
                counts.update({what: counts[what] + found[what] for what in ("trials", "raised")})
    elif told.way == "by-event":
        counts = by_event(told.scenario, told.kind, told.seconds, told.seed)
    else:
        counts = (by_signal if told.way == "by-signal" else by_fork)(told.seconds, told.seed)
    print(json.dumps(counts))
    return int(counts["failure"] is not None)


if __name__ == "__main__":
    sys.exit(main())
