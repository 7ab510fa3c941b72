"""A segment is as large, and as fast to read, after thousands of dead workers as after a hundred."""

from __future__ import annotations

import json
import os

import pytest

from shm_metrics.native.implementation import COMPILED
from tests.support.processes import start_module

CHILDREN = 2_500 if COMPILED else 500


@pytest.mark.slow
@pytest.mark.both_builds
@pytest.mark.parametrize("children", [CHILDREN, pytest.param(80 * CHILDREN, marks=pytest.mark.torture)])
def test_thousands_of_killed_children_are_counted_exactly_and_leave_nothing_behind(children: int, path: str) -> None:
    done = start_module("tests.support.recycling", path, str(children))
    told, _ = done.communicate()
    assert done.returncode == 0
    found = json.loads(told)
    assert found["total"] == children
    assert found["files"] == [os.path.basename(path)]
    assert found["last"] == found["first"]  # size and blocks
    assert found["rows_used"] == found["at_once"]
    assert found["live"] == 1
    assert found["ratio"] <= 1.2
