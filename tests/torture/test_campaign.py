"""Workers that come, go, fork and are killed at any moment: the page is what their journals say."""

from __future__ import annotations

from typing import Any

import pytest

from tests.torture.campaign import NeverFalls, Wrong, check_between, check_rotating, check_whole, decidable
from tests.torture.running import budget, campaign, seed

MODULE = "tests.torture.campaign"
SHORT = 4


def check(counts: dict[str, Any]) -> None:
    shown = {name: count for name, count in counts.items() if name not in ("failure", "stderr")}
    assert counts["failure"] is None, f"{shown}\n{counts['failure']}\n{counts['stderr']}"
    assert counts["overflowed"] == 0, f"updates found no slot: {shown}"
    assert counts["refused"] == 0, f"removals found no room: {shown}"
    assert counts["operations"] > 1_000
    assert counts["comparisons"] > 20
    assert counts["scrapes"] > 20
    for least_one in ("kills", "ends", "forks"):
        assert counts[least_one] > 0, shown


@pytest.mark.slow
@pytest.mark.both_builds
def test_what_killed_workers_counted_is_what_their_journals_say(record_property: Any) -> None:
    check(campaign(record_property, MODULE, "--seed", 1, "--seconds", SHORT, "--no-removals", patience=110))


@pytest.mark.slow
@pytest.mark.both_builds
def test_series_that_any_worker_removes_and_uses_again_count_from_zero(record_property: Any) -> None:
    counts = campaign(record_property, MODULE, "--seed", 2, "--seconds", SHORT, patience=110)
    check(counts)
    assert counts["lives"] > 10
    assert counts["churned"] > 100


@pytest.mark.torture
@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("options", [(), ("--no-removals",)], ids=["removals", "no removals"])
def test_the_journals_add_up_to_the_page_for_as_long_as_the_budget_lasts(
    options: tuple[str, ...], record_property: Any
) -> None:
    seconds, first = budget(), seed()
    check(campaign(record_property, MODULE, "--seed", first, "--seconds", seconds, *options, patience=seconds + 240))


@pytest.mark.slow
def test_one_count_too_few_is_found(record_property: Any) -> None:
    counts = campaign(record_property, MODULE, "--seconds", 0.5, "--no-removals", "--falsify", patience=110)
    assert 'steady_total{k="3"} shows' in counts["failure"]


# -- the oracle itself -------------------------------------------------------------------------------------------------

WHOLE = {
    'h_bucket{k="a",le="1.0"}': 2.0,
    'h_bucket{k="a",le="+Inf"}': 2.0,
    'h_count{k="a"}': 2.0,
    'h_sum{k="a"}': 2.0,
}


@pytest.mark.parametrize("name", list(WHOLE))
def test_a_torn_histogram_is_found(name: str) -> None:
    assert check_whole(WHOLE) == 1
    for wrong in (1.0, 3.0):
        with pytest.raises(Wrong):
            check_whole({**WHOLE, name: wrong})


def test_a_counter_that_falls_or_vanishes_is_found() -> None:
    falls = NeverFalls()
    for value in (1.0, 1.0, 2.0):
        falls.check({"steady_total": value, "in_flight": -value})
    with pytest.raises(Wrong):
        falls.check({"steady_total": 1.0})
    with pytest.raises(Wrong):
        falls.check({})


def test_a_value_outside_what_is_in_doubt_is_found() -> None:
    for right in (3.0, 4.0):
        check_between("x", right, 3, 4)
    check_between("x", None, 0, 1)
    for wrong in (2.0, 5.0, None):
        with pytest.raises(Wrong):
            check_between("x", wrong, 3, 4)


def test_a_removed_series_that_is_shown_is_found() -> None:
    name, removed = 'rotating_counter_total{k="0"}', [0, 0, 0, 3]
    check_rotating(0, removed, {})
    for value in (0.0, 1.0, -1.0):
        with pytest.raises(Wrong):
            check_rotating(0, removed, {name: value})
    in_doubt = [1, 2, 1, 3]  # being added to, counted twice, once in doubt
    for right in (2.0, 3.0, 4.0):
        check_rotating(0, in_doubt, {name: right})
    with pytest.raises(Wrong):
        check_rotating(0, in_doubt, {name: 5.0})
    assert not decidable({"shm_metrics_overflowed_updates_total": 1.0})
