"""Greenlets: many callers in one thread, and no lock that one of them could wait for while another holds it asleep."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shm_metrics import MetricsBackend
from shm_metrics.segment import layout as L

pytest.importorskip("gevent")

GREENLETS, TIMES = 20, 25

PROGRAM = """
import sys
{first}
{second}
import gevent
from shm_metrics import Counter, Histogram, configure, generate_latest
backend = configure(path=sys.argv[1])
jobs = Counter("jobs", "Jobs.", ["number"])
seconds = Histogram("seconds", "Time.", ["number"])
def work(greenlet):
    for turn in range({times}):
        jobs.labels(greenlet * 100 + turn).inc()
        seconds.labels(turn).observe(1)
        if turn % 5 == 0:
            generate_latest()
        gevent.sleep(0)
print("ready", flush=True)
sys.stdin.readline()
gevent.joinall([gevent.spawn(work, number) for number in range({greenlets})], raise_error=True, timeout=60)
while not backend._writer.repair():
    gevent.sleep(0.01)
print(backend.snapshot().family("jobs").values.sum(), backend.snapshot().family("seconds").values.sum(), flush=True)
"""
IMPORT = "from shm_metrics import backend\nfrom shm_metrics.reader import reader"
PATCH = "from gevent import monkey; monkey.patch_all()"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"), [(IMPORT, PATCH), (PATCH, IMPORT)], ids=["patched after import", "patched before import"]
)
def test_greenlets_that_make_series_and_scrape_do_not_stop_each_other(place, first, second):
    """Another process holds the catalog lock when they begin, so that each of them has to wait."""
    holder = MetricsBackend(path=place.path)
    locks = holder._writer.segment.locks
    program = PROGRAM.format(first=first, second=second, times=TIMES, greenlets=GREENLETS)
    with subprocess.Popen(
        [sys.executable, "-c", program, place.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as process:
        assert process.stdout.readline() == "ready\n"
        assert locks.wait_exclusive(L.LOCK_CATALOG, 10)
        process.stdin.write("go\n")
        process.stdin.flush()
        try:
            assert process.wait(0.3) is None
        except subprocess.TimeoutExpired:
            locks.release(L.LOCK_CATALOG)
        assert process.stdout.readline() == f"{GREENLETS * TIMES:.1f} {GREENLETS * TIMES:.1f}\n"
    holder.close()
