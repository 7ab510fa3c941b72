"""Three workers that do one thing at a time show what the model says, whatever they do."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.torture.lockstep import an_episode
from tests.torture.model import BOUNDS, Mismatch, Model, same
from tests.torture.running import budget, campaign, seed

OPERATIONS = 100


def described(failure: dict[str, Any] | None) -> str:
    if failure is None:
        return ""
    return "\n".join([f"seed {failure['seed']}: {failure['message']}", str(failure["options"]), *failure["operations"]])


@pytest.mark.slow
@pytest.mark.both_builds
@pytest.mark.parametrize("first", [100, 200, 300])
def test_three_workers_show_what_the_model_says_after_each_operation(first: int, record_property: Any) -> None:
    counts = campaign(
        record_property,
        "tests.torture.lockstep",
        *("--seed", first, "--episodes", 3, "--operations", OPERATIONS),
        patience=100,
    )
    assert counts["failure"] is None, described(counts["failure"])
    assert counts["operations"] > 1.5 * OPERATIONS
    assert counts["compared"] > 10 * OPERATIONS


@pytest.mark.torture
@pytest.mark.slow
@pytest.mark.timeout(0)
def test_three_workers_show_what_the_model_says_for_as_long_as_the_budget_lasts(record_property: Any) -> None:
    seconds, first = budget(), seed()
    counts = campaign(
        record_property,
        "tests.torture.lockstep",
        *("--seed", first, "--episodes", 1_000_000, "--operations", 300, "--seconds", seconds, "--shrink", 60),
        patience=seconds + 240,
    )
    assert counts["failure"] is None, described(counts["failure"])
    assert counts["episodes"] > 1


def test_a_wrong_value_in_the_model_is_found_and_the_way_to_it_made_short(record_property: Any) -> None:
    """One increment of thirty is greater in the model."""
    counts = campaign(record_property, "tests.torture.lockstep", "--falsify", patience=60)
    failure = counts["failure"]
    assert failure is not None
    assert failure["family"] == "c"
    assert "shows {'value': 2.0}, and should show 3.0" in failure["message"]
    assert failure["operations"] == ["('use', 2, 'c', 'a', 'inc', 2.0, False)"]


def test_the_same_seed_chooses_the_same_operations() -> None:
    assert str(an_episode(5, 200)) == str(an_episode(5, 200))
    assert str(an_episode(5, 200)) != str(an_episode(6, 200))


# -- the model itself --------------------------------------------------------------------------------------------------


def seen(kind: str, name: str, **figures: Any) -> dict[str, Any]:
    labels = figures.pop("labels", {"k": "a"})
    return {"key": {"name": name, "type": kind, "labels": labels, **figures}}


def used(*uses: tuple[int, str, str, Any]) -> Model:
    """A model of two workers, 0 and 1, that have used the series `a`."""
    model = Model()
    model.series.clear()  # the counter without labels, which is always shown
    model.joined(0, 1, 100)
    model.joined(1, 2, 101)
    for worker, family, method, value in uses:
        model.use(worker, (family, "a"), method, value)
    return model


def test_the_model_refuses_a_wrong_total() -> None:
    model = used((0, "c", "inc", 1.0), (1, "c", "inc", 2.0))
    assert model.check(seen("counter", "c_total", value=3.0)) == 1
    for wrong in (2.0, 4.0, 3.0000000000000004, math.nan, -3.0):
        with pytest.raises(Mismatch):
            model.check(seen("counter", "c_total", value=wrong))
    with pytest.raises(Mismatch):
        model.check({})


def test_the_model_refuses_a_removed_series_that_is_shown_and_what_it_was() -> None:
    model = used((0, "c", "inc", 1e17))
    model.remove(1, ("c", "a"))
    assert model.check({}) == 0
    with pytest.raises(Mismatch):
        model.check(seen("counter", "c_total", value=0.0))
    model.use(0, ("c", "a"), "inc", 1.0)
    assert model.check(seen("counter", "c_total", value=1.0)) == 1
    with pytest.raises(Mismatch):
        model.check(seen("counter", "c_total", value=0.0))


def test_the_model_refuses_a_torn_histogram() -> None:
    model = used((0, "h", "observe", 1.0))
    right = {"buckets": {"1.0": 1, "2.0": 1, "+Inf": 1}, "count": 1, "sum": 1.0}
    assert len(right["buckets"]) == len(BOUNDS) + 1  # type: ignore[arg-type]
    assert model.check(seen("histogram", "h", **right)) == 1
    for wrong in ({"sum": 0.0}, {"count": 2}, {"buckets": {"1.0": 0, "2.0": 1, "+Inf": 1}}):
        with pytest.raises(Mismatch):
            model.check(seen("histogram", "h", **{**right, **wrong}))


def test_the_model_knows_living_from_dead_workers() -> None:
    model = used((0, "g_livesum", "set", 3.0), (1, "g_livesum", "set", 4.0))
    assert model.check(seen("gauge", "g_livesum", value=7.0)) == 1
    model.gone(0)
    with pytest.raises(Mismatch):
        model.check(seen("gauge", "g_livesum", value=7.0))
    assert model.check(seen("gauge", "g_livesum", value=4.0)) == 1


def test_the_model_has_a_shared_gauge_at_exactly_what_was_set() -> None:
    model = used((0, "g_shared", "inc", 1e17), (1, "g_shared", "set", 0.1))
    with pytest.raises(Mismatch):
        model.check(seen("gauge", "g_shared", value=0.0))
    assert model.check(seen("gauge", "g_shared", value=0.1)) == 1


def test_the_model_takes_what_a_worker_without_a_row_did_when_it_has_one() -> None:
    model = used()
    model.joined(2, None, 102)
    model.use(2, ("c", "a"), "inc", 5.0)
    with pytest.raises(Mismatch):
        model.check(seen("counter", "c_total", value=5.0))
    model.gone(0)
    model.adopted(2, 1)
    with pytest.raises(Mismatch):
        model.check({})
    assert model.check(seen("counter", "c_total", value=5.0)) == 1


def test_sums_are_compared_exactly_where_floats_are_exact() -> None:
    assert same(3.5, [1.0, 2.5])
    assert not same(3.5000000000000004, [1.0, 2.5])
    assert same(0.1 + 0.2, [0.1, 0.2])
    assert not same(0.30000001, [0.1, 0.2])
    assert same(1e17, [1e17, 1.0])
    assert not same(0.0, [0.1])
    assert same(math.nan, [math.inf, -math.inf])
