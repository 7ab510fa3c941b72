"""A run of prometheus_client's tests is judged by what is listed, and by what became of them without us."""

from __future__ import annotations

import pytest

from tests.conformance.judging import judge, judge_older

PASSED, FAILED, SKIPPED = ("passed", ""), ("failed", "ValueError: no"), ("skipped", "no network")


def test_what_passes_is_as_promised():
    assert judge({"a": PASSED, "b": PASSED}, {"a": PASSED, "b": PASSED}) == []


def test_what_is_skipped_without_us_too_is_as_promised():
    assert judge({"a": SKIPPED}, {"a": SKIPPED}) == []


@pytest.mark.parametrize("outcome", [FAILED, SKIPPED])
def test_what_is_listed_does_not_pass(outcome):
    assert judge({"a": outcome}, {"a": PASSED}, listed=["a"]) == []


@pytest.mark.parametrize("outcome", [PASSED, FAILED])
@pytest.mark.parametrize("without_us", [PASSED, FAILED])
def test_what_is_left_to_chance_may_do_as_it_likes(outcome, without_us):
    assert judge({"a": outcome}, {"a": without_us}, by_chance=["a"]) == []


@pytest.mark.parametrize(
    ("found", "control", "listed", "by_chance", "told"),
    [
        ({"a": FAILED}, {"a": PASSED}, [], [], "a: ValueError: no"),
        ({"a": SKIPPED}, {"a": PASSED}, [], [], "a: skipped because of us: no network"),
        ({"a": PASSED}, {"a": PASSED}, ["a"], [], "a: listed, but it passes"),
        ({"a": PASSED}, {"a": PASSED}, ["b"], [], "b: listed, but there is no such test"),
        ({"a": PASSED}, {"a": PASSED}, [], ["b"], "b: listed, but there is no such test"),
        ({"a": PASSED}, {"a": FAILED}, [], [], "a: fails on prometheus_client alone"),
        ({}, {"a": PASSED}, [], [], "a: not run"),
        ({"a": PASSED}, {}, [], [], "a: not among the tests without us"),
    ],
)
def test_whatever_else_happens_is_wrong(found, control, listed, by_chance, told):
    (line,) = judge(found, control, listed, by_chance)
    assert line.startswith(told)


def test_an_older_version_need_not_have_what_is_listed():
    assert judge_older({"a": PASSED}, {"a": PASSED}, listed=["b"], by_chance=["c"]) == []


def test_what_fails_on_an_older_version_alone_says_nothing():
    assert judge_older({"a": FAILED, "b": PASSED}, {"a": FAILED, "b": PASSED}) == []


@pytest.mark.parametrize(
    ("found", "listed", "told"),
    [
        ({"a": FAILED}, [], "a: ValueError: no"),
        ({"a": PASSED}, ["a"], "a: listed, but it passes"),
        ({}, [], "a: not run"),
    ],
)
def test_an_older_version_is_held_to_the_rest(found, listed, told):
    (line,) = judge_older(found, {"a": PASSED}, listed)
    assert line.startswith(told)
