"""A running `python -m shm_metrics serve`, as a test sees it from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

from tests.support.waiting import PATIENCE_SECONDS


def environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


class Serving:
    """`python -m shm_metrics serve` and its first line."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shm_metrics", "serve", *arguments],
            env=environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for_url(self) -> str:
        line = self.process.stdout.readline()
        found = re.fullmatch(r"serving (/\S+) at (http://\S+/metrics)\n", line)
        assert found, (line, self.process.stderr.read())
        return found[2]

    def said(self) -> str:
        """The next line of its log."""
        return self.process.stderr.readline()

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """(exit status, the rest of its log)."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, errors
