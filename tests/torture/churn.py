"""Label sets without end go through a segment of a fixed size.

python -m tests.torture.churn --labels N --slots N --alive N

Four workers at once make a series, count in it and remove it again, and are killed and replaced after a part of the
work. Prints, as JSON, what they counted and what the segment took.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
import uuid
from collections import deque
from multiprocessing.connection import wait
from typing import Any

from shm_metrics import Counter, MetricsBackend
from tests.support.processes import Child, Link, die

WORKERS = 4
PARTS = 40  # of the work; a worker does one


def work(link: Link, path: str, slots: int, first: int, count: int, alive: int) -> None:
    """Label sets `first` to `first + count`, at most `alive` of them at once."""
    backend = MetricsBackend(path=path, rows=2 * WORKERS, slots=slots, process_metrics=False)
    control = Counter("control", "", registry=backend)
    churned = Counter("churned", "", ["k"], registry=backend)
    link.say("ready")
    there: deque[str] = deque()
    wrong = []
    for n in range(first, first + count):
        series = churned.labels(str(n))
        series.inc()
        control.inc()
        there.append(str(n))
        if len(there) > alive:
            churned.remove(there.popleft())
        if n % 2_000 == 0 and series.value != 1.0:
            wrong.append((n, series.value))
    while there:
        churned.remove(there.popleft())
    link.say(wrong)
    link.hear()
    die()


def churn(labels: int, slots: int, alive: int) -> dict[str, Any]:
    path = f"/dev/shm/shm_metrics-test-{os.getpid()}-{uuid.uuid4().hex}"
    each = labels // PARTS
    parts = iter(range(0, each * PARTS, each))
    blocks: list[int] = []
    wrong: list[Any] = []
    at_work: list[Child] = []
    failure = None
    began = time.monotonic()

    def another() -> None:
        part = next(parts, None)
        if part is not None:
            # Not all of a size, so that they do not end together.
            at_work.append(Child(work, (path, slots, part, each, alive // WORKERS - len(blocks) % 3)))
            assert at_work[-1].hear() == "ready"

    try:
        for _ in range(WORKERS):
            another()
        with_watch = MetricsBackend(path=path, read_only=True, process_metrics=False)
        while at_work:
            ended = wait([child.link for child in at_work])
            child = next(child for child in at_work if child.link in ended)
            wrong += child.hear()
            blocks.append(os.stat(path).st_blocks)
            another()
            at_work.remove(child)
            if not at_work:
                snapshot, stats = with_watch.snapshot(), with_watch.stats()
            child.say("die")
            child.wait()
        left = snapshot.family("churned")
        return {
            "labels": each * PARTS,
            "control": snapshot.value("control"),
            "left": 0 if left is None else len(left.labels),
            "overflowed": stats["overflowed_updates"],
            "slots_used": stats["slots_used"],
            "blocks": blocks,
            "wrong": wrong[:10],
            "seconds": round(time.monotonic() - began, 1),
            "failure": None,
        }
    except AssertionError as error:
        failure = str(error)
    finally:
        for child in at_work:
            child.kill()
        if os.path.exists(path):
            os.unlink(path)
    return {"labels": each * len(blocks), "blocks": blocks, "failure": failure}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--labels", type=int, default=20_000)
    parser.add_argument("--slots", type=int, default=1_024)
    parser.add_argument("--alive", type=int, default=300)
    asked = parser.parse_args()
    logging.getLogger("shm_metrics").setLevel(logging.ERROR)
    counts = churn(asked.labels, asked.slots, asked.alive)
    print(json.dumps(counts))
    raise SystemExit(1 if counts["failure"] else 0)


if __name__ == "__main__":
    main()
