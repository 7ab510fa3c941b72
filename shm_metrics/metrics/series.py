"""One series as users hold it: a cell of the hot path with the methods that are not hot."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, SupportsFloat

from shm_metrics.errors import InvalidMetricError, short_repr
from shm_metrics.metrics.context_managers import ExceptionCounter, InProgress, Timer
from shm_metrics.metrics.family_handle import FamilyHandle
from shm_metrics.model.families import (
    COUNTER,
    EMPTY_INFO,
    GAUGE,
    HISTOGRAM,
    INFO,
    STATESET,
    SUMMARY,
    Exemplar,
    Family,
    LabelPairs,
)
from shm_metrics.model.gauge_modes import MODES, SHARED
from shm_metrics.model.labels import check_label_names, label_pairs
from shm_metrics.native.implementation import COMPILED, cells
from shm_metrics.segment.exemplar_records import exemplar_text

if TYPE_CHECKING:
    from typing_extensions import Self

    from shm_metrics.native._cells_cy import CounterCell, HistogramCell, MovingCell
else:
    # What the methods below are mixed into, for the type checker.
    CounterCell = HistogramCell = MovingCell = object

__all__ = [
    "GAUGE_CLASSES",
    "CounterSeries",
    "EnumSeries",
    "GaugeSeries",
    "HistogramSeries",
    "InfoSeries",
    "NewestGaugeSeries",
    "SharedGaugeSeries",
    "SummarySeries",
    "series_class",
]

# An interpreted cell has a __dict__ already; a compiled one is kept small.
_SLOTS = ("__weakref__", "_handle", "_pairs", "overflowed") if COMPILED else ()
_NONE: tuple[str, ...] = ()  # of a class that is mixed into one with the slots


class SeriesMethods:
    """What every series has. overflowed: its updates go to the overflow series of its family, or nowhere."""

    __slots__ = _NONE
    _handle: FamilyHandle
    _pairs: LabelPairs
    overflowed: bool
    _hot: tuple[str, ...] = ()  # the update methods, which an overflowed series counts
    _counts_overflow = False

    @classmethod
    def of(cls, handle: FamilyHandle, pairs: LabelPairs) -> Any:
        """The series of `handle` with these labels, with a place to count in."""
        series = cls.__new__(cls)
        series.start(handle, pairs)
        return series

    def start(self, handle: FamilyHandle, pairs: LabelPairs, *, move: bool = False) -> None:
        """Take a place in the segment; move: and bring along what was counted so far."""
        self._handle, self._pairs, self.overflowed = handle, pairs, False
        handle.writer.bind(self, handle.family, pairs, move=move)
        if self.overflowed != self._counts_overflow:
            mine: type = type(self)
            self.__class__ = _overflow_variant(mine) if self.overflowed else mine.__mro__[1]

    @property
    def handle(self) -> FamilyHandle:
        """The handle of the series' family."""
        return self._handle

    @property
    def pairs(self) -> LabelPairs:
        """The labels of the series, sorted by name."""
        return self._pairs

    def rebind(self) -> None:
        """Take a new place, with what was counted since the last one was lost to another series.

        An update is under way, which goes there: an overflowed one is counted here, as it began as one that is not.
        """
        counts_itself = self._counts_overflow
        self.start(self._handle, self._pairs, move=True)
        if self.overflowed and not counts_itself:
            self._handle.writer.count_overflow()

    def seek_place(self) -> None:
        """Take the place of an overflowed series, if there may be room by now.

        What it counted where nothing is shown goes along; what it counted in the overflow stays there.
        """
        writer = self._handle.writer
        if writer.may_have_room(self._handle.family):
            self.start(self._handle, self._pairs, move=self.place()[0] is not writer.row)  # type: ignore[attr-defined]

    def display_name(self) -> str:
        """What messages call this series: the family's name, and its labels."""
        labels = ", ".join(f"{name}={short_repr(text)}" for name, text in self._pairs)
        return f"{self._handle.family.name}{{{labels}}}" if labels else self._handle.family.name

    def __reduce__(self) -> Any:
        from shm_metrics.metrics.pickling import sent

        return sent(self)

    def labels(self, *labelvalues: object, **labelkwargs: object) -> Self:
        """The series with these label values; of a metric that has labels. Raises InvalidMetricError."""
        raise InvalidMetricError(
            f"{self._handle.family.name}: labels() on "
            + (
                f"a series that has its labels already: {dict(self._pairs)}"
                if self._pairs
                else "a metric without labels"
            )
        )


@cache
def _overflow_variant(cls: type) -> type:
    """The same class, counting each update that it has to put into the overflow."""
    namespace: dict[str, Any] = {"__slots__": (), "_counts_overflow": True}
    for name in cls._hot:  # type: ignore[attr-defined]
        namespace[name] = _counted(getattr(cls, name))
    if "observe" in namespace:
        namespace["time"] = lambda self: Timer(self.observe)
    return type(cls.__name__, (cls,), namespace)


def _counted(update: Callable[..., Any]) -> Callable[..., Any]:
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.seek_place()
        result = update(self, *args, **kwargs)
        if self.overflowed:  # still, and not given a place of its own on the way
            self._handle.writer.count_overflow()
        return result

    return counted


class ExemplarMethods(SeriesMethods):
    """What counters and histograms do with exemplars. An update with one goes the long way, which others never see."""

    __slots__ = _NONE

    def keep_exemplar(
        self, labels: Mapping[str, str], value: float, timestamp: float | None = None, bucket: int | None = None
    ) -> bool:
        """Keep an exemplar without counting: the newest one of a counter or bucket is shown, whichever worker kept it.

        value: what was counted or observed. timestamp: Unix seconds, now if left out. bucket: of a histogram, from 0;
        the one that `value` falls into if left out. False when it is left out: this worker has no row, or there is no
        memory for it. Raises InvalidMetricError.
        """
        text = exemplar_text(labels, self._handle.family.name)
        return self._keep(text, float(value), time.time() if timestamp is None else float(timestamp), bucket)

    def _keep(self, text: bytes, value: float, timestamp: float, bucket: int | None = None) -> bool:
        position = self._position(value, bucket)
        return self._handle.writer.keep_exemplar(self, position, text, value, timestamp)

    def exemplar(self, bucket: int | None = None) -> Exemplar | None:
        """The newest exemplar that any worker kept; None: there is none. bucket: of this one of a histogram alone."""
        if bucket is None:
            positions = self._positions()
        else:
            position = self._position(0.0, bucket)
            positions = range(position, position + 1)
        return self._handle.exemplar(self._pairs, positions)

    def _position(self, value: float, bucket: int | None) -> int:
        """Where the bucket, or the counter's value, is among the slots of the series."""
        raise NotImplementedError

    def _positions(self) -> range:
        """Where all are that may have one."""
        raise NotImplementedError


# -- counter -----------------------------------------------------------------------------------------------------------


class CounterMethods(ExemplarMethods, CounterCell):
    __slots__ = _NONE
    _hot: tuple[str, ...] = ("inc",)

    def inc_with_exemplar(self, amount: SupportsFloat, exemplar: Mapping[str, str]) -> None:
        """What inc() does with an exemplar; it is checked first, so that a bad one counts nothing."""
        text = exemplar_text(exemplar, self._handle.family.name)
        cells.CounterCell.inc(self, amount)
        if exemplar:
            self._keep(text, float(amount), time.time())

    def _position(self, value: float, bucket: int | None) -> int:
        return 0

    def _positions(self) -> range:
        return range(1)

    def reset(self) -> None:
        """Count from 0 again, in all processes, with a new time of creation."""
        handle, pairs = self._handle, self._pairs
        handle.reset(pairs)
        if self.place()[0] is not handle.writer.row:
            self.forget()  # memory of its own, where nothing else follows the reset
        self.start(handle, pairs)

    def count_exceptions(
        self, exception: type[BaseException] | tuple[type[BaseException], ...] = Exception
    ) -> ExceptionCounter:
        """A context manager and decorator that counts the exceptions raised in a block or call."""
        return ExceptionCounter(self, exception)

    @property
    def value(self) -> float:
        """The total over all workers, dead and alive."""
        return self._handle.total(self._pairs)


class CounterSeries(CounterMethods, cells.CounterCell):
    __slots__ = _SLOTS


# -- gauge -------------------------------------------------------------------------------------------------------------


class GaugeMethods(SeriesMethods, MovingCell):
    __slots__ = _NONE
    _hot: tuple[str, ...] = ("set", "inc", "dec")

    def start(self, handle: FamilyHandle, pairs: LabelPairs, *, move: bool = False) -> None:
        function = self._handle.backend.functions.pop(self, None) if hasattr(self, "_handle") else None
        super().start(handle, pairs, move=move)
        if function is not None:
            self.set_function(function)

    def set_to_current_time(self) -> None:
        """Set to the Unix time in seconds."""
        self.set(time.time())

    def track_inprogress(self) -> InProgress:
        """A context manager and decorator: the gauge is one higher while a block or call runs.

        With mode livesum, a worker that dies in the middle takes its own away; with others it stays counted.
        """
        return InProgress(self)

    def time(self) -> Timer:
        """A context manager and decorator that sets the gauge to the seconds a block or call took."""
        return Timer(self.set)

    def set_function(self, function: Callable[[], float]) -> None:
        """Set the gauge to `function()` at each scrape that this process answers, and in each one forked from it."""
        if not callable(function):
            raise InvalidMetricError(f"{self.display_name()}: set_function({short_repr(function)}): give a callable")
        self._handle.backend.functions[self] = function

    @property
    def value(self) -> float:
        """The value over all workers, by the gauge's mode; the sum for the modes `all` and `liveall`."""
        return self._handle.total(self._pairs)


class SharedGaugeSeries(GaugeMethods, cells.SharedGaugeCell):
    __slots__ = _SLOTS


class GaugeSeries(GaugeMethods, cells.GaugeCell):
    __slots__ = _SLOTS


class NewestMethods(GaugeMethods):
    """A gauge that shows the value set last cannot be counted up: two workers' steps would not add up."""

    __slots__ = _NONE
    _hot: tuple[str, ...] = ("set",)

    def inc(self, amount: SupportsFloat = 1.0) -> None:
        raise InvalidMetricError(
            f"{self.display_name()}: inc and dec make no sense with mode {self._handle.family.mode}; "
            "use set, or mode shared or livesum"
        )

    dec = increment = decrement = inc


class NewestGaugeSeries(NewestMethods, cells.GaugeCell):
    __slots__ = _SLOTS


# -- histogram, summary ------------------------------------------------------------------------------------------------


class ObservingMethods(SeriesMethods, HistogramCell):
    __slots__ = _NONE
    _hot: tuple[str, ...] = ("observe",)

    def start(self, handle: FamilyHandle, pairs: LabelPairs, *, move: bool = False) -> None:
        self.set_bounds(handle.bounds)
        super().start(handle, pairs, move=move)

    @property
    def count(self) -> float:
        """Observations of all workers, dead and alive."""
        return float(self._handle.columns(self._pairs)[:-1].sum())

    @property
    def sum(self) -> float:
        """Sum of all observed values of all workers, dead and alive."""
        return float(self._handle.columns(self._pairs)[-1])


class HistogramMethods(ExemplarMethods, ObservingMethods):
    __slots__ = _NONE

    def observe_with_exemplar(self, amount: SupportsFloat, exemplar: Mapping[str, str]) -> None:
        """What observe() does with an exemplar; it is checked first, so that a bad one counts nothing."""
        text = exemplar_text(exemplar, self._handle.family.name)
        cells.HistogramCell.observe(self, amount)
        if exemplar:
            self._keep(text, float(amount), time.time())

    def _position(self, value: float, bucket: int | None) -> int:
        bounds = self._handle.family.bounds
        if bucket is None:
            bucket = bisect_left(bounds, value) if value == value else len(bounds) - 1
        if not 0 <= bucket < len(bounds):
            raise InvalidMetricError(
                f"{self._handle.family.name}: bucket {bucket}: it has the buckets 0 to {len(bounds) - 1}"
            )
        return 1 + bucket

    def _positions(self) -> range:
        return range(1, 1 + len(self._handle.family.bounds))


class HistogramSeries(HistogramMethods, cells.HistogramCell):
    __slots__ = _SLOTS


class SummaryMethods(ObservingMethods):
    __slots__ = _NONE

    def observe_with_exemplar(self, amount: SupportsFloat, exemplar: Mapping[str, str]) -> None:
        raise TypeError(f"{self._handle.family.name}: a summary takes no exemplar; use a histogram")


class SummarySeries(SummaryMethods, cells.HistogramCell):
    __slots__ = _SLOTS


# -- info, enum --------------------------------------------------------------------------------------------------------


class InfoMethods(SeriesMethods):
    __slots__ = _NONE
    _said: LabelPairs | None
    _cell: Any

    def start(self, handle: FamilyHandle, pairs: LabelPairs, *, move: bool = False) -> None:
        self._handle, self._pairs, self.overflowed = handle, pairs, False
        said = getattr(self, "_said", None)
        self._said, self._cell = None, None
        if said is not None:
            self._set_labels(said)

    def info(self, val: Mapping[str, str]) -> None:
        """Say these labels of it; what was said before, by any worker, is replaced. Raises InvalidMetricError."""
        name = self._handle.family.name
        if not isinstance(val, Mapping):
            raise InvalidMetricError(f"{name}: info {val!r}: give a mapping of label names to text")
        check_label_names(list(val), "info", name)
        taken = {label for label, _ in self._pairs} & set(val)
        if taken:
            raise InvalidMetricError(f"{name}: info {sorted(taken)}: these are labels of the metric itself")
        for label, value in val.items():
            if value is None:
                raise InvalidMetricError(f"{name}: info {label!r} is None; give text")
        self._set_labels(label_pairs(val))

    def _set_labels(self, payload: LabelPairs) -> None:
        if payload != self._said:
            cell = InfoCell()
            cell.handle, cell.pairs, cell.payload = self._handle, self._pairs, payload or EMPTY_INFO
            self._handle.writer.bind(cell, self._handle.family, self._pairs, payload or EMPTY_INFO)
            self._said, self._cell = payload, cell
        self._cell.set(1.0)


class InfoCell(cells.GaugeCell):
    """What was said; its stamp is when."""

    handle: FamilyHandle
    pairs: LabelPairs
    payload: LabelPairs
    __slots__ = ("__weakref__", "handle", "overflowed", "pairs", "payload") if COMPILED else ()

    def rebind(self) -> None:
        self.handle.writer.bind(self, self.handle.family, self.pairs, self.payload, move=True)


class InfoSeries(InfoMethods):
    __slots__ = ("__weakref__", "_cell", "_handle", "_pairs", "_said", "overflowed")


class EnumMethods(SeriesMethods, MovingCell):
    __slots__ = _NONE
    _hot: tuple[str, ...] = ("set",)

    def state(self, state: str) -> None:
        """Be in this state, for all workers. Raises InvalidMetricError."""
        states: Sequence[str] = self._handle.family.states
        try:
            index = states.index(state)
        except ValueError:
            raise InvalidMetricError(
                f"{self.display_name()}: state {short_repr(state)}: it is one of {', '.join(states)}"
            ) from None
        self.set(float(index))

    @property
    def value(self) -> str:
        """The state that was set last, by whichever worker."""
        index = self._handle.total(self._pairs)
        return self._handle.family.states[int(index)]


class EnumSeries(EnumMethods, cells.GaugeCell):
    __slots__ = _SLOTS


# -- which one ---------------------------------------------------------------------------------------------------------

GAUGE_CLASSES: Mapping[str, Any] = {
    mode.name: SharedGaugeSeries if mode.name == SHARED else GaugeSeries if mode.moves else NewestGaugeSeries
    for mode in MODES.values()
}
"""Gauge mode -> the class of its series."""

_CLASSES: Mapping[str, Any] = {
    COUNTER: CounterSeries,
    HISTOGRAM: HistogramSeries,
    SUMMARY: SummarySeries,
    INFO: InfoSeries,
    STATESET: EnumSeries,
    **GAUGE_CLASSES,
}


def series_class(family: Family) -> Any:
    """The class of the family's series."""
    return _CLASSES[family.mode if family.type == GAUGE else family.type]
