"""Campaigns as programs: how long, from which seed, and what they counted.

SHM_METRICS_TORTURE_SECONDS: of each campaign of `make torture`, 20 by default. SHM_METRICS_TORTURE_SEED: another one
each time by default. Both are printed, at the start and with a failure.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from typing import Any

from tests.support.processes import ROOT, interpreter

__all__ = ["budget", "campaign", "seed"]


def budget() -> float:
    """The seconds that a long campaign takes."""
    return float(os.environ.get("SHM_METRICS_TORTURE_SECONDS", "20"))


def seed() -> int:
    """What a long campaign's choices come from."""
    given = os.environ.get("SHM_METRICS_TORTURE_SEED")
    return random.SystemRandom().randrange(1 << 31) if given is None else int(given)


def campaign(record: Any, module: str, *arguments: object, patience: float) -> dict[str, Any]:
    """What `python -m module` counted, and `failure`, None when all was right. record: pytest's record_property."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(
        command, env=interpreter(), cwd=ROOT, capture_output=True, text=True, timeout=patience, check=False
    )
    said = f"{' '.join(command[1:])}\n{done.stdout}\n{done.stderr[-8000:]}"
    assert done.returncode in (0, 1), said
    assert done.stdout.strip(), said
    counts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    shown = {name: count for name, count in counts.items() if name != "failure"}
    print(module, shown)
    record("counted", f"{module.rpartition('.')[2]}: {', '.join(f'{name} {count}' for name, count in shown.items())}")
    counts["stderr"] = done.stderr[-8000:]
    return counts
