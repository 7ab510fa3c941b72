"""Reading from outside what jobs counted: by an exporter, which is a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from shm_metrics.segment.location import SegmentLocation
from tests.support.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


def environ(**told: str) -> dict[str, str]:
    """For a child process that is to find the tests. None of prometheus_client's own files may come up by accident."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **told}
    env.pop("PROMETHEUS_MULTIPROC_DIR", None)
    return env


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Exporter:
    """`python -m shm_metrics serve --create`: there before the first job and after the last."""

    def __init__(self, segment_name: str) -> None:
        self.segment_name = segment_name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shm_metrics", "serve", segment_name, "--port", "0", "--create"],
            env=environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        found = re.fullmatch(r"serving \S+ at (http://\S+/metrics)\n", line)
        assert found, (line, self.process.stderr.read())
        self.url = found[1]
        line = self.process.stderr.readline()
        assert line.startswith("present at "), line

    def page(self) -> dict[tuple[str, str], float]:
        """(sample name, queue) -> value, of all that this segment's page says."""
        with urllib.request.urlopen(self.url, timeout=PATIENCE_SECONDS) as response:
            text = response.read().decode()
        return {
            (sample.name, sample.labels.get("queue", "") + sample.labels.get("le", "")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def jobs(self) -> tuple[float, float, float, float]:
        """(jobs, the same in a metric of our own, observations, jobs under way)."""
        page = self.page()
        done = [page.get(("jobs_total", queue), 0.0) for queue in "ab"]
        ours = [page.get(("jobs_in_our_own_total", queue), 0.0) for queue in "ab"]
        assert done == ours
        return sum(done), sum(ours), page.get(("job_seconds_count", ""), 0.0), page.get(("jobs_busy", ""), 0.0)

    def rows(self) -> int:
        """How many rows were ever used: the greatest number of workers at once."""
        return int(self.page()["shm_metrics_rows_used", ""])

    def files(self) -> list[str]:
        """The files that this segment has."""
        path = Path(SegmentLocation.named(self.segment_name, os.geteuid()).path)
        return [each.name for each in path.parent.iterdir() if self.segment_name in each.name]

    def one_file(self) -> bool:
        return self.files() == [Path(SegmentLocation.named(self.segment_name, os.geteuid()).path).name]

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=PATIENCE_SECONDS)
        assert self.process.returncode == 0
