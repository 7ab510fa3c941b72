"""Workers that come, go, fork and are killed at any moment, with a journal each that says what the page must show.

python -m tests.torture.campaign --seed N --seconds N

A worker writes into its journal what it is about to do, does it, and writes that it is done. So a SIGKILL leaves at
most one operation in doubt, and the journals added up are what the page must show. Every now and then all workers stop
between two operations, and the page is compared. Two processes scrape all the time.

Removal: rotating series have a lock and a ledger each. Who has the lock counts or removes, by a handle that it may have
had for long, and looks whether the series counts from 0. A killed holder's operation is settled by the next one.
Churn: label sets that live for a moment, in a small segment. Rows: fewer than workers. Prints its counts as JSON.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import mmap
import os
import random
import re
import select
import signal
import tempfile
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import shm_metrics.writer.writer
from shm_metrics import Counter, Gauge, Histogram, MetricsBackend, SegmentFullError, generate_latest

WORKERS = 6
ROWS = 4
SLOTS = 1024
PATIENCE = 60.0
BUCKETS = (0.5, 1.0, 2.0)

COUNTERS = range(8)
HISTOGRAMS = range(8, 12)
SUM, IN_FLIGHT = 12, 13
CODES = 14
ROTATING = ("counter", "histogram", "shared") * 3

# Words of a journal.
PID, COMMAND, ARGUMENT, READY, HAS_ROW, INTENT, LEVEL, OPEN, OPEN_COUNT, SCRAPES, REMOVALS, CHURNED, REFUSED = range(13)
TALLIES = 16
JOURNAL_WORDS = TALLIES + CODES
FORK, END = 1, 2

# Words of a rotating series in the ledger, and what its holder may be about to do.
DOING, TALLY, DOUBTS, LIVES = range(4)
OVER = 4 * len(ROTATING)  # a word of its own behind them: all processes end
ADDING, REMOVING, SETTING = 1, 2, 3
SET_TO = 1000

Page = Mapping[str, float]


class Wrong(AssertionError):
    """The page is not what the journals say."""


# -- pages -------------------------------------------------------------------------------------------------------------

_SAMPLE = re.compile(r"^([^#\s][^ ]*) (\S+)$", re.MULTILINE)


_OF_HISTOGRAM = re.compile(r"(?P<family>\w+)_(?P<part>bucket|count|sum)\{(?P<labels>.*)\}")


def page_of(backend: MetricsBackend) -> Page:
    return {name: float(value) for name, value in _SAMPLE.findall(generate_latest(backend).decode())}


def check_whole(page: Page) -> int:
    """Each histogram has seen 1.0 only: count, sum and two buckets are one number. How many histograms there were."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for name, value in page.items():
        of = _OF_HISTOGRAM.match(name)
        if of:
            labels = [label for label in of["labels"].split(",") if not label.startswith("le=")]
            bucket = [label for label in of["labels"].split(",") if label.startswith("le=")]
            found.setdefault((of["family"], ",".join(labels)), {})[of["part"] + "".join(bucket)] = value
    for name, parts in found.items():
        several = [parts.get(part) for part in ("count", "sum", 'bucketle="+Inf"', 'bucketle="1.0"')]
        if len(set(several)) > 1:
            raise Wrong(f"{name}: count, sum, +Inf bucket and bucket of 1.0 are {several}")
    return len(found)


class NeverFalls:
    """What may only grow from one scrape to the next: everything steady."""

    def __init__(self) -> None:
        self.before: dict[str, float] = {}

    def check(self, page: Page) -> None:
        for name, value in page.items():
            if name.startswith(("steady_", "added")):
                if value < self.before.get(name, 0.0):
                    raise Wrong(f"{name} fell from {self.before[name]} to {value}")
                self.before[name] = value
        missing = self.before.keys() - page.keys()
        if missing:
            raise Wrong(f"no longer shown: {sorted(missing)}")


def check_between(name: str, value: float | None, lower: float, upper: float) -> None:
    """None: it is not shown, which is right for something that may be 0."""
    if not lower <= (value or 0.0) <= upper:
        raise Wrong(f"{name} shows {value}; the journals say {lower:g}" + (f" to {upper:g}" if upper > lower else ""))


def steady_name(code: int) -> str:
    if code in COUNTERS:
        return f'steady_total{{k="{code}"}}'
    return f'steady_seconds_count{{k="{code}"}}' if code in HISTOGRAMS else "added"


def rotating_name(n: int) -> str:
    kind = ROTATING[n]
    ending = {"counter": "_total", "histogram": "_count", "shared": ""}[kind]
    return f'rotating_{kind}{ending}{{k="{n}"}}'


def churned_name(label: int) -> str:
    return f'churned_total{{k="{label}"}}'


# -- files that all processes share ------------------------------------------------------------------------------------


def words(path: Path, count: int = 0) -> Any:
    """The 8-byte words of a file, mapped; made with so many if count says so."""
    if count:
        path.write_bytes(bytes(8 * count))
    with path.open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")


class Locks:
    """Bytes of a file, locked by processes: a lock ends with its process, and is not inherited by fork."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def lock(self, byte: int, how: int = fcntl.LOCK_EX) -> None:
        fcntl.lockf(self.fd, how, 1, byte)

    @contextmanager
    def locked(self, byte: int) -> Iterator[None]:
        self.lock(byte)
        yield
        self.lock(byte, fcntl.LOCK_UN)

    # Bytes 0 and 1 are a gate: many go through at once, until the driver shuts it.

    @contextmanager
    def through_gate(self) -> Iterator[None]:
        self.lock(0)
        self.lock(1, fcntl.LOCK_SH)
        self.lock(0, fcntl.LOCK_UN)
        yield
        self.lock(1, fcntl.LOCK_UN)

    @contextmanager
    def gate_shut(self) -> Iterator[None]:
        self.lock(0)
        self.lock(1)
        yield
        self.lock(1, fcntl.LOCK_UN)
        self.lock(0, fcntl.LOCK_UN)


FIRST_ROTATING_LOCK = 2


class Site:
    """Where a campaign takes place."""

    def __init__(self, directory: Path, segment: str, deadline: float, *, rows: int = ROWS, removals: bool) -> None:
        self.directory = directory
        self.rows = rows
        self.removals = removals
        self.segment = segment
        self.deadline = deadline  # by which every process ends by itself

    def journal(self, n: int) -> Path:
        return self.directory / f"journal-{n}"

    def fail(self) -> None:
        """Tell the driver of the exception that is being handled."""
        made = self.directory / f"{uuid.uuid4().hex}.new"
        made.write_text(traceback.format_exc())
        made.rename(made.with_suffix(".failure"))

    def failure(self) -> str | None:
        for path in self.directory.glob("*.failure"):
            return path.read_text()
        return None


# -- a worker ----------------------------------------------------------------------------------------------------------


class Worker:
    """A process that counts. leftovers: labels that killed workers left, for this one to remove."""

    def __init__(self, site: Site, number: int, seed: int, leftovers: list[int]) -> None:
        self.site = site
        self.locks = Locks(site.directory / "locks")
        self.ledger = words(site.directory / "ledger")
        self.begin(number, seed)
        self.backend = backend = MetricsBackend(path=site.segment, rows=site.rows, slots=SLOTS, process_metrics=False)
        steady = Counter("steady", "", ["k"], registry=backend)
        seconds = Histogram("steady_seconds", "", ["k"], registry=backend, buckets=BUCKETS)
        self.updates: dict[int, Any] = {
            **{code: steady.labels(str(code)).inc for code in COUNTERS},
            **{code: seconds.labels(str(code)).observe for code in HISTOGRAMS},
            SUM: Gauge("added", "", registry=backend, multiprocess_mode="sum").inc,
        }
        self.in_flight = Gauge("in_flight", "", registry=backend, multiprocess_mode="livesum")
        self.churned = Counter("churned", "", ["k"], registry=backend)
        self.families = {
            "counter": Counter("rotating_counter", "", ["k"], registry=backend),
            "histogram": Histogram("rotating_histogram", "", ["k"], registry=backend, buckets=BUCKETS),
            "shared": Gauge("rotating_shared", "", ["k"], registry=backend),
        }
        self.rotating: dict[int, Any] = {}
        for label in leftovers:
            self.remove(self.churned, str(label))

    def begin(self, number: int, seed: int) -> None:
        self.number = number
        self.rng = random.Random(seed * 1_000_003 + number)
        self.journal = words(self.site.journal(number))
        self.journal[PID] = os.getpid()
        self.serial = 0
        self.open: Any = None
        self.falls = NeverFalls()
        self.seed = seed

    def run(self) -> None:
        journal = self.journal
        journal[READY] = 1
        while True:
            if journal[COMMAND]:
                command, argument = journal[COMMAND], journal[ARGUMENT]
                journal[COMMAND] = 0
                if command == END:
                    with self.locks.through_gate():
                        self.end_churn()
                    self.backend.close()
                    os._exit(0)
                if os.fork() == 0:
                    self.begin(argument, self.seed)
                    journal = self.journal
                    journal[READY] = 1
            if self.ledger[OVER] or time.monotonic() > self.site.deadline:
                os._exit(3)
            with self.locks.through_gate():
                self.batch()

    def batch(self) -> None:
        rng, journal, updates = self.rng, self.journal, self.updates
        for _ in range(rng.randrange(10, 60)):
            choice = rng.random() if self.site.removals else rng.random() * 0.90
            if choice < 0.86:
                code = rng.randrange(SUM + 1)
                update = updates[code]
                journal[INTENT] = code + 1
                update(1.0)
                journal[TALLIES + code] += 1
                journal[INTENT] = 0
            elif choice < 0.90:
                self.move_in_flight()
            elif choice < 0.95:
                self.churn()
            elif journal[HAS_ROW]:
                self.rotate(rng.randrange(len(ROTATING)))
        if rng.random() < 0.05:
            page = page_of(self.backend)
            check_whole(page)
            self.falls.check(page)
            journal[SCRAPES] += 1
        if not journal[HAS_ROW] and self.backend.row is not None:
            journal[HAS_ROW] = 1

    def move_in_flight(self) -> None:
        journal = self.journal
        up = not journal[LEVEL] or self.rng.random() < 0.5
        journal[INTENT] = IN_FLIGHT + 1
        if up:
            self.in_flight.inc()
            journal[LEVEL] += 1
        else:
            self.in_flight.dec()
            journal[LEVEL] -= 1
        journal[INTENT] = 0

    def churn(self) -> None:
        """A label set of its own, which lives until this worker's next one."""
        self.end_churn()
        journal = self.journal
        self.serial += 1
        journal[OPEN_COUNT] = 0
        journal[OPEN] = label = self.number * 1_000_000 + self.serial
        series = self.churned.labels(str(label))
        for _ in range(self.rng.randrange(1, 4)):
            series.inc()
            journal[OPEN_COUNT] += 1
        self.open = label

    def end_churn(self) -> None:
        if self.open is not None:
            self.remove(self.churned, str(self.open))
            self.journal[OPEN] = 0
            self.journal[CHURNED] += 1
            self.open = None

    def remove(self, family: Any, label: str) -> None:
        try:
            family.remove(label)
            self.journal[REMOVALS] += 1
        except SegmentFullError:
            self.journal[REFUSED] += 1

    # -- rotating series ------------------------------------------------------------------------------------------

    def rotate(self, n: int) -> None:
        """Use or remove a series that other workers use and remove too, and look at what it then shows."""
        with self.locks.locked(FIRST_ROTATING_LOCK + n):
            entry = self.ledger[4 * n : 4 * n + 4]
            self.settle(n, entry)
            if self.rng.random() < 0.15:
                self.do(n, entry, REMOVING)
            elif ROTATING[n] == "shared" and self.rng.random() < 0.2:
                self.do(n, entry, SETTING)
            else:
                for _ in range(self.rng.randrange(1, 5)):
                    self.do(n, entry, ADDING)
            if self.rng.random() < 0.1:
                page = page_of(self.backend)
                if decidable(page) and not self.journal[REFUSED]:
                    check_rotating(n, entry, page)

    def settle(self, n: int, entry: Any) -> None:
        """What a killed holder was about to do is done, or not: count it as a doubt, or do it again."""
        if entry[DOING] == ADDING:
            entry[DOUBTS] += 1
            entry[DOING] = 0
        elif entry[DOING]:
            self.do(n, entry, entry[DOING])

    def do(self, n: int, entry: Any, what: int) -> None:
        kind, label = ROTATING[n], str(n)
        entry[DOING] = what
        if what == REMOVING:
            self.remove(self.families[kind], label)
            entry[TALLY] = entry[DOUBTS] = 0
            entry[LIVES] += 1
        else:
            # The handle is kept for good, while other workers remove the series; at times it is a new one.
            if n not in self.rotating or self.rng.random() < 0.02:
                self.rotating[n] = self.families[kind].labels(label)
            series = self.rotating[n]
            if what == SETTING:
                series.set(SET_TO)
                entry[TALLY], entry[DOUBTS] = SET_TO, 0
            else:
                series.observe(1.0) if kind == "histogram" else series.inc()
                entry[TALLY] += 1
        entry[DOING] = 0


def check_rotating(n: int, entry: Any, page: Page) -> None:
    doubts = entry[DOUBTS] + (1 if entry[DOING] == ADDING else 0)
    if entry[DOING] in (0, ADDING):
        check_between(
            f"{rotating_name(n)} (life {entry[LIVES]})", page.get(rotating_name(n)), entry[TALLY], entry[TALLY] + doubts
        )
        if not entry[TALLY] and not doubts and rotating_name(n) in page:
            raise Wrong(f"{rotating_name(n)} is removed, and shown")


def decidable(page: Page) -> bool:
    """Not any more when there was no slot for a series: its counts are in the overflow."""
    return page["shm_metrics_overflowed_updates_total"] == 0


def scrape(site: Site, ready: Any) -> None:
    """Scrape until the driver ends it."""
    backend = MetricsBackend(path=site.segment, read_only=True, process_metrics=False)
    falls = NeverFalls()
    ready[PID] = os.getpid()
    ready[READY] = 1
    while time.monotonic() < site.deadline:
        page = page_of(backend)
        check_whole(page)
        falls.check(page)
        ready[SCRAPES] += 1


# -- the driver --------------------------------------------------------------------------------------------------------


class Process:
    """A process that the driver knows by its journal."""

    def __init__(self, journal: Any) -> None:
        self.journal = journal
        self.fd = os.pidfd_open(journal[PID])

    def kill(self) -> None:
        signal.pidfd_send_signal(self.fd, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        if not select.select([self.fd], [], [], PATIENCE)[0]:
            raise Wrong(f"process {self.journal[PID]} does not end")
        os.close(self.fd)


class Campaign:
    """falsify: one count more is expected than there was, so that the last comparison must fail; with rows for all."""

    def __init__(self, site: Site, seed: int, falsify: bool) -> None:
        self.site = site
        self.seed = seed
        self.rng = random.Random(seed)
        self.locks = Locks(site.directory / "locks")
        self.ledger = words(site.directory / "ledger", OVER + 1)
        self.workers: list[Process] = []
        self.scrapers: list[Process] = []
        self.starting: int | None = None  # a child that is not ready yet
        self.number = 0
        self.base = [0] * CODES  # what dead workers counted
        self.doubts = [0] * CODES
        self.leftovers: list[int] = []
        self.falsify = falsify
        self.refused = 0
        self.counts = dict.fromkeys(
            ("kills", "rowless_kills", "ends", "forks", "operations", "scrapes", "removals", "churned", "comparisons"),
            0,
        )
        self.counts["overflowed"] = 0

    # -- processes ------------------------------------------------------------------------------------------------

    def _child(self, work: Any, *arguments: Any) -> None:
        pid = os.fork()
        if pid:
            self.starting = os.pidfd_open(pid)
        else:
            try:
                work(*arguments)
            except BaseException:
                self.site.fail()
            finally:
                os._exit(1)

    def _ready(self, journal: Any) -> Process:
        began = time.monotonic()
        while not journal[READY]:
            self.look_for_failures()
            if time.monotonic() - began > PATIENCE:
                raise Wrong("a process does not become ready")
            time.sleep(0.001)
        if self.starting is not None:
            os.close(self.starting)
            self.starting = None
        return Process(journal)

    def start(self) -> None:
        """One more worker: a new process, or a child of a living one."""
        self.number += 1
        journal = words(self.site.journal(self.number), JOURNAL_WORDS)
        if self.workers and self.rng.random() < 0.4:
            parent = self.rng.choice(self.workers).journal
            parent[ARGUMENT] = self.number
            parent[COMMAND] = FORK
            self.counts["forks"] += 1
        else:
            leftovers, self.leftovers = self.leftovers, []
            self._child(lambda: Worker(self.site, self.number, self.seed, leftovers).run())
        self.workers.append(self._ready(journal))

    def start_scraper(self) -> None:
        self.number += 1
        journal = words(self.site.journal(self.number), JOURNAL_WORDS)
        self._child(scrape, self.site, journal)
        self.scrapers.append(self._ready(journal))

    def look_for_failures(self) -> None:
        failure = self.site.failure()
        if failure is not None:
            raise Wrong(failure)

    def buried(self, worker: Process, *, counted: bool = True) -> None:
        """Take over what a dead worker's journal says. counted: it had a row."""
        self.workers.remove(worker)
        journal = worker.journal
        for code in range(CODES):
            self.counts["operations"] += journal[TALLIES + code]
            if counted:
                self.base[code] += journal[TALLIES + code]
        if counted and journal[INTENT]:
            self.doubts[journal[INTENT] - 1] += 1
        if journal[OPEN]:
            self.leftovers.append(journal[OPEN])
        self._tidy(journal)

    def _tidy(self, journal: Any) -> None:
        self.counts["scrapes"] += journal[SCRAPES]
        self.counts["removals"] += journal[REMOVALS]
        self.counts["churned"] += journal[CHURNED]
        self.refused += journal[REFUSED]

    def with_row(self) -> list[Process]:
        return [worker for worker in self.workers if worker.journal[HAS_ROW]]

    def kill_one(self) -> None:
        worker = self.rng.choice(self.with_row())
        worker.kill()
        self.counts["kills"] += 1
        self.buried(worker)

    def end_one(self) -> None:
        worker = self.rng.choice(self.with_row())
        worker.journal[COMMAND] = END
        worker.wait()
        self.counts["ends"] += 1
        self.buried(worker)

    # -- comparing ------------------------------------------------------------------------------------------------

    def compare(self, watch: MetricsBackend) -> None:
        """With the workers between two operations: what the page shows is what the journals say."""
        with self.locks.gate_shut():
            self.look_for_failures()  # a worker that failed gave up its row, and says so before
            snapshot, page = watch.snapshot(), page_of(watch)
            check_whole(page)
            without = [worker for worker in self.workers if not worker.journal[HAS_ROW]]
            settled = len(snapshot.live_rows) == len(self.workers) - len(without) == self.site.rows
            self._compare_steady(page, [] if settled else without)
            self.counts["overflowed"] = int(page["shm_metrics_overflowed_updates_total"])
            refused = self.refused + sum(worker.journal[REFUSED] for worker in self.workers)
            if decidable(page) and not refused:
                self._compare_removed(page)
            if settled and without and self.rng.random() < 0.3:
                worker = self.rng.choice(without)  # what it counted was never seen, and is not from here on
                worker.kill()
                self.counts["rowless_kills"] += 1
                self.buried(worker, counted=False)

    def _compare_steady(self, page: Page, perhaps: list[Process]) -> None:
        """perhaps: workers that may have got a row since they looked."""
        living = [worker.journal for worker in self.with_row()]
        for journal in living:
            if journal[INTENT]:
                raise Wrong("a worker is in the middle of an operation, and should not be")
        for code in (*COUNTERS, *HISTOGRAMS, SUM):
            lower = self.base[code] + sum(journal[TALLIES + code] for journal in living)
            upper = lower + self.doubts[code] + sum(worker.journal[TALLIES + code] for worker in perhaps)
            check_between(steady_name(code), page.get(steady_name(code)), lower, upper)
            self.counts["comparisons"] += 1
        level = sum(journal[LEVEL] for journal in living)
        check_between("in_flight", page.get("in_flight"), level, level + sum(each.journal[LEVEL] for each in perhaps))

    def _compare_removed(self, page: Page) -> None:
        for n in range(len(ROTATING)):
            check_rotating(n, self.ledger[4 * n : 4 * n + 4], page)
            self.counts["comparisons"] += 1
        open_now = {worker.journal[OPEN]: worker.journal for worker in self.workers if worker.journal[OPEN]}
        shown = {int(name[len('churned_total{k="') : -2]) for name in page if name.startswith("churned_total{k=")}
        strange = shown - open_now.keys() - set(self.leftovers)
        if strange:
            few = [(each, page[churned_name(each)]) for each in sorted(strange)[:5]]
            raise Wrong(f"{len(strange)} label sets are removed, and shown: {few}")
        for label, journal in open_now.items():
            name = churned_name(label)
            lower = journal[OPEN_COUNT] if journal[HAS_ROW] else 0
            check_between(name, page.get(name), lower, journal[OPEN_COUNT])
            self.counts["comparisons"] += 1

    # -- the whole of it ------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Raises Wrong."""
        until = time.monotonic() + seconds
        for _ in range(WORKERS):
            self.start()
        watch = MetricsBackend(path=self.site.segment, read_only=True, process_metrics=False)
        for _ in range(2):
            self.start_scraper()
        turn = 0
        while time.monotonic() < until:
            turn += 1
            time.sleep(self.rng.random() * 0.03)  # any moment of what the workers do
            if len(self.with_row()) > 1:
                (self.end_one if self.rng.random() < 0.2 else self.kill_one)()
            while len(self.workers) < WORKERS:
                self.start()
            if turn % 6 == 0:
                self.compare(watch)
            self.look_for_failures()
        self._finish(watch)

    def _finish(self, watch: MetricsBackend) -> None:
        """Workers end until all that are left have rows; then nothing is in doubt but what killed ones left."""
        began = time.monotonic()
        while len(self.with_row()) < len(self.workers):
            if len(self.with_row()) == self.site.rows:
                self.end_one()
            self.look_for_failures()
            if time.monotonic() - began > PATIENCE:
                raise Wrong("a row is free, and a worker without one does not take it")
            time.sleep(0.001)
        self.compare(watch)
        while len(self.workers) > 1:
            self.end_one()
        if self.falsify:
            self.base[3] += self.doubts[3] + 1
        self.compare(watch)
        self.look_for_failures()
        watch.close()

    def close(self) -> None:
        self.ledger[OVER] = 1
        if self.starting is not None:
            try:
                signal.pidfd_send_signal(self.starting, signal.SIGKILL)
            except OSError:
                pass
            select.select([self.starting], [], [], PATIENCE)
        for process in (*self.workers, *self.scrapers):
            try:
                process.kill()
            except OSError:
                pass
            self._tidy(process.journal)
        for worker in self.workers:
            self.counts["operations"] += sum(worker.journal[TALLIES : TALLIES + CODES])


def campaign(seed: int, seconds: float, *, removals: bool = True, falsify: bool = False) -> dict[str, Any]:
    segment = f"/dev/shm/shm_metrics-test-{os.getpid()}-{uuid.uuid4().hex}"
    failure = None
    with tempfile.TemporaryDirectory(prefix="campaign-") as directory:
        deadline, rows = time.monotonic() + seconds + 2 * PATIENCE, WORKERS if falsify else ROWS
        site = Site(Path(directory), segment, deadline, rows=rows, removals=removals)
        made = Campaign(site, seed, falsify)
        try:
            made.run(seconds)
        except Wrong as wrong:
            failure = str(wrong)
        finally:
            made.close()
            if os.path.exists(segment):
                os.unlink(segment)
    return {
        "seed": seed,
        "workers": made.number - len(made.scrapers),
        **made.counts,
        "doubts": sum(made.doubts),
        "refused": made.refused,
        "lives": sum(made.ledger[LIVES:OVER:4]),
        "failure": failure,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--no-removals", action="store_true")
    parser.add_argument("--falsify", action="store_true")
    asked = parser.parse_args()
    logging.getLogger("shm_metrics").setLevel(logging.ERROR)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for killed workers; the kernel forgets them
    if hasattr(shm_metrics.writer.writer, "REPAIR_SECONDS"):
        shm_metrics.writer.writer.REPAIR_SECONDS = 0.02  # a worker without a row looks for one more often
    counts = campaign(asked.seed, asked.seconds, removals=not asked.no_removals, falsify=asked.falsify)
    print(json.dumps(counts))
    raise SystemExit(1 if counts["failure"] else 0)


if __name__ == "__main__":
    main()
