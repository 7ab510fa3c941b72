"""Real worker processes: made by fork, filled with series, kept alive or killed."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable
from functools import partial
from itertools import repeat

from bench.peers import Peer

__all__ = ["Crowd", "Shape", "increments_a_second", "recycle"]

BURST = 5_000


class Shape:
    """The families that a crowd fills, declared before the workers are forked (as with `preload_app`)."""

    def __init__(self, peer: Peer, counters: int, histograms: int) -> None:
        self._counter = peer.Counter("bench_requests_total", "Requests", ["path"])
        self._histogram = peer.Histogram("bench_latency_seconds", "Latency", ["path"])
        self._paths = [f"/resource/{number}" for number in range(max(counters, histograms))]
        self._counters, self._histograms = counters, histograms

    def fill(self) -> None:
        """One update of every series."""
        for path in self._paths[: self._counters]:
            self._counter.labels(path).inc()
        for path in self._paths[: self._histograms]:
            self._histogram.labels(path).observe(0.2)

    def check(self, text: bytes, workers: int) -> None:
        """Raise unless the scrape shows what so many workers did."""
        last = self._paths[self._counters - 1]
        expected = [f'bench_requests_total{{path="{last}"}} {workers}']
        if self._histograms:
            last = self._paths[self._histograms - 1]
            expected.append(f'bench_latency_seconds_count{{path="{last}"}} {workers}')
        lines = {line.removesuffix(".0") for line in text.decode().splitlines()}
        missing = [line for line in expected if line not in lines]
        if missing:
            raise AssertionError(f"the scrape of {workers} workers lacks {missing}")


class Crowd:
    """Workers that each did `work` once and then live on until `dismiss`."""

    def __init__(self, count: int, work: Callable[[], None]) -> None:
        ready, tell_ready = os.pipe()
        until, self._release = os.pipe()
        self._pids = [_forked(partial(_serve, work, tell_ready, until, self._release)) for _ in range(count)]
        os.close(tell_ready)
        os.close(until)
        told = b""
        while len(told) < count:
            told += os.read(ready, count)
        os.close(ready)
        if b"x" in told:
            self.dismiss()
            raise RuntimeError(f"{told.count(b'x')} of {count} workers failed; the error stands above")

    def dismiss(self) -> None:
        """Let all workers end, and wait for them."""
        os.close(self._release)
        for pid in self._pids:
            os.waitpid(pid, 0)


def recycle(count: int, work: Callable[[], None]) -> None:
    """So many workers, one after another: each is forked, does `work`, and dies by SIGKILL right after."""

    def work_and_die() -> None:
        work()
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(count):
        pid = _forked(work_and_die)
        _, status = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            raise RuntimeError(f"a worker ended with status {status} before it was killed; the error stands above")


def increments_a_second(increment: Callable[[], object], processes: int, seconds: float) -> float:
    """What so many processes get done together while all of them do nothing but increment.

    All begin at one instant of the clock and count for the same time, so that they really run side by side.
    """
    start = time.monotonic() + 0.05 + 0.02 * processes
    pipes = [os.pipe() for _ in range(processes)]
    pids = [_forked(partial(_count, increment, start, seconds, writable)) for _, writable in pipes]
    total = 0.0
    for (readable, writable), pid in zip(pipes, pids, strict=True):
        os.close(writable)
        with os.fdopen(readable) as told:
            total += float(told.read())
        os.waitpid(pid, 0)
    return total


def _count(increment: Callable[[], object], start: float, seconds: float, tell: int) -> None:
    increment()  # after a fork the first one may have to find its own place
    while time.monotonic() < start:
        pass
    bursts = 0
    begun = time.perf_counter()
    while (taken := time.perf_counter() - begun) < seconds:
        for _ in repeat(None, BURST):
            increment()
        bursts += 1
    os.write(tell, repr(bursts * BURST / taken).encode())


def _serve(work: Callable[[], None], tell_ready: int, until: int, release: int) -> None:
    os.close(release)  # the parent's end: while a worker held it, nobody would see it closed
    try:
        work()
    except BaseException:
        os.write(tell_ready, b"x")
        raise
    os.write(tell_ready, b"r")
    os.read(until, 1)


def _forked(body: Callable[[], object]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        body()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)  # nothing of the parent's may run twice
