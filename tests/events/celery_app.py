"""A Celery application whose tasks are events, as its worker loads it. It declares no metric."""

from __future__ import annotations

import os
import signal

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
