"""Three real workers that do one thing at a time, and a model that says what the page must then show.

python -m tests.torture.lockstep --seed N [--operations N] [--episodes N] [--seconds N]

An episode has a segment of its own and is a list of operations, chosen by its seed. Each operation is done by one
worker and by the model, and then every value on the page is compared. A list that fails is made as short as can be.
A program of its own, so that no backend of a test is forked along. Prints what was counted as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import random
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
import uuid
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import shm_metrics.writer.writer
from shm_metrics import Counter, Enum, Gauge, Histogram, Info, MetricsBackend, Summary, configure, get_backend
from tests.torture.model import BOUNDS, FAMILIES, GAUGES, STATES, Mismatch, Model

WORKERS = 3
PATIENCE = 60.0
LABELS = ("a", "b", "c")

Operation = tuple[Any, ...]


class Options(NamedTuple):
    """Of an episode. rows: fewer than workers, or enough. churn: label sets come and go, in few slots."""

    rows: int
    slots: int
    churn: bool
    falsify: bool = False  # the model adds one to each amount of 2: the driver must find it


# -- a worker ----------------------------------------------------------------------------------------------------------


class Work:
    """What a worker process does, as the driver says over its connection."""

    def __init__(self, address: str, path: str, options: Options) -> None:
        self.address = address
        self.backend = configure(path=path, rows=options.rows, slots=options.slots, process_metrics=False)
        self.options = options
        self.metrics: dict[str, Any] = {
            "c": Counter("c", "", ["k"]),
            "p": Counter("p", ""),
            "h": Histogram("h", "", ["k"], buckets=BOUNDS),
            "s": Summary("s", "", ["k"]),
            "i": Info("i", "", ["k"]),
            "e": Enum("e", "", ["k"], states=STATES),
            **{name: Gauge(name, "", ["k"], multiprocess_mode=mode) for name, mode in GAUGES.items()},
        }
        self.held: dict[tuple[str, str], Any] = {}

    def serve(self) -> None:
        with socket.socket(socket.AF_UNIX) as ours:
            ours.connect(self.address)
            self.link = Connection(ours.detach())
        self.link.send((os.getpid(), get_backend().row))
        while True:
            what, *arguments = self.link.recv()
            try:
                answer = getattr(self, what)(*arguments)
            except BaseException:
                self.link.send(("error", traceback.format_exc(), None))
                os._exit(1)
            if answer == "end":
                get_backend().close()
                os._exit(0)
            self.link.send(("ok", answer, get_backend().row))

    def series(self, family: str, k: str, held: bool) -> Any:
        """held: by the handle that was kept from an earlier use, if there is one."""
        if family == "p":
            return self.metrics["p"]
        if not held or (family, k) not in self.held:
            self.held[family, k] = self.metrics[family].labels(k)
        return self.held[family, k]

    def use(self, family: str, k: str, method: str, value: Any, held: bool) -> None:
        getattr(self.series(family, k, held), method)({"v": value} if family == "i" else value)

    def remove(self, family: str, k: str, by_labels: bool) -> None:
        if by_labels:
            self.metrics[family].remove_by_labels({"k": k})
        else:
            self.metrics[family].remove(k)

    def clear(self, family: str) -> None:
        self.metrics[family].clear()

    def reset(self, family: str, k: str, held: bool) -> None:
        self.series(family, k, held).reset()

    def churn(self, family: str, first: int, count: int) -> None:
        for n in range(first, first + count):
            series = self.metrics[family].labels(f"x{n}")
            getattr(series, "observe" if family in ("h", "s") else "inc")(3)
            self.metrics[family].remove(f"x{n}")

    def look(self) -> dict[str, Any]:
        return get_backend().all_metrics()

    def fork(self) -> None:
        if os.fork() == 0:
            try:
                self.link.close()
                self.serve()
            finally:
                os._exit(1)

    def go_to(self, path: str) -> None:
        self.held.clear()
        configure(path=path, rows=self.options.rows, slots=self.options.slots, process_metrics=False)

    def nothing(self) -> None:
        """For the row that comes with each answer."""

    def end(self) -> str:
        return "end"


class Worker:
    """The driver's end of a worker."""

    def __init__(self, server: socket.socket) -> None:
        connection, _ = server.accept()
        self.link = Connection(connection.detach())
        self.pid, self.row = self.hear()
        self.fd = os.pidfd_open(self.pid)

    def hear(self) -> Any:
        if not self.link.poll(PATIENCE):
            raise Mismatch("worker", "a worker hangs")
        try:
            return self.link.recv()
        except (EOFError, ConnectionResetError):
            raise Mismatch("worker", "a worker died") from None

    def do(self, *command: Any) -> Any:
        self.link.send(command)
        what, answer, self.row = self.hear()
        if what == "error":
            raise Mismatch("worker", f"a worker failed:\n{answer}")
        return answer

    def end(self) -> None:
        self.link.send(("end",))
        self.wait()

    def kill(self) -> None:
        signal.pidfd_send_signal(self.fd, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        if not select.select([self.fd], [], [], PATIENCE)[0]:
            raise AssertionError(f"worker {self.pid} does not end")
        os.close(self.fd)
        self.link.close()


# -- the driver --------------------------------------------------------------------------------------------------------


class Episode:
    """One segment and its workers, beside the model."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.directory = tempfile.TemporaryDirectory(prefix="lockstep-")
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(os.path.join(self.directory.name, "driver"))
        self.server.listen()
        self.server.settimeout(PATIENCE)
        self.path = f"/dev/shm/shm_metrics-test-{os.getpid()}-{uuid.uuid4().hex}"
        self.model = Model()
        self.away: dict[int, tuple[str, Model, MetricsBackend]] = {}
        self.workers: dict[int, Worker] = {}
        self.watch: MetricsBackend | None = None
        self.serial = 0
        self.done = 0
        self.compared = 0

    def __enter__(self) -> Episode:
        for worker in range(WORKERS):
            self.start(worker)
        self.watch = MetricsBackend(path=self.path, read_only=True, process_metrics=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self.watch is not None:
            self.watch.close()
        for worker in self.workers.values():
            try:
                worker.kill()
            except OSError:
                pass
        self.server.close()
        for path in (self.path, *(path for path, _, watch in self.away.values())):
            if os.path.exists(path):
                os.unlink(path)
        self.directory.cleanup()

    def run(self, operations: list[Operation]) -> None:
        """Raises Mismatch."""
        for operation in operations:
            if getattr(self, operation[0])(*operation[1:]) is not False:
                self.done += 1
            self.check()

    def check(self) -> None:
        if self.watch is not None:
            self.compared += self.model.check(self.watch.all_metrics())
        for _, model, watch in self.away.values():
            self.compared += model.check(watch.all_metrics())

    def of(self, worker: int) -> Model:
        return self.away[worker][1] if worker in self.away else self.model

    def do(self, worker: int, *command: Any) -> Any:
        return self.workers[worker].do(*command)

    # -- operations: each returns False when it cannot be done now ---------------------------------------------------

    def use(self, worker: int, family: str, k: str, method: str, value: Any, held: bool) -> bool:
        if worker not in self.workers:
            return False
        self.do(worker, "use", family, k, method, value, held)
        wrong = self.options.falsify and value == 2.0
        self.of(worker).use(worker, (family, k), method, 3.0 if wrong else value)
        return True

    def remove(self, worker: int, family: str, k: str, by_labels: bool) -> bool:
        if worker not in self.workers:
            return False
        self.do(worker, "remove", family, k, by_labels)
        self.of(worker).remove(worker, (family, k))
        return True

    def clear(self, worker: int, family: str) -> bool:
        if worker not in self.workers:
            return False
        self.do(worker, "clear", family)
        self.of(worker).clear(worker, family)
        return True

    def reset(self, worker: int, family: str, k: str, held: bool) -> bool:
        if worker not in self.workers:
            return False
        self.do(worker, "reset", family, k, held)
        self.of(worker).remove(worker, (family, k), shown=True)
        return True

    def churn(self, worker: int, family: str, count: int) -> bool:
        if worker not in self.workers:
            return False
        self.do(worker, "churn", family, self.serial, count)
        self.serial += count
        return True

    def look(self, worker: int) -> bool:
        """The page is the same from whichever worker is scraped."""
        if worker not in self.workers:
            return False
        self.of(worker).check(self.do(worker, "look"))
        return True

    def start(self, worker: int) -> bool:
        if worker in self.workers:
            return False
        sys.stdout.flush()
        if os.fork() == 0:
            status = 1
            try:
                Work(self.server.getsockname(), self.path, self.options).serve()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        return self._joined(worker)

    def fork(self, worker: int, parent: int) -> bool:
        if worker in self.workers or parent not in self.workers or parent in self.away:
            return False
        self.do(parent, "fork")
        return self._joined(worker)

    def _joined(self, worker: int) -> bool:
        self.workers[worker] = new = Worker(self.server)
        self.model.joined(worker, new.row, new.pid)
        return True

    def kill(self, worker: int) -> bool:
        return self._ends(worker, Worker.kill)

    def end(self, worker: int) -> bool:
        return self._ends(worker, Worker.end)

    def _at_home(self, worker: int) -> bool:
        """Whether it is there, beside another one: a segment that nobody uses would end."""
        return worker in self.workers and (worker in self.away or len(self.workers) - len(self.away) > 1)

    def _ends(self, worker: int, how: Any) -> bool:
        if not self._at_home(worker):
            return False
        how(self.workers.pop(worker))
        if worker in self.away:
            path, _, watch = self.away.pop(worker)
            watch.close()
            os.unlink(path)
            return True
        self.model.gone(worker)
        self._wait_for_rows()
        return True

    def _wait_for_rows(self) -> None:
        """A row is free: wait until a worker that has none takes it."""
        waiting = [worker for worker, row in self.model.rows.items() if row is None]
        began = time.monotonic()
        while waiting and len(self.model.rows) - len(waiting) < self.options.rows:
            for worker in waiting:
                self.do(worker, "nothing")
                if (row := self.workers[worker].row) is not None:
                    self.model.adopted(worker, row)
                    waiting.remove(worker)
                    break
            else:
                if time.monotonic() - began > PATIENCE:
                    raise Mismatch("worker", "a row is free, and the worker without one does not take it")
                time.sleep(0.002)

    def go_away(self, worker: int) -> bool:
        """Count in a segment of its own from here on; what was counted stays, as others use it."""
        if worker not in self.workers or worker in self.away or not self._at_home(worker):
            return False
        if self.model.rows[worker] is None:
            return False
        path = f"{self.path}-{worker}"
        self.do(worker, "go_to", path)
        self.model.gone(worker)
        model = Model()
        model.now = self.model.now
        model.joined(worker, self.workers[worker].row, self.workers[worker].pid)
        self.away[worker] = path, model, MetricsBackend(path=path, read_only=True, process_metrics=False)
        self._wait_for_rows()
        return True

    def come_back(self, worker: int) -> bool:
        """It was the only user, so what it counted comes along."""
        if worker not in self.away:
            return False
        self.do(worker, "go_to", self.path)
        path, away, watch = self.away.pop(worker)
        watch.close()
        if os.path.exists(path):
            raise Mismatch("worker", "the only user took its counts along, and left the segment behind")
        self.model.now = max(self.model.now, away.now) + 1
        self.model.joined(worker, self.workers[worker].row, self.workers[worker].pid)
        self.model.brings(worker, away.used)
        return True


# -- choosing ----------------------------------------------------------------------------------------------------------

AMOUNTS = (1.0, 1.0, 2.0, 0.5, 3.0, 0.1, 0.3, 1e17)
LEVELS = (0.0, 1.0, -2.0, 5.0, 0.1, 7.0, 1e17)
ODD_LEVELS = (math.nan, math.inf, -math.inf)
OBSERVATIONS = (0.5, 1.0, 1.5, 2.5, -1.0, 0.1, 1e17)


def an_update(rng: random.Random, family: str) -> tuple[str, Any]:
    rare = rng.random() < 0.05
    if family in ("c", "p"):
        return "inc", rng.choice(AMOUNTS)
    if family in ("h", "s"):
        return "observe", math.inf if rare else rng.choice(OBSERVATIONS)
    if family == "i":
        return "info", rng.choice("xyz")
    if family == "e":
        return "state", rng.choice(STATES)
    mode = GAUGES[family]
    if rng.random() < 0.5 or mode.endswith("mostrecent"):
        odd = ODD_LEVELS if mode in ("shared", "mostrecent") else ODD_LEVELS[1:2]
        return "set", rng.choice(odd if rare else LEVELS)
    return rng.choice(("inc", "dec")), rng.choice(AMOUNTS)


def choose(rng: random.Random, options: Options, count: int) -> list[Operation]:
    """Operations for an episode. Those that cannot be done when their turn comes are left out then."""
    operations: list[Operation] = []
    few = rng.sample(FAMILIES, 5)  # so that one series is used, removed and used again within a few operations
    kinds = {"use": 60, "remove": 12, "clear": 3, "reset": 4, "look": 4, "kill": 4, "end": 2, "start": 12, "fork": 10}
    kinds |= {"go_away": 1, "come_back": 2}
    if options.churn:
        kinds["churn"] = 12
    names, weights = list(kinds), list(kinds.values())
    while len(operations) < count:
        kind, worker = rng.choices(names, weights)[0], rng.randrange(WORKERS)
        family, held = rng.choice(few if rng.random() < 0.9 else FAMILIES), rng.random() < 0.5
        k = "" if family == "p" else rng.choice(LABELS)
        if kind == "use":
            operations.append(("use", worker, family, k, *an_update(rng, family), held))
        elif kind in ("remove", "clear") and family != "p":
            operations.append((kind, worker, family, *((k, held) if kind == "remove" else ())))
        elif kind == "reset":
            counter, k = rng.choice((("p", ""), ("c", k or "a")))
            operations.append(("reset", worker, counter, k, held))
        elif kind == "churn":
            adding = [each for each in few if each not in ("p", "i", "e") and not each.endswith("mostrecent")]
            operations.append(("churn", worker, rng.choice(adding or ["c"]), rng.choice((1, 5, 40))))
        elif kind == "fork":
            operations.append(("fork", worker, rng.randrange(WORKERS)))
        elif kind not in ("remove", "clear"):
            operations.append((kind, worker))
    return operations


def an_episode(seed: int, count: int) -> tuple[Options, list[Operation]]:
    rng = random.Random(seed)
    churn = rng.random() < 0.3
    options = Options(rng.choice((2, 2, 8)), 512 if churn else 4096, churn)
    return options, choose(rng, options, count)


def attempt(options: Options, operations: list[Operation]) -> tuple[Mismatch | None, Episode]:
    with Episode(options) as episode:
        try:
            episode.run(operations)
        except Mismatch as mismatch:
            return mismatch, episode
    return None, episode


def shortest(options: Options, operations: list[Operation], family: str, seconds: float) -> list[Operation]:
    """Leave out what is not needed for a mismatch of this family."""
    until, step = time.monotonic() + seconds, max(1, len(operations) // 2)
    while step:
        at = 0
        while at < len(operations) and time.monotonic() < until:
            fewer = operations[:at] + operations[at + step :]
            mismatch, _ = attempt(options, fewer)
            if mismatch is not None and mismatch.family == family:
                operations = fewer
            else:
                at += step
        step //= 2
    return operations


def campaign(seed: int, count: int, episodes: int, seconds: float, *, shrink: float, falsify: bool) -> dict[str, Any]:
    """Episodes with the seeds from `seed` on, until one fails, or there were so many, or the time is over."""
    until = time.monotonic() + seconds
    counts: dict[str, Any] = {"seed": seed, "episodes": 0, "operations": 0, "compared": 0, "failure": None}
    for number in range(seed, seed + episodes):
        options, operations = an_episode(number, count)
        if falsify:
            options = Options(8, 4096, False, falsify=True)
            operations = [("use", n % 3, "c", "a", "inc", 2.0 if n == 20 else 1.0, False) for n in range(30)]
        mismatch, episode = attempt(options, operations)
        counts["episodes"] += 1
        counts["operations"] += episode.done
        counts["compared"] += episode.compared
        if mismatch is not None:
            done = shortest(options, operations, mismatch.family, shrink)
            again, _ = attempt(options, done)
            counts["failure"] = {
                "seed": number,
                "family": mismatch.family,
                "message": str(again or mismatch),
                "options": options._asdict(),
                "operations": [str(operation) for operation in done],
            }
            break
        if time.monotonic() > until:
            break
    return counts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--operations", type=int, default=100)
    parser.add_argument("--episodes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--shrink", type=float, default=10.0)
    parser.add_argument("--falsify", action="store_true")
    asked = parser.parse_args()
    logging.getLogger("shm_metrics").setLevel(logging.ERROR)  # that there is no row is said often
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers' children are nobody's to wait for
    if hasattr(shm_metrics.writer.writer, "REPAIR_SECONDS"):
        shm_metrics.writer.writer.REPAIR_SECONDS = 0.01  # a worker without a row looks for one more often
    counts = campaign(
        asked.seed, asked.operations, asked.episodes, asked.seconds, shrink=asked.shrink, falsify=asked.falsify
    )
    print(json.dumps(counts))
    raise SystemExit(1 if counts["failure"] else 0)


if __name__ == "__main__":
    main()
