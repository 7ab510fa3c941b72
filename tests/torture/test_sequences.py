"""Short sequences of operations, each with a name, beside the model."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.behaviour.processes import ROOT, interpreter
from tests.torture.sequences import SEQUENCES


@pytest.fixture(scope="module")
def found() -> dict[str, str | None]:
    """What a program found: no backend of a test is forked along."""
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
    made: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return made


@pytest.mark.slow
@pytest.mark.both_builds
@pytest.mark.xdist_group("sequences")
@pytest.mark.parametrize("name", list(SEQUENCES))
def test_the_page_shows_what_the_model_says(name: str, found: dict[str, str | None]) -> None:
    assert found[name] is None, "\n".join([str(found[name]), *map(str, SEQUENCES[name][1])])
