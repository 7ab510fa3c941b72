"""mypy and pyright report every planted mistake, and nothing in good use."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MISTAKES = TESTS / "typed_mistakes.py"
GOOD_USE = TESTS / "typed_use.py"


def output_of(tool, *arguments):
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed; `make types` installs it")
    environment = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    command = [sys.executable, "-m", tool, *map(str, arguments)]
    ran = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    return ran.stdout


def mypy(path):
    output = output_of("mypy", "--strict", "--no-error-summary", "--hide-error-context", path)
    return {int(found[1]): found[2] for found in re.finditer(rf"{path.name}:(\d+):(?:\d+:)? error: (.*)", output)}


def pyright(path):
    found = json.loads(output_of("pyright", "--outputjson", path))
    assert found["summary"]["filesAnalyzed"] == 1
    return {
        each["range"]["start"]["line"] + 1: each["message"]
        for each in found["generalDiagnostics"]
        if each["severity"] == "error"
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: checker.__name__)
def test_a_type_checker_reports_every_mistake_and_no_good_use(checker):
    """A mistake that is not reported, and a report of what is right, both appear in the difference of the two sets."""
    lines = enumerate(MISTAKES.read_text().splitlines(), 1)
    planted = {number for number, line in lines if line.endswith("# wrong")}
    assert len(planted) > 30
    assert set(checker(MISTAKES)) == planted
    assert checker(GOOD_USE) == {}
