"""joblib with its loky backend: workers that are spawned, kept between calls, and gone after the executor."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.jobs.conftest import required
from tests.jobs.watching import Exporter, environ
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

PROGRAM = """
import json, os, signal
import joblib
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tests.jobs import counted

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
