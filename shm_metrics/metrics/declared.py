"""Declared metrics: Counter, Gauge, Histogram, Summary, Info, Enum, with prometheus_client's constructors and methods.

A metric without labels is a series itself, so that `COUNTER.inc()` is one call into the hot path; one with labels is a
family that gives out series. Both are instances of the public class.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from shm_metrics.errors import InvalidMetricError
from shm_metrics.metrics import series as S
from shm_metrics.metrics.context_managers import LabelledTimer
from shm_metrics.metrics.default_backend import follow_default, get_backend
from shm_metrics.metrics.engine import Engine
from shm_metrics.metrics.family_handle import FamilyHandle
from shm_metrics.model.buckets import DEFAULT_BUCKETS
from shm_metrics.model.declarations import define
from shm_metrics.model.families import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    INFO,
    STATESET,
    SUMMARY,
    Family,
    LabelPairs,
    SampleFamily,
)
from shm_metrics.model.gauge_modes import DEFAULT_MODE
from shm_metrics.model.labels import check_label_names, label_text
from shm_metrics.native.implementation import COMPILED, cells, lookup

if TYPE_CHECKING:
    from shm_metrics.exposition.samples import MetricLike
    from shm_metrics.metrics.series import (
        CounterSeries,
        EnumSeries,
        GaugeSeries,
        HistogramSeries,
        InfoSeries,
        SummarySeries,
    )
else:
    # A public class has the methods of its series by what it makes; the type checker learns of them by this.
    CounterSeries = EnumSeries = GaugeSeries = HistogramSeries = InfoSeries = SummarySeries = object

__all__ = ["Counter", "Enum", "Gauge", "Histogram", "Info", "Metric", "Summary"]

# No instance dict: with one, CPython finds a method of an extension type by the long way (15 ns on 3.13).
_NONE: tuple[str, ...] = ()
_DECLARED = ("_family", "_labelnames", "_order")
_FAMILY = ("__weakref__", "_handle", *_DECLARED) if COMPILED else _DECLARED


class Metric:
    """Base of the declared metrics.

    name, documentation, labelnames, namespace, subsystem, unit: as prometheus_client has them.
    registry: the MetricsBackend to count in, the default one if left out; or a prometheus_client registry, with which
        the metric then registers itself too.

    Raises InvalidMetricError; MetricConflictError when the name is declared with another definition in this process.
    """

    __slots__ = _NONE
    _type = ""
    _public: type  # whose constructor makes it
    _handle: FamilyHandle

    def __new__(
        cls, name: str = "", documentation: str = "", labelnames: Iterable[str] = (), *_: Any, **options: Any
    ) -> Any:
        if labelnames:
            base, implementation = lookup.Children, _LABELLED[cls._type]
        else:
            mode = str(options.get("multiprocess_mode", DEFAULT_MODE)) if cls._type == GAUGE else ""
            base, implementation = _PLAIN[cls._type].get(mode) or _PLAIN[cls._type][DEFAULT_MODE]
        theirs: type = cls
        return base.__new__(implementation if theirs in _PUBLIC else _subclass(theirs, implementation))

    def __init__(
        self,
        name: str,
        documentation: str = "",
        labelnames: Iterable[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: Any = None,
        **options: Any,
    ) -> None:
        family = define(self._type, name, documentation, namespace=namespace, subsystem=subsystem, unit=unit, **options)
        names = check_label_names(labelnames, self._type, family.name)
        mode = family.mode if self._type == GAUGE else ""
        if not isinstance(self, _LABELLED[self._type] if names else _PLAIN[self._type][mode][1]):
            raise InvalidMetricError(
                f"{family.name}: {type(self).__name__} says labelnames or multiprocess_mode in its __init__ only; "
                "they decide what is made, so say them in its __new__ as well"
            )
        self._family: Family = family
        self._labelnames: tuple[str, ...] = names
        self._order = sorted(range(len(names)), key=names.__getitem__)
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
        return self._family.documentation

    def collect(self) -> list[MetricLike]:
        """The family as one scan finds it, over all workers; in the form that a prometheus_client registry takes.

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
        """The family without its series."""
        family = self._family
        return [SampleFamily(family.name, family.documentation, family.type, [], family.unit)]

    def remove(self, *labelvalues: object) -> None:
        """Hide the series with these label values, in every process, from the next scrape on."""
        raise NotImplementedError

    def remove_by_labels(self, labels: Mapping[str, object]) -> None:
        """Hide every series that has all of these labels; none of them when there are no labels given."""
        raise NotImplementedError

    def clear(self) -> None:
        """Hide all series, in every process, from the next scrape on; without labels: nothing happens."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{self._type} {self._family.name}>"

    def __reduce__(self) -> Any:
        from shm_metrics.metrics.pickling import sent

        return sent(self)


def _created_wanted() -> bool:
    """prometheus_client's own switch: in its registries our metrics show what its own do."""
    theirs = sys.modules.get("prometheus_client.metrics")
    return bool(getattr(theirs, "_use_created", False))


class _Plain(Metric):
    """A metric without labels: a series under its own name."""

    __slots__ = _NONE

    def attach(self, backend: Engine, *, move: bool = False) -> None:
        self.start(backend.families.handle(self._family, (), False), (), move=move)  # type: ignore[attr-defined]

    def remove(self, *labelvalues: object) -> None:
        raise InvalidMetricError(
            f"{self._family.name}: remove() on a metric without labels: there is only the one series"
        )

    def remove_by_labels(self, labels: Mapping[str, object]) -> None:
        self.remove()

    def clear(self) -> None:
        """Nothing happens: there are no labels to clear. It is there for code that clears whatever it finds."""


class _Labelled(lookup.Children, Metric):
    """A metric with labels: `labels()` gives its series."""

    __slots__ = _FAMILY

    labels = lookup.labels_method
    __reduce__ = Metric.__reduce__  # not that of Children

    def attach(self, backend: Engine, *, move: bool = False) -> None:
        handle = backend.families.handle(self._family, self._labelnames, bool(self._labelnames))
        known = self._leave(move) if hasattr(self, "_handle") else {}
        self._handle = handle
        self.name_labels(self._labelnames)
        for values, child in known.items():
            child.start(self._handle, child._pairs, move=move)
            self._handle.series.setdefault(child._pairs, child)
            self.known_children()[values] = child

    def _leave(self, move: bool) -> dict[tuple[str, ...], Any]:
        """Forget the children; those that go along: if nothing is moved, only what somebody else holds.

        The others would begin in the next backend with a zero that nobody there asked for.
        """
        children = dict(self.known_children())
        self.name_labels(self._labelnames)
        self._handle.release(child._pairs for child in children.values())
        if move:
            return children
        functions = self._handle.backend.functions
        kept = {values: child for values, child in children.items() if child in functions}
        watched = {values: weakref.ref(child) for values, child in children.items()}
        del children  # the last reference to what nobody else holds
        for values, reference in watched.items():
            child = reference()
            if child is not None:
                kept[values] = child
        return kept

    def make_child(self, labelvalues: tuple[object, ...], labelkwargs: Mapping[str, object]) -> Any:
        """What labels() does when the series is not cached."""
        values = self._values(labelvalues, labelkwargs)
        child = self.known_children().get(values)
        if child is None:
            child = self._handle.child(self._pairs_of(values))
            if not child.overflowed:
                self.known_children()[values] = child
        return child

    def _values(self, labelvalues: Sequence[object], labelkwargs: Mapping[str, object]) -> tuple[str, ...]:
        names, name = self._labelnames, self._family.name
        if labelvalues and labelkwargs:
            raise InvalidMetricError(f"{name}: labels() got values by position and by name; use one of the two")
        if labelkwargs:
            if set(labelkwargs) != set(names):
                raise InvalidMetricError(f"{name}: labels {sorted(labelkwargs)}: it is declared with {list(names)}")
            return tuple(label_text(labelkwargs[label], label) for label in names)
        if len(labelvalues) != len(names):
            raise InvalidMetricError(f"{name}: {len(labelvalues)} label values: it is declared with {list(names)}")
        return tuple([label_text(value, label) for label, value in zip(names, labelvalues, strict=True)])

    def _pairs_of(self, values: tuple[str, ...]) -> LabelPairs:
        names = self._labelnames
        return tuple([(names[position], values[position]) for position in self._order])

    def remove(self, *labelvalues: object) -> None:
        """Hide the series with these label values, in every process, from the next scrape on."""
        values = self._values(labelvalues, {})
        self._handle.remove(self._pairs_of(values))
        self._forget()

    def remove_by_labels(self, labels: Mapping[str, object]) -> None:
        """Hide every series that has all of these labels; none of them when there are no labels given."""
        if not labels:
            return
        unknown = set(labels) - set(self._labelnames)
        if unknown:
            raise InvalidMetricError(
                f"{self._family.name}: labels {sorted(unknown)}: it is declared with {list(self._labelnames)}"
            )
        self._handle.remove_matching({label: label_text(value, label) for label, value in labels.items()})
        self._forget()

    def clear(self) -> None:
        """Hide all series, in every process, from the next scrape on."""
        self._handle.clear()
        self._forget()

    def _forget(self) -> None:
        left = {
            values: child
            for values, child in dict(self.known_children()).items()
            if child._pairs in self._handle.series
        }
        self.name_labels(self._labelnames)
        self.known_children().update(left)

    def without_labels(self, *_: object, **__: object) -> Any:
        raise InvalidMetricError(
            f"{self._family.name}: missing label values; it has the labels {list(self._labelnames)}, say which series: "
            f".labels({', '.join(label + '=...' for label in self._labelnames)})"
        )


def _labelled_time(update: str) -> Callable[[Any], LabelledTimer]:
    """time() of a metric with labels, whose series get the seconds by their method `update`."""

    def time(self: _Labelled) -> LabelledTimer:
        """A context manager; `labels(...)` of what it gives says which series gets the seconds that the block took."""
        return LabelledTimer(
            lambda *values, **names: getattr(self.labels(*values, **names), update), self.without_labels
        )

    return time


class Counter(Metric, CounterSeries):
    """A total that only grows, over all workers, dead and alive."""

    __slots__ = _NONE
    _type = COUNTER


class Gauge(Metric, GaugeSeries):
    """A value that goes up and down. multiprocess_mode: see gauge_modes; `shared` is one value for all workers."""

    __slots__ = _NONE
    _type = GAUGE

    def __init__(
        self,
        name: str,
        documentation: str = "",
        labelnames: Iterable[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: Any = None,
        *,
        multiprocess_mode: str = DEFAULT_MODE,
    ) -> None:
        super().__init__(
            name, documentation, labelnames, namespace, subsystem, unit, registry, multiprocess_mode=multiprocess_mode
        )


class Histogram(Metric, HistogramSeries):
    """Observations counted into buckets, and their sum. buckets: upper bounds; prometheus_client's by default."""

    __slots__ = _NONE
    _type = HISTOGRAM
    DEFAULT_BUCKETS = DEFAULT_BUCKETS

    def __init__(
        self,
        name: str,
        documentation: str = "",
        labelnames: Iterable[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: Any = None,
        *,
        buckets: Iterable[float] | None = DEFAULT_BUCKETS,
    ) -> None:
        super().__init__(name, documentation, labelnames, namespace, subsystem, unit, registry, buckets=buckets)


class Summary(Metric, SummarySeries):
    """The number of observations and their sum."""

    __slots__ = _NONE
    _type = SUMMARY


class Info(Metric, InfoSeries):
    """Text about the application, as labels of a series that is always 1."""

    __slots__ = _NONE
    _type = INFO


class Enum(Metric, EnumSeries):
    """Which of `states` something is in, for all workers."""

    __slots__ = _NONE
    _type = STATESET

    def __init__(
        self,
        name: str,
        documentation: str = "",
        labelnames: Iterable[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: Any = None,
        *,
        states: Sequence[str] = (),
    ) -> None:
        super().__init__(name, documentation, labelnames, namespace, subsystem, unit, registry, states=states)


# -- what the public classes make --------------------------------------------------------------------------------------


class _PlainCounter(S.CounterSeries, _Plain, Counter):  # type: ignore[misc]
    __slots__ = _DECLARED


class _PlainSharedGauge(S.SharedGaugeSeries, _Plain, Gauge):
    __slots__ = _DECLARED


class _PlainGauge(S.GaugeSeries, _Plain, Gauge):  # type: ignore[misc]
    __slots__ = _DECLARED


class _PlainNewestGauge(S.NewestGaugeSeries, _Plain, Gauge):
    __slots__ = _DECLARED


class _PlainHistogram(S.HistogramSeries, _Plain, Histogram):  # type: ignore[misc]
    __slots__ = _DECLARED


class _PlainSummary(S.SummarySeries, _Plain, Summary):  # type: ignore[misc]
    __slots__ = _DECLARED


class _PlainInfo(S.InfoSeries, _Plain, Info):  # type: ignore[misc]
    __slots__ = _DECLARED


class _PlainEnum(S.EnumSeries, _Plain, Enum):  # type: ignore[misc]
    __slots__ = _DECLARED


class _LabelledCounter(_Labelled, Counter):
    __slots__ = _NONE
    inc = increment = count_exceptions = reset = _Labelled.without_labels
    keep_exemplar = exemplar = _Labelled.without_labels


class _LabelledGauge(_Labelled, Gauge):
    __slots__ = _NONE
    set = inc = dec = increment = decrement = set_to_current_time = _Labelled.without_labels
    track_inprogress = set_function = _Labelled.without_labels
    time = _labelled_time("set")


class _LabelledHistogram(_Labelled, Histogram):
    __slots__ = _NONE
    observe = keep_exemplar = exemplar = _Labelled.without_labels
    time = _labelled_time("observe")  # type: ignore[assignment]


class _LabelledSummary(_Labelled, Summary):
    __slots__ = _NONE
    observe = _Labelled.without_labels
    time = _labelled_time("observe")  # type: ignore[assignment]


class _LabelledInfo(_Labelled, Info):
    __slots__ = _NONE
    info = _Labelled.without_labels


class _LabelledEnum(_Labelled, Enum):
    __slots__ = _NONE
    state = _Labelled.without_labels


_PUBLIC: tuple[type[Metric], ...] = (Counter, Gauge, Histogram, Summary, Info, Enum)
for _each in _PUBLIC:
    _each._public = _each

_PLAIN_GAUGES: dict[Any, tuple[Any, Any]] = {
    S.SharedGaugeSeries: (cells.SharedGaugeCell, _PlainSharedGauge),
    S.GaugeSeries: (cells.GaugeCell, _PlainGauge),
    S.NewestGaugeSeries: (cells.GaugeCell, _PlainNewestGauge),
}

# type -> gauge mode, or "" -> (the C base that allocates it, the class)
_PLAIN: dict[str, dict[str, tuple[Any, Any]]] = {
    COUNTER: {"": (cells.CounterCell, _PlainCounter)},
    GAUGE: {mode: _PLAIN_GAUGES[series] for mode, series in S.GAUGE_CLASSES.items()},
    HISTOGRAM: {"": (cells.HistogramCell, _PlainHistogram)},
    SUMMARY: {"": (cells.HistogramCell, _PlainSummary)},
    INFO: {"": (object, _PlainInfo)},
    STATESET: {"": (cells.GaugeCell, _PlainEnum)},
}
_LABELLED: dict[str, Any] = {
    COUNTER: _LabelledCounter,
    GAUGE: _LabelledGauge,
    HISTOGRAM: _LabelledHistogram,
    SUMMARY: _LabelledSummary,
    INFO: _LabelledInfo,
    STATESET: _LabelledEnum,
}


@cache
def _subclass(cls: type, implementation: type) -> type:
    """What a user's subclass of a public class makes."""
    return type(cls.__name__, (cls, implementation), {"__module__": cls.__module__, "_public": cls})
