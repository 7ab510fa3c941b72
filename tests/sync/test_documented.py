"""docs/cluster.md says of options and of the lease what the code says."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from shm_metrics import SyncConfig, environment
from shm_metrics.sync.lease import TRANSITIONS

TEXT = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the table whose heading begins so."""
    after = TEXT.split(f"\n| {heading} |")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in after.splitlines()[2:]]


def seconds(told: str) -> float:
    number, _, unit = told.partition(" ")
    return float(number) * {"s": 1, "days": 86_400}[unit]


def test_each_option_stands_there_with_its_variable_and_default():
    said = {re.findall("`(.*?)`", row[1])[0]: row for row in rows("variable")}
    assert said.pop("cache=")[0] == f"`{environment.CACHE_VARIABLE}`"
    assert set(said) == {field.name for field in fields(SyncConfig)} == set(environment._FIELDS)
    for field in fields(SyncConfig):
        variable, default = said[field.name][0].strip("`"), said[field.name][2].strip("`")
        assert variable == environment._FIELDS[field.name][0]
        if isinstance(field.default, float):
            assert seconds(default) == field.default
        else:
            assert default == (field.default or "none")


def test_the_states_of_the_lease_are_those_of_the_code():
    said = {(state, event): following for state, event, following, _ in rows("state")}
    assert said.pop(("any", "CLOSE")) == "CLOSED"
    known = {(state, event): after for state, events in TRANSITIONS.items() for event, after in events.items()}
    assert said == {key: after for key, after in known.items() if key[1] != "CLOSE"}
