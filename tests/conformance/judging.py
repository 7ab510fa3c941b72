"""What a run says: which outcomes were promised, and which are a failure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tests.conformance.outcomes import FAILED, PASSED, SKIPPED

__all__ = ["Outcomes", "judge", "judge_older"]

Outcomes = Mapping[str, tuple[str, str]]
"""Node id -> (outcome, reason)."""


def judge(
    found: Outcomes, control: Outcomes, listed: Collection[str] = (), by_chance: Collection[str] = ()
) -> list[str]:
    """What is wrong with a run, a line for each thing; nothing when all is as promised.

    control: the same tests, run on prometheus_client alone.
    listed: the tests that are known not to pass. Each must be there and must not pass, or the list is out of date.
    by_chance: the tests that may pass or not, without us too; they must be there.
    """
    wrong = [f"{test}: listed, but there is no such test" for test in [*listed, *by_chance] if test not in control]
    wrong += [f"{test}: not run" for test in control if test not in found]
    for test, (outcome, reason) in found.items():
        without_us, why = control.get(test, (None, ""))
        if without_us is None:
            wrong.append(f"{test}: not among the tests without us; {outcome} {reason}")
        elif test in by_chance:
            continue
        elif without_us == FAILED:
            wrong.append(f"{test}: fails on prometheus_client alone, so it can say nothing of us: {why}")
        elif test in listed:
            if outcome == PASSED:
                wrong.append(f"{test}: listed, but it passes: take it off the list")
        elif outcome == FAILED:
            wrong.append(f"{test}: {reason}")
        elif outcome == SKIPPED and without_us != SKIPPED:
            wrong.append(f"{test}: skipped because of us: {reason}")
    return wrong


def judge_older(
    found: Outcomes, control: Outcomes, listed: Collection[str] = (), by_chance: Collection[str] = ()
) -> list[str]:
    """judge() for an older version: the lists may name tests that it does not have yet, and its own may be broken.

    A test that fails on that version alone says nothing of us. (A file may be missing in what was published.)
    """
    sound = {test: said for test, said in control.items() if said[0] != FAILED or test in by_chance}
    kept = {test: said for test, said in found.items() if test in sound or test not in control}
    return judge(kept, sound, [t for t in listed if t in sound], [t for t in by_chance if t in sound])
