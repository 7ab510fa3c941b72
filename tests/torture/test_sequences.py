"""Short sequences of operations, each with a name, beside the model."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.processes import ROOT, interpreter
from tests.torture.sequences import SEQUENCES


@pytest.mark.slow
@pytest.mark.both_builds
def test_the_page_shows_what_the_model_says_after_each_sequence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture.sequences"],
        env=interpreter(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == SEQUENCES.keys()
    wrong = {name: mismatch for name, mismatch in found.items() if mismatch is not None}
    assert not wrong, f"{len(wrong)} of {len(found)}:\n" + "\n".join(
        "\n    ".join([name, mismatch[-300:], *map(str, SEQUENCES[name][1])]) for name, mismatch in wrong.items()
    )
