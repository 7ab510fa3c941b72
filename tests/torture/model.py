"""What metrics of several workers must show, in plain Python: the model of the lockstep campaign.

A segment is a dict of series; a series is a list of the states that it may be in. It has more than one where the
documentation leaves freedom (what a worker without a row counted before another worker removed the series); what is
seen decides. Everywhere else there is one state, and it must be what the page shows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["BOUNDS", "FAMILIES", "GAUGES", "STATES", "Mismatch", "Model", "Move"]

BOUNDS = (1.0, 2.0)
STATES = ("off", "on", "broken")
MODES = (
    "shared",
    "all",
    "liveall",
    "min",
    "livemin",
    "max",
    "livemax",
    "sum",
    "livesum",
    "mostrecent",
    "livemostrecent",
)
GAUGES = {f"g_{mode}": mode for mode in MODES}
FAMILIES = ("c", "p", "h", "s", "i", "e", *GAUGES)
"""counter, counter without labels, histogram, summary, info, enum, and a gauge of each mode."""

Key = tuple[str, str]  # family, label value; "" for the one without labels
Extra = tuple[tuple[str, str], ...]  # the labels of a sample beside `k`


class Mismatch(AssertionError):
    """The page shows something else than the model. family: where."""

    def __init__(self, family: str, message: str) -> None:
        super().__init__(message)
        self.family = family


class Move(NamedTuple):
    """One update. order: when it happened. doubtful: another worker removed the series before it could be seen."""

    order: int
    method: str
    value: Any
    doubtful: bool = False


# -- figures -----------------------------------------------------------------------------------------------------------


def total(amounts: Iterable[float]) -> float:
    numbers = list(amounts)
    return math.fsum(numbers) if all(map(math.isfinite, numbers)) else float(sum(numbers))


def same(shown: float, amounts: list[float]) -> bool:
    """Whether `shown` is the sum of these amounts, exactly where floats can be exact, else within their rounding."""
    wanted = total(amounts)
    if not math.isfinite(wanted):
        return shown == wanted or (math.isnan(shown) and math.isnan(wanted))
    exact = all(amount * 4 == int(amount * 4) and abs(amount) < 2**40 for amount in amounts)
    if exact or len(amounts) < 2:
        return shown == wanted
    return abs(shown - wanted) <= len(amounts) * 2.0**-52 * sum(map(abs, amounts))


@dataclass(frozen=True)
class Number:
    amounts: tuple[float, ...]

    def fits(self, seen: Mapping[str, Any]) -> bool:
        return same(seen["value"], list(self.amounts))

    def __str__(self) -> str:
        return str(total(self.amounts))


@dataclass(frozen=True)
class Text:
    text: str

    def fits(self, seen: Mapping[str, Any]) -> bool:
        return bool(seen["value"] == self.text)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Observations:
    values: tuple[float, ...]
    bounds: tuple[float, ...]

    @property
    def cumulative(self) -> list[int]:
        return [sum(value <= bound for value in self.values) for bound in (*self.bounds, math.inf)]

    def fits(self, seen: Mapping[str, Any]) -> bool:
        if self.bounds and list(seen["buckets"].values()) != self.cumulative:
            return False
        return seen["count"] == len(self.values) and same(seen["sum"], list(self.values))

    def __str__(self) -> str:
        buckets = f"buckets {self.cumulative}, " if self.bounds else ""
        return f"{buckets}count {len(self.values)}, sum {total(self.values)}"


Figure = Number | Text | Observations


# -- states of a series ------------------------------------------------------------------------------------------------


@dataclass
class State:
    """What all workers together have said of a series since it was removed last. shown: it was used or asked for."""

    shown: bool = False
    asking_shows = True  # a series that was asked for is shown before its first value

    def use(self, row: int, pid: int, move: Move) -> None:
        raise NotImplementedError

    def adopt(self, row: int, pid: int, moves: list[Move], now: int) -> Iterator[State]:
        """What may have become of it when a worker brings in what it did without a row."""
        for at in (None, now):
            state = copy.deepcopy(self)
            for move in moves:
                state.use(row, pid, move if at is None else move._replace(order=at))
            yield state

    def taken(self, row: int) -> None:
        """The row has a new owner."""

    def left(self, row: int) -> None:
        """The row's owner is dead."""

    def figures(self) -> dict[Extra, Figure]:
        raise NotImplementedError


@dataclass
class Counted(State):
    amounts: list[float] = field(default_factory=list)

    def use(self, row: int, pid: int, move: Move) -> None:
        self.shown = True
        self.amounts.append(move.value)

    def figures(self) -> dict[Extra, Figure]:
        return {(): Number(tuple(self.amounts))} if self.shown else {}


@dataclass
class Observed(State):
    bounds: tuple[float, ...] = ()
    values: list[float] = field(default_factory=list)

    def use(self, row: int, pid: int, move: Move) -> None:
        self.shown = True
        self.values.append(move.value)

    def figures(self) -> dict[Extra, Figure]:
        return {(): Observations(tuple(self.values), self.bounds)} if self.shown else {}


@dataclass
class Newest(State):
    """An enum, an info or a mostrecent gauge: what was said last, by any worker, dead or alive."""

    kind: str = ""
    order: int = -1
    value: Any = None

    def __post_init__(self) -> None:
        self.asking_shows = self.kind != "info"

    def use(self, row: int, pid: int, move: Move) -> None:
        self.shown = True
        if move.order >= self.order:
            self.order, self.value = move.order, move.value

    def figures(self) -> dict[Extra, Figure]:
        if not self.shown:
            return {}
        if self.kind == "info":
            return {(("v", self.value),): Number((1.0,))}
        if self.kind == "enum":
            return {(): Text(STATES[0] if self.value is None else self.value)}
        return {(): Number(() if self.value is None else (self.value,))}


@dataclass
class Shared(State):
    """Each `set` makes it exactly that; inc and dec add to what is there."""

    moves: list[Move] = field(default_factory=list)

    def use(self, row: int, pid: int, move: Move) -> None:
        self.shown = True
        self.moves.append(move)
        self.moves.sort(key=lambda each: each.order)

    def figures(self) -> dict[Extra, Figure]:
        amounts: list[float] = []
        for move in self.moves:
            amounts = _moved(amounts, move)
        return {(): Number(tuple(amounts))} if self.shown else {}


@dataclass
class Each(State):
    """A gauge of which each worker has a value of its own. rows: row -> (pid, order, amounts). dead: of folded rows."""

    mode: str = ""
    rows: dict[int, tuple[int, int, list[float]]] = field(default_factory=dict)
    dead: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.asking_shows = self.mode in ("sum", "livesum", "min", "max")

    def use(self, row: int, pid: int, move: Move) -> None:
        self.shown = True
        _, before, amounts = self.rows.get(row, (pid, -1, []))
        self.rows[row] = pid, max(before, move.order), _moved(amounts, move)

    def adopt(self, row: int, pid: int, moves: list[Move], now: int) -> Iterator[State]:
        yield from super().adopt(row, pid, moves, now)
        inherited = self.rows.get(row)
        if inherited and moves:  # a `sum`: what was set without a row may replace what the row had, or be added
            state = copy.deepcopy(self)
            own: list[float] = []
            for move in moves:
                own = _moved(own, move)
            state.shown, state.rows[row] = True, (pid, now, inherited[2] + own)
            yield state

    def taken(self, row: int) -> None:
        if self.mode == "sum" or row not in self.rows:
            return
        _, _, amounts = self.rows.pop(row)
        if self.mode in ("min", "max"):
            self.dead.append(amounts)

    def left(self, row: int) -> None:
        if self.mode.startswith("live"):
            self.rows.pop(row, None)

    def figures(self) -> dict[Extra, Figure]:
        if not self.shown:
            return {}
        if self.mode.endswith("all"):
            return {(("pid", str(pid)),): Number(tuple(amounts)) for pid, _, amounts in self.rows.values()}
        if self.mode.endswith("sum"):
            return {(): Number(tuple(amount for _, _, amounts in self.rows.values() for amount in amounts))}
        if self.mode == "livemostrecent":
            chosen = [max(self.rows.values(), key=lambda each: each[1])[2]] if self.rows else []
        else:
            values = [*self.dead, *(amounts for _, _, amounts in self.rows.values())]
            choose = min if self.mode.endswith("min") else max
            chosen = [choose(values, key=total)] if values else []
        if not chosen:
            return {} if self.mode.startswith("live") else {(): Number(())}
        return {(): Number(tuple(chosen[0]))}


def _moved(amounts: list[float], move: Move) -> list[float]:
    if move.method == "set":
        return [move.value]
    return [*amounts, -move.value if move.method == "dec" else move.value]


def new_state(family: str) -> State:
    if family in ("c", "p"):
        return Counted(shown=family == "p")
    if family in ("h", "s"):
        return Observed(bounds=BOUNDS if family == "h" else ())
    if family in ("i", "e"):
        return Newest(kind="info" if family == "i" else "enum")
    mode = GAUGES[family]
    if mode == "shared":
        return Shared()
    return Newest(kind=mode) if mode == "mostrecent" else Each(mode=mode)


def _different(states: Iterable[State]) -> list[State]:
    kept: list[State] = []
    for state in states:
        if state not in kept:
            kept.append(state)
    return kept


# -- a segment ---------------------------------------------------------------------------------------------------------


class Model:
    """A segment and its workers. rows: worker -> its row, None for a worker without one."""

    def __init__(self) -> None:
        self.series: dict[Key, list[State]] = {("p", ""): [new_state("p")]}
        self.rows: dict[int, int | None] = {}
        self.pids: dict[int, int] = {}
        self.pending: dict[int, dict[Key, list[Move]]] = {}
        self.used: dict[Key, list[Move]] = {}  # since the series was removed last; for a worker that takes it along
        self.now = 0

    def _states(self, key: Key) -> list[State]:
        return self.series.setdefault(key, [new_state(key[0])])

    def joined(self, worker: int, row: int | None, pid: int) -> None:
        self.rows[worker], self.pids[worker] = row, pid
        if row is not None:
            self._taken(row)

    def _taken(self, row: int) -> None:
        for states in self.series.values():
            for state in states:
                state.taken(row)

    def adopted(self, worker: int, row: int) -> None:
        """A worker that had no row has one now, and what it counted."""
        self.rows[worker] = row
        self._taken(row)
        self.brings(worker, self.pending.pop(worker, {}))

    def brings(self, worker: int, moves: Mapping[Key, list[Move]]) -> None:
        """A worker brings along what it did out of sight."""
        row, pid = self.rows[worker], self.pids[worker]
        for key, its in moves.items():
            if row is None:
                self.pending.setdefault(worker, {}).setdefault(key, []).extend(its)
                self._asked(key)
                continue
            certain = [move for move in its if not move.doubtful]
            after = []
            for state in self._states(key):
                for chosen in (its, certain):
                    after += list(state.adopt(row, pid, chosen, self.now)) if chosen else [copy.deepcopy(state)]
            self.series[key] = _different(after)
            if not its:
                self._asked(key)

    def _asked(self, key: Key) -> None:
        """A series is there that nothing is seen of: it may be shown as 0, or not yet."""
        states = self._states(key)
        asked = [copy.deepcopy(state) for state in states if state.asking_shows and not state.shown]
        for state in asked:
            state.shown = True
        self.series[key] = _different(states + asked)

    def gone(self, worker: int) -> None:
        """A worker is dead, or has left; what it did without a row dies with it."""
        row = self.rows.pop(worker)
        self.pending.pop(worker, None)
        if row is not None:
            for states in self.series.values():
                for state in states:
                    state.left(row)

    def use(self, worker: int, key: Key, method: str, value: Any) -> None:
        self.now += 1
        row, move = self.rows[worker], Move(self.now, method, value)
        self.used.setdefault(key, []).append(move)
        if row is None:
            self.pending.setdefault(worker, {}).setdefault(key, []).append(move)
            self._asked(key)
            return
        for state in self._states(key):
            state.use(row, self.pids[worker], move)

    def remove(self, worker: int, key: Key, *, shown: bool = False) -> None:
        """A worker removes a series. shown: and asks for it again, as Counter.reset() does."""
        self.now += 1
        self.used[key] = []
        state = new_state(key[0])
        state.shown = state.shown or shown
        self.series[key] = [state]
        self.pending.get(worker, {}).pop(key, None)
        for moves in self.pending.values():
            if key in moves:
                moves[key] = [move._replace(doubtful=True) for move in moves[key]]

    def clear(self, worker: int, family: str) -> None:
        for key in [key for key in self.series if key[0] == family]:
            self.remove(worker, key)

    # -- what is seen -------------------------------------------------------------------------------------------------

    def check(self, metrics: Mapping[str, Mapping[str, Any]]) -> int:
        """Compare with what all_metrics() gave. Raises Mismatch. The number of values compared."""
        seen: dict[Key, dict[Extra, Mapping[str, Any]]] = {}
        for name, metric in metrics.items():
            family = metric["name"].removesuffix("_total") if metric["type"] == "counter" else metric["name"]
            labels = dict(metric["labels"])
            if (family == "p") == ("k" in labels) or family not in FAMILIES:
                raise Mismatch(family, f"{name} is shown, and nothing like it was made")
            key = family, labels.pop("k", "")
            seen.setdefault(key, {})[tuple(sorted(labels.items()))] = metric
        compared = 0
        for key in self.series.keys() | seen.keys():
            found = seen.get(key, {})
            states = self._states(key)
            fitting = [state for state in states if _fits(state.figures(), found)]
            if not fitting:
                wanted = " or ".join(_described(state.figures()) for state in states)
                raise Mismatch(key[0], f"{key[0]}{{k={key[1]!r}}} shows {_seen(found)}, and should show {wanted}")
            self.series[key] = fitting
            compared += len(found)
        return compared


def _fits(wanted: Mapping[Extra, Figure], seen: Mapping[Extra, Mapping[str, Any]]) -> bool:
    return wanted.keys() == seen.keys() and all(figure.fits(seen[extra]) for extra, figure in wanted.items())


def _described(figures: Mapping[Extra, Figure]) -> str:
    return ", ".join(f"{dict(extra) or ''}{figure}" for extra, figure in figures.items()) or "nothing"


def _seen(found: Mapping[Extra, Mapping[str, Any]]) -> str:
    shown = ("value", "buckets", "count", "sum")
    parts = [
        f"{dict(extra) or ''}{ {name: metric[name] for name in shown if name in metric} }"
        for extra, metric in found.items()
    ]
    return ", ".join(parts) or "nothing"
