"""A Celery application whose tasks are events, as its worker loads it. It declares no metric."""

from __future__ import annotations

import os
import signal
import time

from celery import Celery
from celery.exceptions import Ignore

from shm_metrics.integrations import celery_signals

app = Celery("tests", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
celery_signals.connect()


@app.task(name="work")
def work(turn: int) -> int:
    return turn


@app.task(name="fail")
def fail() -> None:
    raise ValueError("as told")


@app.task(name="ignore", bind=True)
def ignore(self) -> None:
    self.update_state(state="SUCCESS")
    raise Ignore


@app.task(name="die")
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="again", bind=True, max_retries=1)
def again(self) -> str:
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return "second"


@app.task(name="leave")
def leave() -> None:
    raise SystemExit


@app.task(name="hang", time_limit=0.5)
def hang() -> None:
    wait()


@app.task(name="overdue", soft_time_limit=0.5)
def overdue() -> None:
    wait()


@app.task(name="wait")
def wait() -> None:
    for _ in range(6_000):
        time.sleep(0.01)  # so that what interrupts it finds it in Python


@app.task(name="die_once", acks_late=True, reject_on_worker_lost=True)
def die_once(died: str) -> str:
    if not os.path.exists(died):
        with open(died, "w"):
            os.kill(os.getpid(), signal.SIGKILL)
    return "second"


@app.task(name="total")
def total(numbers: list[int]) -> int:
    return sum(numbers) + work.apply((1,)).get(disable_sync_subtasks=False)
