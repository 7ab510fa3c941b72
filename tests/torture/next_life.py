"""The life that comes after a kill: what it shows at once, and whether everything that it does from there is exact.

By the public API alone, so that it stays true whatever the segment looks like.

`live()` opens the segment that a killed process left, works with it, removes everything and counts anew. What it shows
on the way is its *course*. Until everything is removed a course depends on what was there: then it must be, series by
series, the course of the state before the operation or that of the state after it. From the removal on it is the same
for all states, and checked here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from shm_metrics import Counter, MetricsBackend, SegmentFormatError

__all__ = [
    "LABELS",
    "MODES",
    "SUM_MODES",
    "TOOK",
    "Course",
    "attach",
    "differences",
    "figures",
    "live",
    "series",
    "touch",
]

SET_MODES = ("all", "liveall", "min", "livemin", "max", "livemax", "mostrecent", "livemostrecent")
SUM_MODES = ("sum", "livesum")
MODES = ("shared", *SUM_MODES, *SET_MODES)
LABELS = {"shop": "a"}
TOOK = (0.5, 1.0, 2.0)
MORE = 20
_LIVE = tuple(f"g_{mode}" for mode in MODES if mode == "all" or mode.startswith("live"))
_SHARED = {1: 4.0, 2: 6.0, 3: 6.0}  # what the shared gauge shows once so many workers have touched it
_PIDS = 80_000

Figures = dict[str, Any]


def attach(path: str, rows: int = 3, slots: int = 512, **options: Any) -> MetricsBackend:
    return MetricsBackend(path=path, rows=rows, slots=slots, **{"process_metrics": False, **options})


def series(backend: MetricsBackend) -> dict[str, Any]:
    """One series of each kind, made where they are missing. All but the first have LABELS, as what is removed has."""
    return {
        "jobs": backend.counter("jobs"),
        "shop": backend.counter("shop", **LABELS),
        "took": backend.histogram("took", buckets=TOOK, **LABELS),
        "spread": backend.histogram("spread", buckets=(0.5, 1.0), **LABELS),
        **{f"g_{mode}": backend.gauge(f"g_{mode}", multiprocess_mode=mode, **LABELS) for mode in MODES},
    }


def touch(backend: MetricsBackend, n: int) -> None:
    """What worker number `n` (from 1) counts."""
    mine = series(backend)
    mine["jobs"].inc(n)
    mine["shop"].inc(10 * n)
    mine["took"].observe(1.0)
    for value in (0.25, 0.75, 1.5):
        mine["spread"].observe(value)
    if n == 2:
        mine["g_shared"].inc(2.0)
    else:
        mine["g_shared"].set(3.0 + n)
    for mode in SUM_MODES:
        mine[f"g_{mode}"].inc(3.0)
    for mode in SET_MODES:
        mine[f"g_{mode}"].set(3.0 + n)


def peers(path: str) -> list[MetricsBackend]:
    """Two workers for live_on(), and as many free rows."""
    first = attach(path, rows=4)
    return [first, first.another_worker(pid=_PIDS + 2)]


def figures(backend: MetricsBackend, problems: list[str]) -> Figures:
    """key -> value of a series, (count, sum, buckets) of a histogram; `key exemplar` -> of a counter or histogram.

    A key is the series' name with its labels, LABELS left out.

    What cannot be right, whatever was counted, goes to `problems`.
    """
    found: Figures = {}
    for whole, shown in backend.export()["metrics"].items():
        key = whole.replace(',shop="a"', "").replace('{shop="a"}', "")
        if shown["type"] == "histogram":
            found[key] = shown["count"], shown["sum"], tuple(shown["buckets"].values())
            if shown["buckets"]["+Inf"] != shown["count"] or any(n < 0 for n in shown["buckets"].values()):
                problems.append(f"{key}: the buckets do not add up: {found[key]}")
            if key == "took" and shown["sum"] != shown["count"]:
                problems.append(f"{key}: only 1.0 was observed, and there is {found[key]}")
        else:
            found[key] = shown["value"]
        if shown.get("exemplar"):
            found[f"{key} exemplar"] = _exemplar(shown["exemplar"])
        for bound, exemplar in shown.get("exemplars", {}).items():
            found[f"{key} {bound} exemplar"] = _exemplar(exemplar)
    return found


def _exemplar(shown: dict[str, Any]) -> tuple[Any, ...]:
    return (*shown["labels"].items(), shown["value"])


@dataclass
class Course:
    """What a life showed, step by step, until it removed everything. problems: what was wrong whatever was there."""

    steps: list[Figures] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def of(self, key: str) -> list[Any]:
        return [step.get(key) for step in self.steps]

    def see(self, backend: MetricsBackend) -> Figures:
        return figures(backend, self.problems)

    def step(self, backend: MetricsBackend) -> Figures:
        snapshot = backend.snapshot()
        if snapshot.damaged_records or snapshot.shadowed_series:
            damage = f"{snapshot.damaged_records} damaged records, {snapshot.shadowed_series} shadowed series"
            self.problems.append(damage)
        self.steps.append(self.see(backend))
        return self.steps[-1]

    def expect(self, shown: Figures, expected: Figures, when: str) -> None:
        """Some series must show just that."""
        for key, value in expected.items():
            if shown.get(key) != value:
                self.problems.append(f"{when}: {key} shows {shown.get(key)}, not {value}")


def differences(seen: Course, before: Course, after: Course, moves: bool = False) -> list[str]:
    """The series whose course is neither the one before the operation nor the one after it.

    The first step is a scrape by a process that may write nothing. What it still shows as before, the first writer may
    complete. A series that an operation makes and counts in may have been made only. An exemplar may be lost.
    moves: see Operation.
    """
    found = []
    for key in {key: None for course in (before, after, seen) for step in course.steps for key in step}:
        own, old, new = seen.of(key), before.of(key), after.of(key)
        if own in (old, new, old[:1] + new[1:]):
            continue
        if set(old) == {None} and all(value is None or _says_nothing(value) for value in own):
            continue
        if key.endswith(" exemplar") and all(value in (None, *old, *new) for value in own):
            continue
        if moves and all(map(_between, own, old, new)):
            continue
        found.append(f"{key}: {own} is neither {old} as before nor {new} as after")
    return found


def live(path: str, rows: int, *, kept: bool = True, reserve: bool = True) -> Course:
    """Live the next life in the segment at `path`.

    rows: of the segment. kept: carry the totals over. reserve: the segment has slots for more series.
    """
    course = Course()
    try:
        reader = attach(path, read_only=True)
        course.step(reader)
        reader.close()
    except FileNotFoundError:  # it was never made, or is being made
        course.steps.append({})
    except SegmentFormatError as error:
        course.steps.append({})
        if "without a segment header" not in str(error):
            course.problems.append(f"a reader: {error}")
    workers = [attach(path, rows, keep=kept)]
    for n in range(2, rows + 1):
        workers.append(workers[0].another_worker(pid=_PIDS + n))
    _go_through(course, workers, path, reserve, inherited=True)
    return course


def live_on(path: str, workers: list[MetricsBackend], *, reserve: bool = True) -> Course:
    """Live on in workers that were there all the time, when another one was killed. Closes them."""
    course = Course()
    _go_through(course, workers, path, reserve, inherited=False)
    return course


def _go_through(course: Course, workers: list[MetricsBackend], path: str, reserve: bool, *, inherited: bool) -> None:
    many = len(workers)
    try:
        course.step(workers[0])
        _go_on(course, workers, inherited)
        workers[0].clear()
        hidden = course.see(workers[0])
        if hidden:
            course.problems.append(f"everything was removed, and yet there is {hidden}")
        touched: list[int] = []
        for n, worker in enumerate(workers, 1):
            touch(worker, n)
            touched.append(n)
            _expect_only(course, course.see(worker), _expected(touched), f"counted anew by {touched}")
        if reserve:
            _make_more(course, workers)
        for worker in workers:
            worker.close()

        # The life after that: what these workers leave, and nothing of what was there before the removal.
        workers.clear()
        for _ in range(many):
            workers.append(workers[0].another_worker() if workers else attach(path, keep=True))
        left = {key: value for key, value in _expected(touched).items() if not _is_live(key)}
        _expect_only(course, course.see(workers[-1]), left, "all rows taken over")
    finally:
        for worker in workers:
            worker.close()


def _go_on(course: Course, workers: list[MetricsBackend], inherited: bool) -> None:
    """Count on, one worker after the other. inherited: they have counted nothing before."""
    first = workers[0]
    for n, worker in enumerate(workers, 1):
        touch(worker, n)
        expected = {"g_shared": _SHARED[n], **{f"g_{mode}": 3.0 + n for mode in ("mostrecent", "livemostrecent")}}
        if inherited:
            expected |= {"g_livesum": 3.0 * n, "g_livemin": 4.0, "g_livemax": 3.0 + n}
        course.expect(course.step(worker), expected, f"after worker {n} of the next life")
    if len({worker.row for worker in workers} - {None}) != len(workers):
        course.problems.append("a row cannot be had")
    for worker, value in zip((first, workers[-1]), (8.0, 11.0), strict=True):
        series(worker)["g_shared"].set(value)
        series(first)["g_shared"].inc(1.0)
        course.expect(course.see(worker), {"g_shared": value + 1.0}, f"set({value}) and inc(1)")
    if first.stats()["overflowed_updates"]:
        course.problems.append("updates went to the overflow")


def _expected(touched: list[int]) -> Figures:
    """What these workers' touches show, if there was nothing before."""
    many, lowest, last = len(touched), 3.0 + touched[0], 3.0 + touched[-1]
    return {
        "jobs_total": float(sum(touched)),
        "shop_total": 10.0 * sum(touched),
        "took": (many, float(many), (0, many, many, many)),
        "spread": (3 * many, 2.5 * many, (many, 2 * many, 3 * many)),
        "g_shared": _SHARED[many],
        **dict.fromkeys(("g_sum", "g_livesum"), 3.0 * many),
        **dict.fromkeys(("g_min", "g_livemin"), lowest),
        **dict.fromkeys(("g_max", "g_livemax", "g_mostrecent", "g_livemostrecent"), last),
        **{
            f'g_{mode}{{pid="{os.getpid() if n == 1 else _PIDS + n}"}}': 3.0 + n
            for mode in ("all", "liveall")
            for n in touched
        },
    }


def _is_live(key: str) -> bool:
    return key.partition("{")[0] in _LIVE


def _expect_only(course: Course, shown: Figures, expected: Figures, when: str) -> None:
    course.expect(shown, expected, when)
    for key, value in shown.items():
        if key not in expected and not _is_live(key) and not _says_nothing(value):
            course.problems.append(f"{when}: {key} was removed, and shows {value}")


def _says_nothing(value: Any) -> bool:
    return value == 0.0 or (isinstance(value, tuple) and value[0] == 0) or value != value


def _make_more(course: Course, workers: list[MetricsBackend]) -> None:
    """Series that there were not: each has its own slots, and so its own value."""
    for n in range(MORE):
        workers[n % len(workers)].counter("more", n=str(n)).inc(n + 1.0)
    expected = {f'more_total{{n="{n}"}}': n + 1.0 for n in range(MORE)}
    course.expect(course.see(workers[0]), expected, "more series")
    Counter("more", "", ["n"], registry=workers[0]).clear()
    if any(key.startswith("more") for key in course.see(workers[0])):
        course.problems.append("more series: they were removed, and are still there")


def _between(own: Any, old: Any, new: Any) -> bool:
    """Whether a part of what came to `old` makes `own`: each number lies between, as far as it grows."""
    if own in (old, new):
        return True
    if isinstance(new, tuple):
        (count, total, buckets), (_, old_total, old_buckets) = own, old or (0, 0.0, (0,) * len(new[2]))
        within = all(a <= b <= c for a, b, c in zip(old_buckets, buckets, new[2], strict=True))
        return within and count == buckets[-1] and min(old_total, new[1]) <= total <= max(old_total, new[1])
    return own is not None and new is not None and (old or 0.0) <= own <= new
