"""Writes the small segment that every later release must open, and the page that it shows.

    python tests/unit/segment/golden/write.py

Run it once for each segment format, by the release that brings it, and keep both files. The segment has one dead worker
with series of each type and gauge mode, a removed series, a reused one and an exemplar.
"""

from __future__ import annotations

import gzip
import os
import tempfile
from pathlib import Path

from shm_metrics import Counter, Gauge, Histogram, Info, MetricsBackend, Summary, generate_latest
from shm_metrics.model.gauge_modes import MODES
from shm_metrics.segment import layout as L

FOLDER = Path(__file__).parent
SIZES = {"rows": 2, "slots": 512}


def fill(backend: MetricsBackend) -> None:
    """Use everything that leaves something in a segment."""
    jobs = Counter("jobs", "Jobs done.", ["shop"], registry=backend)
    jobs.labels("a").inc(2, exemplar={"trace": "1f"})
    jobs.labels("ü").inc(0.5)
    jobs.labels("removed").inc(7)
    jobs.remove("removed")
    jobs.labels("takes its slots").inc(3)
    jobs.labels("reset").inc(4)
    jobs.labels("reset").reset()
    seconds = Histogram("seconds", "Seconds a job takes.", ["shop"], buckets=[1, 2], registry=backend)
    for value in (0.5, 1.5, 99):
        seconds.labels("a").observe(value)
    Summary("size", "Bytes of a job.", unit="bytes", registry=backend).observe(7)
    Info("build", "The build.", registry=backend).info({"version": "1"})
    for mode in MODES:
        Gauge(f"g_{mode}", "", multiprocess_mode=mode, registry=backend).set(5)
    Gauge("moved", "", registry=backend).inc(3)


def page(path: str) -> str:
    """What a reader shows of the segment, but for the library's own metrics and for live gauges: nobody lives."""
    backend = MetricsBackend(path=path, read_only=True, process_metrics=False)
    lines = generate_latest(backend, openmetrics=True).decode().splitlines()
    backend.close()
    return "\n".join(line for line in lines if "shm_metrics_" not in line) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "segment")
        child = os.fork()
        if not child:
            fill(MetricsBackend(path=path, process_metrics=False, **SIZES))
            os._exit(0)  # as by a kill: nothing is closed
        assert os.waitpid(child, 0)[1] == 0
        name = f"segment-{L.VERSION}"
        (FOLDER / f"{name}.gz").write_bytes(gzip.compress(Path(path).read_bytes(), mtime=0))
        (FOLDER / f"{name}.txt").write_text(page(path))


if __name__ == "__main__":
    main()
