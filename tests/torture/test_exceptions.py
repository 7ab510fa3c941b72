"""An exception on top of anything that this package does leaves no lock held, and nothing half made."""

from __future__ import annotations

from typing import Any

import pytest

from tests.torture.exceptions import SCENARIOS
from tests.torture.running import budget, campaign, seed

MODULE = "tests.torture.exceptions"
SHORT = 7.0


def check(counts: dict[str, Any], *least: str) -> None:
    assert counts["failure"] is None, f"{counts['failure']}\n{counts['stderr']}"
    for name in least:
        assert counts[name] > 0, counts


@pytest.mark.slow
@pytest.mark.both_builds
def test_an_exception_at_any_bytecode_leaves_nothing_held_or_half_made(record_property: Any) -> None:
    check(campaign(record_property, MODULE, "by-event", "all", "opcode", "--seconds", SHORT, patience=100), "raised")


@pytest.mark.slow
@pytest.mark.both_builds
def test_a_signal_handler_that_raises_at_any_moment_leaves_nothing_held_or_half_made(record_property: Any) -> None:
    check(campaign(record_property, MODULE, "by-signal", "--seconds", 3, patience=100), "raised", "series")


@pytest.mark.slow
@pytest.mark.both_builds
def test_a_fork_on_top_of_a_creation_makes_two_processes_that_are_right(record_property: Any) -> None:
    check(campaign(record_property, MODULE, "by-fork", "--seconds", 3, patience=100), "forks")


@pytest.mark.torture
@pytest.mark.slow
@pytest.mark.both_builds
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", ["opcode", "line"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_exception_at_every_event(scenario: str, kind: str, record_property: Any) -> None:
    seconds, first = budget(), seed()
    arguments = ("by-event", scenario, kind, "--seconds", seconds, "--seed", first)
    check(campaign(record_property, MODULE, *arguments, patience=seconds + 100), "raised")


@pytest.mark.torture
@pytest.mark.slow
@pytest.mark.both_builds
@pytest.mark.timeout(0)
@pytest.mark.parametrize(("way", "what"), [("by-signal", "raised"), ("by-fork", "forks")])
def test_signals_and_forks_for_as_long_as_the_budget_lasts(way: str, what: str, record_property: Any) -> None:
    seconds, first = budget(), seed()
    told = campaign(record_property, MODULE, way, "--seconds", seconds, "--seed", first, patience=seconds + 100)
    check(told, what)
