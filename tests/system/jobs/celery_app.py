"""The Celery application under test, as its worker loads it."""

from __future__ import annotations

import os
import time

from celery import Celery

from tests.system.jobs import counted

app = Celery("tests", broker=os.environ["BROKER"], backend=os.environ["BROKER"])


@app.task(name="work")
def work(turn: int) -> int:
    pid = counted.work(turn)
    time.sleep(0.002)  # so that every child gets some of them
    return pid
