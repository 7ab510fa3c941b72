"""Declared metrics: Counter, Gauge, Histogram, Summary, Info, Enum, with prometheus_client's constructors and methods.

A public class has every method of its type. What is made when one is called is a subclass of it, by the table of
series.py: with labels a family that gives out series, without labels a series itself. A series is an instance of the
public class too, so that a method replaced on the class is replaced for all of them.
"""

from __future__ import annotations

import inspect
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, SupportsFloat, TypeVar, overload

from shm_metrics.errors import InvalidMetricError, short_repr
from shm_metrics.metrics.context_managers import ExceptionCounter, InProgress, Timer
from shm_metrics.metrics.default_backend import follow_default, get_backend
from shm_metrics.model.buckets import DEFAULT_BUCKETS
from shm_metrics.model.declarations import define
from shm_metrics.model.families import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    INFO,
    STATESET,
    SUMMARY,
    Exemplar,
    Family,
    LabelPairs,
    SampleFamily,
)
from shm_metrics.model.gauge_modes import DEFAULT_MODE
from shm_metrics.model.labels import check_label_names, label_pairs
from shm_metrics.native.implementation import cells, lookup
from shm_metrics.segment.exemplar_records import exemplar_text

if TYPE_CHECKING:
    from typing_extensions import Self

    from shm_metrics.exposition.samples import MetricLike
    from shm_metrics.metrics.engine import Engine
    from shm_metrics.metrics.family_handle import FamilyHandle
    from shm_metrics.model.gauge_modes import ModeName
    from shm_metrics.native._cells_cy import HistogramTimer

__all__ = ["Counter", "Enum", "Gauge", "Histogram", "Info", "Metric", "Summary"]

_NONE: tuple[str, ...] = ()

S_co = TypeVar("S_co", covariant=True)


class LabelCollection(Protocol):
    """Any collection of label names but a text: `in` takes any object, which that of `str` does not."""

    def __iter__(self) -> Iterator[str]: ...
    def __contains__(self, value: object, /) -> bool: ...


class Labels(Protocol[S_co]):
    """The type of `labels`: the series with these label values, given by position or by name, and not both ways."""

    @overload
    def __call__(self, labelvalue: object, /, *labelvalues: object) -> S_co: ...
    @overload
    def __call__(self, **labelkwargs: object) -> S_co: ...


class _ConstructorSignature:
    """What inspect.signature() and help() show of a class: the arguments of `__init__`, since `__new__` takes any."""

    def __get__(self, instance: object, owner: Any) -> inspect.Signature:
        found = inspect.signature(owner.__init__)
        return found.replace(parameters=list(found.parameters.values())[1:], return_annotation=found.empty)


class Metric:
    """Base of the declared metrics and of their series.

    name, documentation, labelnames, namespace, subsystem, unit: as prometheus_client has them.
    registry: the MetricsBackend to count in, the default one if left out; or a prometheus_client registry, with which
        the metric then registers itself too.

    Raises InvalidMetricError; MetricConflictError when the name is declared with another definition in this process.
    """

    # No instance dict: with one, CPython takes 15 ns more to find a method of an extension type (on 3.13).
    __slots__ = _NONE
    __signature__ = _ConstructorSignature()
    _type = ""
    _handle: FamilyHandle
    _pairs: LabelPairs
    _family: Family
    _labelnames: tuple[str, ...]

    def __new__(cls, *args: Any, **options: Any) -> Self:
        from shm_metrics.metrics.series import allocate  # its classes derive from those here

        made: Self = allocate(cls, *args, **options)
        return made

    def __init__(
        self,
        name: str,
        documentation: str = "",
        labelnames: LabelCollection | Iterator[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: Any = None,
    ) -> None:
        self._declare(name, documentation, labelnames, namespace, subsystem, unit, registry)

    def _declare(
        self,
        name: str,
        documentation: str,
        labelnames: Iterable[str],
        namespace: str,
        subsystem: str,
        unit: str,
        registry: Any,
        **options: Any,
    ) -> None:
        from shm_metrics.metrics.engine import Engine
        from shm_metrics.metrics.series import declared_class

        family = define(self._type, name, documentation, namespace=namespace, subsystem=subsystem, unit=unit, **options)
        names = check_label_names(labelnames, self._type, family.name)
        if not isinstance(self, declared_class(self._type, family.mode, bool(names))):
            raise InvalidMetricError(
                f"{family.name}: {type(self).__name__} says labelnames or multiprocess_mode in its __init__ only; "
                "they decide what is made, so say them in its __new__ as well"
            )
        self._family = family
        self._labelnames = names
        backend = registry if isinstance(registry, Engine) else None
        theirs = registry if backend is None else None
        if theirs is not None:
            theirs.register(self)  # first: it raises when the name is taken there, and then nothing has been written
        try:
            self.attach(backend or get_backend())
        except BaseException:
            if theirs is not None:
                theirs.unregister(self)
            raise
        if backend is None:
            follow_default(self)

    def attach(self, backend: Engine, *, move: bool = False) -> None:
        """Count in `backend` from now on; move: and take along what this process counted so far."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The family's name, without `_total`."""
        return self._family.name

    @property
    def documentation(self) -> str:
        """What the metric counts, in words."""
        return self._family.documentation

    def collect(self) -> list[MetricLike]:
        """Return the family as one scan finds it, over all workers, in the form that prometheus_client registries take.

        With `_created` samples where prometheus_client is loaded, unless its disable_created_metrics() was called.
        """
        from shm_metrics.exposition.samples import as_samples

        handle = getattr(self, "_handle", None)  # a registry knows a metric a moment before it counts anywhere
        if handle is None:
            return self.describe()
        handle.backend.run_functions(handle)
        found = handle.backend.snapshot().family(self._family.name)
        return self.describe() if found is None else [as_samples(found, created=_created_wanted())]

    def describe(self) -> list[MetricLike]:
        """Return the family without its series."""
        family = self._family
        return [SampleFamily(family.name, family.documentation, family.type, [], family.unit)]

    if not TYPE_CHECKING:  # each public class has the type of its own
        labels = lookup.labels_method

    def remove(self, labelvalue: object, /, *labelvalues: object) -> None:
        """Hide the series with these label values, in every process, from the next scrape on."""
        raise NotImplementedError

    def remove_by_labels(self, labels: Mapping[str, object]) -> None:
        """Hide every series that has all of these labels; none of them when there are no labels given."""
        raise NotImplementedError

    def clear(self) -> None:
        """Hide all series, in every process, from the next scrape on; without labels: nothing happens."""
        raise NotImplementedError

    def __repr__(self) -> str:
        try:
            text = self._family.name
        except AttributeError:  # not yet, or refused
            return f"<{type(self).__name__}>"
        return f"<{type(self).__name__} {text}>"

    def __reduce__(self) -> Any:
        from shm_metrics.metrics.pickling import sent

        return sent(self)


def _created_wanted() -> bool:
    """prometheus_client's own switch: in its registries our metrics show what its own do."""
    theirs = sys.modules.get("prometheus_client.metrics")
    return bool(getattr(theirs, "_use_created", False))


class MetricWithExemplars(Metric):
    """What counters and histograms have in common. An update with an exemplar goes the long way."""

    __slots__ = _NONE

    def keep_exemplar(
        self, labels: Mapping[str, str], value: float, timestamp: float | None = None, bucket: int | None = None
    ) -> bool:
        """Keep an exemplar without counting: the newest one of a counter or bucket is shown, of whichever worker.

        value: what was counted or observed. timestamp: Unix seconds, now if left out. bucket: of a histogram, from 0;
        the one that `value` falls into if left out. False when it is left out: this worker has no row, or there is no
        memory for it. Raises InvalidMetricError.
        """
        text = exemplar_text(labels, self._handle.family.name)
        return self._keep(text, float(value), time.time() if timestamp is None else float(timestamp), bucket)

    def exemplar(self, bucket: int | None = None) -> Exemplar | None:
        """Return the newest exemplar that any worker kept, or None. bucket: of this one of a histogram alone."""
        if bucket is None:
            positions = self._positions()
        else:
            position = self._position(0.0, bucket)
            positions = range(position, position + 1)
        return self._handle.exemplar(self._pairs, positions)

    def _keep(self, text: bytes, value: float, timestamp: float, bucket: int | None = None) -> bool:
        position = self._position(value, bucket)
        return self._handle.writer.keep_exemplar(self, position, text, value, timestamp)

    def _position(self, value: float, bucket: int | None) -> int:
        """Where the bucket, or the counter's value, is among the slots of the series."""
        raise NotImplementedError

    def _positions(self) -> range:
        """Where all are that may have one."""
        raise NotImplementedError


class Counter(MetricWithExemplars):
    """A total that only grows, over all workers, dead and alive."""

    __slots__ = _NONE
    _type = COUNTER

    if TYPE_CHECKING:
        labels: Labels[Counter]

        def inc(self, amount: SupportsFloat = 1.0, exemplar: Mapping[str, str] | None = None) -> None:
            """Add `amount`, finite and at least 0. exemplar: labels that say which event this was."""

        def increment(self, amount: SupportsFloat = 1.0, exemplar: Mapping[str, str] | None = None) -> None:
            """Call inc()."""

    else:
        inc = cells.CounterCell.inc
        increment = cells.CounterCell.increment

    def reset(self) -> None:
        """Count from 0 again, in all processes, with a new time of creation."""
        handle, pairs, cell = self._handle, self._pairs, _as_cell(self)
        handle.reset(pairs)
        if cell.place()[0] is not handle.writer.row:
            cell.forget()  # memory of its own, where nothing else follows the reset
        cell.start(handle, pairs)

    def count_exceptions(
        self, exception: type[BaseException] | tuple[type[BaseException], ...] = Exception
    ) -> ExceptionCounter:
        """Return a context manager and decorator that counts the exceptions raised in a block or call."""
        return ExceptionCounter(self, exception)

    @property
    def value(self) -> float:
        """The total over all workers, dead and alive."""
        return self._handle.total(self._pairs)

    def _position(self, value: float, bucket: int | None) -> int:
        return 0

    def _positions(self) -> range:
        return range(1)


class Gauge(Metric):
    """A value that goes up and down. multiprocess_mode: see gauge_modes; `shared` is one value for all workers."""

    __slots__ = _NONE
    _type = GAUGE

    def __init__(
        self,
        name: str,
        documentation: str = "",
        labelnames: LabelCollection | Iterator[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: Any = None,
        *,
        multiprocess_mode: ModeName = DEFAULT_MODE,
    ) -> None:
        self._declare(
            name, documentation, labelnames, namespace, subsystem, unit, registry, multiprocess_mode=multiprocess_mode
        )

    if TYPE_CHECKING:
        labels: Labels[Gauge]

        def set(self, value: SupportsFloat) -> None:
            """Set the value: any float."""

        def inc(self, amount: SupportsFloat = 1.0) -> None:
            """Add to the value: any float."""

        def dec(self, amount: SupportsFloat = 1.0) -> None:
            """Subtract from the value: any float."""

        def increment(self, amount: SupportsFloat = 1.0) -> None:
            """Call inc()."""

        def decrement(self, amount: SupportsFloat = 1.0) -> None:
            """Call dec()."""

    else:
        set = cells.MovingCell.set
        inc = cells.MovingCell.inc
        dec = cells.MovingCell.dec
        increment = cells.MovingCell.increment
        decrement = cells.MovingCell.decrement

    def set_to_current_time(self) -> None:
        """Set to the Unix time in seconds."""
        self.set(time.time())

    def track_inprogress(self) -> InProgress:
        """Return a context manager and decorator: the gauge is one higher while a block or call runs.

        With mode livesum, a worker that dies in the middle takes its own away; with others it stays counted.
        """
        return InProgress(self)

    def time(self) -> Timer:
        """Return a context manager and decorator that sets the gauge to the seconds a block or call took."""
        return Timer(self.set)

    def set_function(self, function: Callable[[], float]) -> None:
        """Set the gauge to `function()` at each scrape that this process answers, and in each one forked from it."""
        if not callable(function):
            raise InvalidMetricError(
                f"{_as_cell(self).display_name()}: set_function({short_repr(function)}): give a callable"
            )
        self._handle.backend.functions[self] = function

    @property
    def value(self) -> float:
        """The value over all workers, by the gauge's mode; the sum for the modes `all` and `liveall`."""
        return self._handle.total(self._pairs)


class Histogram(MetricWithExemplars):
    """Observations counted into buckets, and their sum. buckets: upper bounds; prometheus_client's by default."""

    __slots__ = _NONE
    _type = HISTOGRAM
    DEFAULT_BUCKETS = DEFAULT_BUCKETS

    def __init__(
        self,
        name: str,
        documentation: str = "",
        labelnames: LabelCollection | Iterator[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: Any = None,
        *,
        buckets: Iterable[float] | None = DEFAULT_BUCKETS,
    ) -> None:
        self._declare(name, documentation, labelnames, namespace, subsystem, unit, registry, buckets=buckets)

    if TYPE_CHECKING:
        labels: Labels[Histogram]

        def observe(self, amount: SupportsFloat, exemplar: Mapping[str, str] | None = None) -> None:
            """Count one observation: any float but NaN. exemplar: labels that say which event this was."""

        def time(self) -> HistogramTimer:
            """Return a context manager and decorator that observes the seconds a block or a call takes."""

    else:
        observe = cells.HistogramCell.observe
        time = cells.HistogramCell.time

    @property
    def count(self) -> float:
        """Observations of all workers, dead and alive."""
        return float(self._handle.columns(self._pairs)[:-1].sum())

    @property
    def sum(self) -> float:
        """Sum of all observed values of all workers, dead and alive."""
        return float(self._handle.columns(self._pairs)[-1])

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


class Summary(Metric):
    """The number of observations and their sum."""

    __slots__ = _NONE
    _type = SUMMARY

    if TYPE_CHECKING:
        labels: Labels[Summary]

        def observe(self, amount: SupportsFloat) -> None:
            """Count one observation: any float but NaN."""

        def time(self) -> HistogramTimer:
            """Return a context manager and decorator that observes the seconds a block or a call takes."""

    else:
        observe = cells.HistogramCell.observe
        time = cells.HistogramCell.time

    @property
    def count(self) -> float:
        """Observations of all workers, dead and alive."""
        return float(self._handle.columns(self._pairs)[:-1].sum())

    @property
    def sum(self) -> float:
        """Sum of all observed values of all workers, dead and alive."""
        return float(self._handle.columns(self._pairs)[-1])


class Info(Metric):
    """Text about the application, as labels of a series that is always 1."""

    __slots__ = _NONE
    _type = INFO

    if TYPE_CHECKING:
        labels: Labels[Info]

        def _set_labels(self, payload: LabelPairs) -> None: ...

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


class Enum(Metric):
    """Which of `states` something is in, for all workers."""

    __slots__ = _NONE
    _type = STATESET

    def __init__(
        self,
        name: str,
        documentation: str = "",
        labelnames: LabelCollection | Iterator[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: Any = None,
        *,
        states: Sequence[str] = (),
    ) -> None:
        self._declare(name, documentation, labelnames, namespace, subsystem, unit, registry, states=states)

    if TYPE_CHECKING:
        labels: Labels[Enum]

    def state(self, state: str) -> None:
        """Be in this state, for all workers. Raises InvalidMetricError."""
        states: Sequence[str] = self._handle.family.states
        cell = _as_cell(self)
        try:
            index = states.index(state)
        except ValueError:
            raise InvalidMetricError(
                f"{cell.display_name()}: state {short_repr(state)}: it is one of {', '.join(states)}"
            ) from None
        cell.set(float(index))

    @property
    def value(self) -> str:
        """The state that was set last, by whichever worker."""
        index = self._handle.total(self._pairs)
        return self._handle.family.states[int(index)]


def _as_cell(series: Metric) -> Any:
    """`series` with the methods of the cell that it is."""
    return series
