"""Children that count once and are killed, by the thousand: `python -m tests.support.recycling PATH COUNT`.

A program of its own, so that what is forked is small. Prints its measurements as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from typing import Any

from shm_metrics import MetricsBackend

AT_ONCE = 25
FIRST = 100
SCRAPES = 400


def one(counter: Any) -> None:
    pid = os.fork()
    if pid == 0:
        counter.inc()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def batch(counter: Any, n: int) -> None:
    """n children, all alive at the same time."""
    ready_read, ready_write = os.pipe()
    go_read, go_write = os.pipe()
    pids = []
    for _ in range(n):
        pid = os.fork()
        if pid == 0:
            os.close(go_write)
            counter.inc()
            os.write(ready_write, b".")
            os.read(go_read, 1)  # ends when the parent closes its end
            os.kill(os.getpid(), signal.SIGKILL)
        pids.append(pid)
    for _ in range(n):
        os.read(ready_read, 1)
    for fd in (go_read, go_write, ready_read, ready_write):
        os.close(fd)
    for pid in pids:
        os.waitpid(pid, 0)


def children(counter: Any, count: int) -> None:
    """Half of them one after another, half in batches."""
    for _ in range(count // 2):
        one(counter)
    left = count - count // 2
    while left:
        n = min(AT_ONCE, left)
        batch(counter, n)
        left -= n


def blocks(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_blocks


def scrape_seconds(paths: list[str]) -> list[float]:
    """The best scrape of each segment, taken in turns so that whatever slows the machine down slows them all."""
    watched = [MetricsBackend(path=path, read_only=True, process_metrics=False) for path in paths]
    best = [float("inf")] * len(paths)
    for _ in range(SCRAPES):
        for i, backend in enumerate(watched):
            began = time.perf_counter()
            backend.collect()
            best[i] = min(best[i], time.perf_counter() - began)
    return best


def main(path: str, count: int) -> None:
    backend = MetricsBackend(path=path, rows=64, slots=4096)
    counter = backend.counter("children_total")
    children(counter, FIRST)
    first = blocks(path)
    before = path + ".before"  # the segment as it was, to scrape beside the one it became
    shutil.copyfile(path, before)
    try:
        children(counter, count - FIRST)
        was, now = scrape_seconds([before, path])
    finally:
        os.unlink(before)
    stats = backend.stats()
    print(
        json.dumps(
            {
                "total": counter.value,
                "first": first,
                "last": blocks(path),
                "files": [name for name in os.listdir(os.path.dirname(path)) if os.path.basename(path) in name],
                "rows_used": stats["rows_used"],
                "live": stats["live_workers"],
                "at_once": AT_ONCE + 1,
                "ratio": now / was,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
