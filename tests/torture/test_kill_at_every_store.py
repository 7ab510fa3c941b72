"""`kill -9` at every single store of every operation: what it leaves is always whole, and the next life is exact."""

from __future__ import annotations

import mmap
import os
import random
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shm_metrics import MetricsBackend
from shm_metrics.segment.layout import Layout
from tests.support.processes import Child, Link
from tests.torture import operations, stepping
from tests.torture.next_life import Course, attach, differences, live, live_on, peers, series
from tests.torture.operations import OPERATIONS, Act, Operation, count
from tests.torture.stepping import State, Work, states_of, thinned

SEED = int(os.environ.get("SHM_METRICS_TORTURE_SEED", "1"))
TICKS = 0.03  # seconds: the kernel counts CPU time in hundredths
FEW = 16
AMONG_OTHERS = 30
# How many states are checked of an operation, and of those that one instruction makes by repeating itself. Where there
# are more, another seed draws others.
MOST = int(os.environ.get("SHM_METRICS_TORTURE_STATES", "200"))
OF_A_RUN = 8
SHOWN = 5

pytestmark = [
    pytest.mark.both_builds,
    pytest.mark.skipif(not stepping.AVAILABLE, reason="single steps are taken on x86-64 Linux"),
]


def try_lives(link: Link, path: str, states: list[tuple[int, State]], operation: Operation) -> None:
    """Say for each state what the life after it showed: (number, course, what went wrong)."""
    for number, state in states:
        link.say(("begins", number, ""))
        state.write(path)
        try:
            course = live(path, operation.rows, kept=operation.kept, reserve=operation.reserve)
            link.say((number, course, ""))
        except Exception:
            link.say((number, None, traceback.format_exc()))
    link.say(("done", 0, ""))


def courses_of(path: str, states: list[tuple[int, State]], operation: Operation) -> dict[int, Course | str]:
    """The course of the life after each state, or what went wrong in it."""
    found: dict[int, Course | str] = {}
    left = states
    while left:
        child, number = Child(try_lives, (path, left, operation)), left[0][0]
        try:
            while True:
                what, course, error = child.hear()
                if what == "done":
                    return found
                if what == "begins":
                    number = course
                else:
                    found[what] = course if course is not None else error
        except AssertionError as error:
            found[number] = f"the next life ended: {error}"
            left = [each for each in left if each[0] > number]
        finally:
            child.kill()
    return found


def where(before: State, after: State, layout: Layout) -> str:
    """What changed between two states, for people."""
    if before.size != after.size:
        return f"size {before.size} -> {after.size}"
    names = ["worker_table", "page_map", "slot_map", "index", "catalog", "matrix", "exemplars"]
    regions = [("header", 0), *((name, getattr(layout, name)) for name in names if hasattr(layout, name))]
    for page in sorted({*before.pages, *after.pages}):
        if before.pages.get(page) == after.pages.get(page):
            continue
        for offset in range(page, page + mmap.PAGESIZE):
            if before[offset] != after[offset]:
                offset -= offset % 8
                name, start = max((each for each in regions if each[1] <= offset), key=lambda each: each[1])
                old, new = (bytes(state[offset + n] for n in range(8)).hex() for state in (before, after))
                return f"{name}+{offset - start:#x}: {old} -> {new}"
    return "nothing"


def check(operation: Operation, path: str, capsys: Any, most: int) -> None:
    began = time.perf_counter()
    states = states_of(operation.work, path)
    followed = time.perf_counter()
    chosen = thinned(states, random.Random(SEED), OF_A_RUN, most)
    courses = courses_of(path, chosen, operation)
    assert len(courses) == len(chosen)
    layout = Layout(operation.rows, operation.slots)

    def named(number: int) -> str:
        return f"state {number} of {len(states) - 1}, after {where(states[number - 1], states[number], layout)}"

    torn, unkilled = judge(courses, named, operation.after or {}, operation.moves)
    with capsys.disabled():
        print(
            f"\n{operation}: {len(states)} states, {len(courses)} checked, {len(torn)} torn; "
            f"followed in {followed - began:.2f} s, checked in {time.perf_counter() - followed:.2f} s",
            end=" ",
        )
    fail_with(torn, unkilled, len(courses))


def judge(
    courses: dict[int, Course | str], named: Callable[[int], str], expected: dict[str, Any], moves: bool = False
) -> tuple[list[str], list[str]]:
    """What is wrong in the states of an operation, and what is wrong before and after it, where nobody was killed."""
    before, after = courses[0], courses[max(courses)]
    assert isinstance(before, Course), f"before the operation: {before}"
    assert isinstance(after, Course), f"after the operation: {after}"
    for key, value in expected.items():
        assert after.steps[0].get(key) == value, f"the operation was to leave {key} at {value}: {after.steps[0]}"
    unkilled = list(dict.fromkeys(before.problems + after.problems))
    torn = []
    for number, course in sorted(courses.items()):
        found = [course] if isinstance(course, str) else differences(course, before, after, moves)
        if isinstance(course, Course):
            found += [problem for problem in course.problems if problem not in unkilled]
        if found:
            torn.append(f"{named(number)}\n    " + "\n    ".join(found))
    return torn, unkilled


def fail_with(torn: list[str], unkilled: list[str], checked: int) -> None:
    wrong = []
    if torn:
        wrong.append(f"{len(torn)} of {checked} states are torn:\n" + "\n".join(torn[:SHOWN]))
    if unkilled:
        wrong.append("wrong where nobody was killed:\n    " + "\n    ".join(unkilled))
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.cheap], ids=str)
def test_a_kill_at_a_store_leaves_everything_as_before_or_as_after(
    operation: Operation, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    check(operation, path, capsys, FEW)


@pytest.mark.torture
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_a_kill_at_any_store_leaves_everything_as_before_or_as_after(
    operation: Operation, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    check(operation, path, capsys, MOST)


def live_on_after_kills(link: Link, path: str, act: Act, most: int) -> None:
    """Be workers that live all the time, while another one is killed in each of its states: (number, course, error)."""
    last = live_on_after_kill(link, path, act, None)
    before = range(1, last)
    chosen = before if len(before) <= most else sorted(random.Random(SEED).sample(before, most))
    for number in (0, *chosen) if last else ():
        live_on_after_kill(link, path, act, number)
    link.say(("done", None, ""))


def live_on_after_kill(link: Link, path: str, act: Act, number: int | None) -> int:
    """The same for one state, None for the last one; its number."""
    workers = peers(path)
    for n, worker in enumerate(workers, 1):
        count(worker, n)
    series(workers[0])["g_shared"].set(50.0)

    def work(_: str) -> Callable[[], object]:
        for copy in workers:  # a forked child has one of each
            copy.close()
        victim = workers[0].another_worker(pid=70_003)
        count(victim, 3, shared=False)
        return act(victim)

    reached = len(states_of(work, path, number)) - 1
    try:
        link.say((reached, live_on(path, workers), ""))
    except Exception:
        link.say((reached, None, traceback.format_exc()))
    finally:
        for worker in workers:
            worker.close()
        Path(path).unlink()
    return reached


@pytest.mark.torture
@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.act], ids=str)
def test_a_kill_at_any_store_leaves_everything_exact_to_those_that_live_on(
    operation: Operation, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.perf_counter()
    child = Child(live_on_after_kills, (path, operation.act, AMONG_OTHERS))
    courses: dict[int, Course | str] = {}
    try:
        while True:
            number, course, error = child.hear()
            if number == "done":
                break
            courses[number] = course if course is not None else error
    finally:
        child.kill()
    torn = judge(courses, lambda number: f"state {number}", {})
    with capsys.disabled():
        print(
            f"\n{operation} among others: {len(courses)} states, {len(torn[0])} torn; "
            f"{time.perf_counter() - began:.2f} s",
            end=" ",
        )
    fail_with(*torn, len(courses))


@pytest.mark.slow
@pytest.mark.parametrize(
    "noted", [operations.note_cpu, pytest.param(operations.note_more_cpu, marks=pytest.mark.torture)]
)
def test_cpu_seconds_never_fall_by_a_kill_in_a_scrape(noted: Work, path: str, capsys: Any) -> None:
    """Nor do they jump: what a later scrape shows of the dead lies between what was noted before and after."""
    states = states_of(noted, path)
    seen = [cpu_seconds_after(state, path) for state in states]
    with capsys.disabled():
        print(f"\n{noted.__name__}: {len(states)} states, all checked", end=" ")
    assert seen[0][0] > 0.25
    assert seen[-1][0] > seen[0][0] + 0.05, "the operation notes something"
    wrong = [
        f"state {number} of {len(states) - 1}, after {where(states[number - 1], state, Layout(3, 512))}: {seconds}"
        for number, (state, seconds) in enumerate(zip(states, seen, strict=True))
        if not all(
            low - TICKS <= each <= high + TICKS for low, each, high in zip(seen[0], seconds, seen[-1], strict=True)
        )
    ]
    assert not wrong, f"{seen[0]} before, {seen[-1]} after, and in between:\n" + "\n".join(wrong[:SHOWN])


def cpu_seconds_after(state: State, path: str) -> tuple[float, float]:
    """CPU seconds of the dead: as a reader shows them, and as the first writer of the next life does."""
    state.write(path)
    with_reader = attach(path, read_only=True, process_metrics=True)
    shown = cpu_seconds(with_reader)
    with_reader.close()
    writer = attach(path, keep=True, process_metrics=True)
    writer.collect()
    own = time.process_time()
    again = cpu_seconds(writer) - own
    writer.close()
    return shown, again


def cpu_seconds(backend: MetricsBackend) -> float:
    (found,) = [family for family in backend.collect() if getattr(family, "name", "") == "process_cpu_seconds"]
    return float(found.samples[0].value)
