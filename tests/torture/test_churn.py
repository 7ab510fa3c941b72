"""A million label sets go through a segment that has room for a few: totals are right, and it does not grow."""

from __future__ import annotations

from typing import Any

import pytest

from tests.torture.churn import PARTS
from tests.torture.running import campaign

FULL = pytest.param(1_000_000, 65_536, 20_000, marks=[pytest.mark.torture, pytest.mark.timeout(0)])


def check(counts: dict[str, Any]) -> None:
    assert counts["failure"] is None, counts["failure"]
    assert counts["wrong"] == [], "series that did not count from 0"
    assert counts["control"] == counts["labels"]
    assert counts["left"] == 0
    assert counts["overflowed"] == 0


def check_flat(counts: dict[str, Any]) -> None:
    warm = counts["blocks"][PARTS // 4 :]
    assert max(warm) == warm[0], f"the segment grew, blocks: {counts['blocks']}"


@pytest.mark.slow
@pytest.mark.both_builds
@pytest.mark.parametrize(("labels", "slots", "alive"), [(20_000, 1_024, 300), FULL])
def test_label_sets_come_and_go_in_a_segment_of_a_fixed_size(
    labels: int, slots: int, alive: int, record_property: Any
) -> None:
    counts = campaign(
        record_property,
        "tests.torture.churn",
        *("--labels", labels, "--slots", slots, "--alive", alive),
        patience=3_500 if labels > 100_000 else 110,
    )
    check(counts)
    check_flat(counts)


@pytest.mark.slow
def test_few_label_sets_fit(record_property: Any) -> None:
    """The campaign itself, where no slot needs to be used again."""
    check(campaign(record_property, "tests.torture.churn", "--labels", 400, "--slots", 4_096, patience=110))


RIGHT = {
    "failure": None,
    "wrong": [],
    "control": 3.0,
    "labels": 3,
    "left": 0,
    "overflowed": 0,
    "blocks": [*range(PARTS // 4), *[PARTS] * (PARTS - PARTS // 4)],
}


@pytest.mark.parametrize(
    "false",
    [
        {"failure": "a worker died"},
        {"wrong": [(0, 2.0)]},
        {"control": 2.0},
        {"left": 1},
        {"overflowed": 1},
        {"blocks": [*[8] * (PARTS - 1), 16]},
    ],
    ids=lambda false: next(iter(false)),
)
def test_each_of_these_is_found(false: dict[str, Any]) -> None:
    check(RIGHT)
    check_flat(RIGHT)
    with pytest.raises(AssertionError):
        (check_flat if "blocks" in false else check)({**RIGHT, **false})
