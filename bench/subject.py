"""One peer in a process of its own, which measures what it is asked to: `python -m bench.subject PEER`."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from bench.calls import CallTimer
from bench.memory import private_bytes, private_bytes_of_forked
from bench.peers import PEERS, Peer, load
from bench.workers import Crowd, Shape, increments_a_second, recycle

__all__ = ["Missing", "Subject", "SubjectError", "subject"]

ROOT = Path(__file__).resolve().parent.parent


class SubjectError(Exception):
    """A measurement failed inside a peer's process; its traceback."""


class Missing(Exception):
    """The peer cannot be had with this interpreter; why."""


# ---- the parent's end ---------------------------------------------------------------------------------------------

_number = count()


class Subject:
    """A peer's process. Any public name of `Measurements` is asked for by calling it here."""

    def __init__(self, peer: str, place: str, guest: bool = False) -> None:
        entry = PEERS[peer]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SHM_METRICS_", "PROMETHEUS_"))}
        environment |= dict(entry.environment) | {"BENCH_GUEST": "1" if guest else ""}
        if entry.shared:
            environment[entry.shared] = place
        self.peer, self.place = peer, place
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.subject", peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            text=True,
        )
        try:
            self.about: dict[str, Any] = self._answer()
        except Missing:
            self.end()
            raise

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or not hasattr(Measurements, name):
            raise AttributeError(name)
        return lambda **arguments: self._ask(name, arguments)

    def end(self) -> None:
        """Closing its input is the sign to clean up and leave."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, name: str, arguments: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        print(json.dumps([name, arguments]), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SubjectError(f"{self.peer}: the process ended with status {self._process.wait()}")
        answer = json.loads(line)
        if "missing" in answer:
            raise Missing(answer["missing"])
        if "error" in answer:
            raise SubjectError(f"{self.peer}: {answer['error']}")
        return answer["result"]


@contextmanager
def subject(peer: str, beside: Subject | None = None) -> Iterator[Subject]:
    """A peer's process in a place of its own, or in the place of another, both of which are removed at the end."""
    if beside is not None:
        made, place = None, beside.place
    elif PEERS[peer].shares_directory:
        # on the file system that is memory, as our segment is: a disk would be the slower place
        made = tempfile.mkdtemp(prefix="bench-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        place = made
    else:
        made, place = None, f"bench-{os.getpid()}-{next(_number)}"
    try:
        process = Subject(peer, place, guest=beside is not None)
        try:
            yield process
        finally:
            process.end()
    finally:
        if made is not None:
            shutil.rmtree(made)


# ---- the peer's end -----------------------------------------------------------------------------------------------


class Measurements:
    """What can be asked of a peer's process. Arguments and answers are JSON."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._calls = CallTimer(peer)
        self._crowd: Crowd | None = None
        self._made: dict[str, Any] = {}

    def call(self, *, key: str, seconds: float, repeat: int) -> float:
        """Nanoseconds a call of one of the statements in bench/calls.py."""
        return self._calls.best(key, seconds, repeat)

    def first_use(self, *, type: str, label_sets: int) -> float:
        """Nanoseconds for the first update of a series that did not exist before."""
        family = self._family(type, f"bench_first_{type.lower()}", ["path"])
        already = self._made.get("label sets", 0)
        values = [f"/new/{number}" for number in range(already, already + label_sets)]
        self._made["label sets"] = already + label_sets
        gc.disable()
        start = time.perf_counter()
        if type == "Counter":
            for value in values:
                family.labels(value).inc()
        else:
            for value in values:
                family.labels(value).observe(0.2)
        taken = time.perf_counter() - start
        gc.enable()
        return taken / label_sets * 1e9

    def crowd(self, *, workers: int, counters: int, histograms: int) -> int:
        """Fork so many workers, which fill so many series each and live on; the bytes of a scrape, once checked."""
        shape = Shape(self._peer, counters, histograms)
        self._crowd = Crowd(workers, shape.fill)
        text = self._peer.render()
        shape.check(text, workers)
        return len(text)

    def scrape(self, *, repeat: int, processes: bool = False) -> float:
        """Milliseconds for one scrape to bytes, the best of `repeat`; something has changed before each."""
        marker = self._family("Counter", "bench_marker")
        render = getattr(self._peer, "render_with_processes" if processes else "render")
        best = float("inf")
        for _ in range(repeat):
            marker.inc()
            start = time.perf_counter()
            render()
            best = min(best, time.perf_counter() - start)
        return best * 1e3

    def recycle(self, *, workers: int) -> None:
        """So many workers that incremented once and were killed; raises unless every one was counted."""
        counter = self._family("Counter", "bench_recycled")
        before = self._value("bench_recycled_total")
        recycle(workers, counter.inc)
        counted = self._value("bench_recycled_total") - before
        if counted != workers:
            raise AssertionError(f"{workers} workers incremented once each, and the scrape says {counted}")

    def rate(self, *, processes: int, seconds: float) -> float:
        """Increments a second of so many processes together, each as fast as it can, on one counter."""
        return increments_a_second(self._family("Counter", "bench_rate").inc, processes, seconds)

    def series(self, *, count: int) -> None:
        """Make so many series in this process, for others not to touch."""
        family = self._family("Counter", "bench_untouched", ["path"])
        for number in range(count):
            family.labels(f"/untouched/{number}").inc()

    def private_bytes(self) -> int:
        """This process's private memory, after it has updated one series of its own."""
        self._family("Counter", "bench_untouched", ["path"]).labels("/mine").inc()
        return private_bytes()

    def private_bytes_of_forked(self) -> int:
        """The private memory of a worker forked from this process, after it has updated one series."""
        family = self._family("Counter", "bench_untouched", ["path"])
        return private_bytes_of_forked(lambda: family.labels("/mine").inc())

    def leave(self, *, remove: bool) -> None:
        """Let the workers go; give the place back unless others are in it."""
        if self._crowd is not None:
            self._crowd.dismiss()
        if remove:
            self._peer.close()

    def _family(self, type: str, name: str, labels: list[str] | None = None) -> Any:
        if name not in self._made:
            self._made[name] = getattr(self._peer, type)(name, "Measured", labels or [])
        return self._made[name]

    def _value(self, sample: str) -> float:
        for line in self._peer.render().decode().splitlines():
            if line.startswith(f"{sample} "):
                return float(line.split()[1])
        return 0.0


def _serve(name: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a peer prints must not stand between the answers

    def answer(**content: Any) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        measurements = Measurements(load(name))
    except ImportError as error:
        answer(missing=str(error))
        return
    native = [module for module in list(sys.modules.values()) if str(getattr(module, "__file__", "")).endswith(".so")]
    answer(result={"compiled cells": any(module.__name__ == "shm_metrics.native._cells_cy" for module in native)})
    for line in sys.stdin:
        question, arguments = json.loads(line)
        try:
            answer(result=getattr(measurements, question)(**arguments))
        except Exception:
            answer(error=traceback.format_exc())
    measurements.leave(remove=os.environ.get("BENCH_GUEST") != "1")


if __name__ == "__main__":
    _serve(sys.argv[1])
