"""joblib with its loky backend: workers that are spawned, kept between calls, and gone after the executor."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.waiting import PATIENCE_SECONDS
from tests.support.watching import Exporter, environ
from tests.system.jobs.conftest import required

pytestmark = pytest.mark.slow

PROGRAM = """
import json, os, signal
import joblib
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tests.system.jobs import counted

def many(first):
    return [counted.work(turn) for turn in range(first, first + 10)][0]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    parallel = joblib.Parallel(n_jobs=2, backend="loky", batch_size=1)
    calls = [joblib.delayed(many)(first) for first in range(0, 200, 10)]
    pids = set(parallel(calls))
    try:
        joblib.Parallel(n_jobs=2, backend="loky")([joblib.delayed(die)()])
    except TerminatedWorkerError:
        pids.add("killed")
    pids |= set(parallel(calls))
    counted.work(0), counted.work(1)
    get_reusable_executor().shutdown(wait=True)
    print(json.dumps([os.getpid(), *pids]))
"""


def test_its_workers_are_counted_exactly_also_after_one_was_killed(exporter: Exporter, tmp_path):
    required("joblib")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, program],
        env=environ(SHM_METRICS_SEGMENT=exporter.segment_name),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    parent, *others = json.loads(done.stdout)
    assert "killed" in others
    assert parent not in others
    assert exporter.jobs() == (402, 402, 402, 0)
    # The parent, two workers, and the two of the next executor if the first ones were still leaving.
    assert exporter.rows() <= 1 + 2 * 2
    assert exporter.one_file()


SCRIPT = """
import joblib
from shm_metrics import Counter, Gauge, Histogram, configure, get_backend

configure(__import__("sys").argv[1])
JOBS = Counter("jobs", "Jobs done", ["parity"])
SECONDS = Histogram("job_seconds", "Time", buckets=[1])
BUSY = Gauge("busy", "", multiprocess_mode="livesum")
EVEN = JOBS.labels("even")

def work(turn):
    with BUSY.track_inprogress():
        SECONDS.observe(turn % 3)
        EVEN.inc() if turn % 2 == 0 else JOBS.labels("odd").inc()

if __name__ == "__main__":
    joblib.Parallel(n_jobs=2)(joblib.delayed(work)(turn) for turn in range(100))
    found = get_backend().snapshot()
    print(EVEN.value, JOBS.labels("odd").value, SECONDS.count, found.value("busy"))
"""


def test_metrics_that_the_script_itself_declares_go_along_to_its_workers(segment_name, tmp_path):
    """loky sends functions of the main script by value, and what they use with them."""
    required("joblib")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", segment_name],
        env=environ(),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "50.0 50.0 100.0 0.0\n"), done.stderr
