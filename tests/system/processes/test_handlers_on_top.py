"""Signal handlers that come in on top of a fork, an attach or a scrape, and do what applications do there."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.both_builds]

INTERRUPTED_FORKS = """
import json, os, random, signal, sys
from shm_metrics import Counter, MetricsBackend
backend = MetricsBackend(path=sys.argv[1], rows=64, process_metrics=False)
jobs = Counter("jobs", "", registry=backend)
jobs.inc()
mine, shared, total, answers = backend.row, 0, 1, 0
random.seed(9)
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # CPython prints what a handler raises within a fork
for _ in range(40):
    answer, say = os.pipe()
    me, pid = os.getpid(), 0
    try:
        pid = os.fork()
    except KeyboardInterrupt:
        pass
    if os.getpid() != me:
        while True:
            try:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                break
            except KeyboardInterrupt:
                pass
        for _ in range(1000):
            jobs.inc()
        os.write(say, b"%d" % (backend.row or 0))
        os._exit(0)
    for _ in range(random.randrange(4000)):
        pass
    os.kill(pid, signal.SIGINT)
    for _ in range(1000):
        jobs.inc()
    os.close(say)
    said = os.read(answer, 10)
    os.close(answer)
    os.waitpid(pid, 0)
    total += 1000
    if said:  # else it ended before it counted
        answers += 1
        total += 1000
        shared += int(said) == mine
print(json.dumps([shared, total - jobs.value, answers > 0]))
"""

CLOSED_WHILE_ATTACHING = """
import json, os, random, signal, sys
from shm_metrics import MetricsBackend
path = sys.argv[1]
file = path + ".application"
keep = MetricsBackend(path=path, process_metrics=False)

def close_and_open(*_):
    os.closerange(3, 64)
    for _ in range(6):
        os.write(os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), b"app")

signal.signal(signal.SIGALRM, close_and_open)
outcomes = {}
for number in range(80):
    pid = os.fork()
    if pid == 0:
        random.seed(number)
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 8e-4))
        backend = MetricsBackend(path=path, process_metrics=False)
        backend.counter("jobs").inc()
        signal.setitimer(signal.ITIMER_REAL, 0)
        os._exit(0 if not os.path.exists(file) or os.stat(file).st_size == 3 else 2)
    status = os.waitpid(pid, 0)[1]
    outcomes[status] = outcomes.get(status, 0) + 1
    if os.path.exists(file):
        os.unlink(file)
print(json.dumps([outcomes, keep.snapshot().value("jobs_total")]))
"""

FORKED_WHILE_READING = """
import json, os, random, signal, sys
from shm_metrics import MetricsBackend
backend = MetricsBackend(path=sys.argv[1], process_metrics=False)
backend.counter("jobs").inc()
backend.snapshot()
pid = -1

def fork(*_):
    global pid
    pid = os.fork()

signal.signal(signal.SIGALRM, fork)
random.seed(7)
failed = []
for _ in range(80):
    pid = -1
    answer, say = os.pipe()
    error = None
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 8e-4))
    try:
        backend.snapshot()
    except Exception as caught:
        error = caught
    signal.setitimer(signal.ITIMER_REAL, 0)
    if pid == 0:
        os.write(say, repr(error).encode() if error else b"")
        os._exit(0)
    os.close(say)
    if pid > 0:
        failed += [os.read(answer, 300).decode()]
        os.waitpid(pid, 0)
    os.close(answer)
print(json.dumps([len(failed) > 0, [text for text in failed if text]]))
"""


def test_a_child_that_is_interrupted_in_its_fork_has_a_row_of_its_own(python: Callable[..., str], path: str) -> None:
    """Ctrl-C goes to the whole group of processes, also to a child that has not yet left its parent's row."""
    assert json.loads(python(INTERRUPTED_FORKS, path)) == [0, 0, True]


def test_descriptors_closed_while_attaching_harm_nobody(python: Callable[..., str], path: str) -> None:
    """What is opened under our numbers is neither mapped, which ends in SIGBUS, nor written to."""
    assert json.loads(python(CLOSED_WHILE_ATTACHING, path)) == [{"0": 80}, 80.0]


def test_a_fork_on_top_of_a_snapshot_does_not_fail_the_childs(python: Callable[..., str], path: str) -> None:
    assert json.loads(python(FORKED_WHILE_READING, path)) == [True, []]
