"""What RQ's children do."""

from __future__ import annotations

import os
import signal

from tests.system.jobs import counted

work = counted.work


def work_and_die(turn: int) -> None:
    """... by SIGKILL, in the job."""
    counted.work(turn)
    os.kill(os.getpid(), signal.SIGKILL)
