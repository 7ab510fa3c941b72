"""Unknown label sets in a full segment cost microseconds, and nobody else waits for them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.torture.full import percentile
from tests.torture.running import budget, campaign

MICROSECONDS = 50.0
"""At most so many a call, at the 99th percentile, on a machine that does nothing else.

On one that does, the CPU time says what a call costs, and the median by the clock that it does not wait for others.
"""

TIMES = 2.0
"""On a machine that is slower still: at most so many times what calls cost that find a series."""


@pytest.mark.slow
@pytest.mark.both_builds
@pytest.mark.parametrize(
    ("slots", "seconds", "factor"),
    [
        (8_192, 2.0, 10.0),
        pytest.param(131_072, None, 4.0, marks=[pytest.mark.torture, pytest.mark.timeout(0)]),
    ],
)
def test_unknown_label_sets_of_four_workers_cost_microseconds(
    slots: int, seconds: float | None, factor: float, record_property: Any
) -> None:
    length = budget() if seconds is None else seconds
    counts = campaign(
        record_property,
        "tests.torture.full",
        *("--slots", slots, "--workers", 4, "--rate", 250, "--seconds", length),
        patience=100 if seconds is not None else length + 300,
    )
    assert counts["calls"] == 4 * int(250 * length)
    assert counts["missing"] == counts["existing_missing"] == 0
    for name in ("p50_us", "cpu_p99_us"):
        limit = factor * MICROSECONDS
        assert counts[name] <= max(limit, TIMES * counts[f"existing_{name}"]), name
        assert counts[f"existing_{name}"] <= 10 * limit, name


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([3.0], 0.99)) == (51.0, 100.0, 3.0)
