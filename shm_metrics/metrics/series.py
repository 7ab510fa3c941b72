"""The classes that the public ones make, from one table: series, metrics without labels, metrics with labels.

The public class stands first among the bases of each, the cell of the hot path last: a method that is replaced on the
public class is replaced in all of them.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, SupportsFloat

from shm_metrics.errors import InvalidMetricError, short_repr
from shm_metrics.metrics.context_managers import LabelledTimer, Timer
from shm_metrics.metrics.declared import Counter, Enum, Gauge, Histogram, Info, Metric, MetricWithExemplars, Summary
from shm_metrics.metrics.family_handle import FamilyHandle
from shm_metrics.model.families import (
    COUNTER,
    EMPTY_INFO,
    GAUGE,
    HISTOGRAM,
    INFO,
    STATESET,
    SUMMARY,
    Family,
    LabelPairs,
)
from shm_metrics.model.gauge_modes import DEFAULT_MODE, MODES, SHARED
from shm_metrics.model.labels import label_text
from shm_metrics.native.implementation import COMPILED, cells, lookup
from shm_metrics.segment.exemplar_records import exemplar_text

if TYPE_CHECKING:
    from shm_metrics.metrics.engine import Engine

__all__ = ["allocate", "declared_class", "is_declared", "new_series", "public_class", "series_class"]

_NONE: tuple[str, ...] = ()  # of a class that is mixed into one with the slots


# -- series ------------------------------------------------------------------------------------------------------------


class SeriesMethods(Metric):
    """What every series has. overflowed: its updates go to the overflow series of its family, or nowhere."""

    __slots__ = _NONE
    overflowed: bool
    _counts_overflow = False

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

    def labels(self, *labelvalues: object, **labelkwargs: object) -> NoReturn:
        """Raise InvalidMetricError: there are no labels to give."""
        raise InvalidMetricError(
            f"{self._handle.family.name}: labels() on "
            + (
                f"a series that has its labels already: {dict(self._pairs)}"
                if self._pairs
                else "a metric without labels"
            )
        )


class ChildMethods(SeriesMethods):
    """A series that a family gave out. What concerns the family is asked of the family."""

    __slots__ = _NONE

    @property
    def _family(self) -> Family:  # type: ignore[override]
        return self._handle.family

    def __repr__(self) -> str:
        labels = ",".join([f'{name}="{_escaped(text)}"' for name, text in self._pairs])
        return f"<{type(self).__name__} {self._family.name}{{{labels}}}>"

    def _refuse(self, method: str) -> NoReturn:
        raise InvalidMetricError(
            f"{self.display_name()}: {method}() on a series; it is a method of the metric with the labels"
        )

    def collect(self) -> NoReturn:
        """Raise InvalidMetricError."""
        self._refuse("collect")

    def remove(self, *labelvalues: object) -> NoReturn:
        """Raise InvalidMetricError."""
        self._refuse("remove")

    def remove_by_labels(self, labels: Mapping[str, object]) -> NoReturn:
        """Raise InvalidMetricError."""
        self._refuse("remove_by_labels")

    def clear(self) -> NoReturn:
        """Raise InvalidMetricError."""
        self._refuse("clear")


class PlainMethods(SeriesMethods):
    """A metric without labels: a series under its own name."""

    __slots__ = _NONE

    def attach(self, backend: Engine, *, move: bool = False) -> None:
        self.start(backend.families.handle(self._family, (), False), (), move=move)

    def remove(self, *labelvalues: object) -> None:
        raise InvalidMetricError(
            f"{self._family.name}: remove() on a metric without labels: there is only the one series"
        )

    def remove_by_labels(self, labels: Mapping[str, object]) -> None:
        self.remove()

    def clear(self) -> None:
        """Nothing happens: there are no labels to clear. It is there for code that clears whatever it finds."""


def _escaped(text: str) -> str:
    """A label value between quotes, as pages have it, shortened to 80 characters."""
    text = text if len(text) <= 80 else text[:77] + "..."
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@cache
def _overflow_variant(cls: Any) -> type:
    """The same class, counting each update that it has to put into the overflow."""
    namespace: dict[str, Any] = {"__slots__": (), "__module__": cls.__module__, "_counts_overflow": True}
    variant: type = type(cls.__name__, (cls,), namespace)
    for name in cls._updates:
        setattr(variant, name, _counted(variant, name))
    if "observe" in cls._updates:
        variant.time = lambda self: Timer(self.observe)  # type: ignore[attr-defined]
    return variant


def _counted(variant: type, name: str) -> Callable[..., Any]:
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.seek_place()
        if not self._counts_overflow:  # it has a place of its own by now, and another class
            return getattr(self, name)(*args, **kwargs)
        result = getattr(super(variant, self), name)(*args, **kwargs)
        if self.overflowed:  # still, and not given a place of its own on the way
            self._handle.writer.count_overflow()
        return result

    return counted


class CounterParts(SeriesMethods):
    """What the cell of a counter calls."""

    __slots__ = _NONE

    def inc_with_exemplar(self, amount: SupportsFloat, exemplar: Mapping[str, str]) -> None:
        """Do what inc() does with an exemplar; it is checked first, so that a bad one counts nothing."""
        _add_with_exemplar(self, cells.CounterCell.inc, amount, exemplar)


class HistogramParts(SeriesMethods):
    """What the cell of a histogram calls, and its bounds."""

    __slots__ = _NONE

    def start(self, handle: FamilyHandle, pairs: LabelPairs, *, move: bool = False) -> None:
        cell: Any = self
        cell.set_bounds(handle.bounds)
        super().start(handle, pairs, move=move)

    def observe_with_exemplar(self, amount: SupportsFloat, exemplar: Mapping[str, str]) -> None:
        """Do what observe() does with an exemplar; it is checked first, so that a bad one counts nothing."""
        _add_with_exemplar(self, cells.HistogramCell.observe, amount, exemplar)


def _add_with_exemplar(series: Any, update: Any, amount: SupportsFloat, exemplar: Mapping[str, str]) -> None:
    text = exemplar_text(exemplar, series._handle.family.name)
    update(series, amount)
    if exemplar:
        series._keep(text, float(amount), time.time())


class SummaryParts(HistogramParts):
    """A histogram of one bucket, without exemplars."""

    __slots__ = _NONE

    def observe_with_exemplar(self, amount: SupportsFloat, exemplar: Mapping[str, str]) -> None:
        raise TypeError(f"{self._handle.family.name}: a summary takes no exemplar; use a histogram")


class GaugeParts(SeriesMethods):
    """The function that sets the gauge goes with it to another backend."""

    __slots__ = _NONE

    def start(self, handle: FamilyHandle, pairs: LabelPairs, *, move: bool = False) -> None:
        series: Any = self
        function = self._handle.backend.functions.pop(self, None) if hasattr(self, "_handle") else None
        super().start(handle, pairs, move=move)
        if function is not None:
            series.set_function(function)


def _no_steps(self: Any, amount: SupportsFloat = 1.0) -> None:
    """Raise InvalidMetricError: a gauge that shows the value set last cannot add up the steps of two workers."""
    raise InvalidMetricError(
        f"{self.display_name()}: inc and dec make no sense with mode {self._handle.family.mode}; "
        "use set, or mode shared or livesum"
    )


class InfoParts(SeriesMethods):
    """Info has no cell of its own: each text has one, which is 1."""

    __slots__ = _NONE
    _said: LabelPairs | None
    _cell: Any

    def start(self, handle: FamilyHandle, pairs: LabelPairs, *, move: bool = False) -> None:
        self._handle, self._pairs, self.overflowed = handle, pairs, False
        said = getattr(self, "_said", None)
        self._said, self._cell = None, None
        if said is not None:
            self._set_labels(said)

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


# -- metrics with labels -----------------------------------------------------------------------------------------------


class LabelledMethods(Metric):
    """A metric with labels: `labels()` gives its series."""

    __slots__ = _NONE
    _order: Sequence[int]
    if TYPE_CHECKING:

        def name_labels(self, labelnames: Iterable[str]) -> None: ...
        def known_children(self) -> dict[tuple[str, ...], Any]: ...

    @property
    def _pairs(self) -> LabelPairs:  # type: ignore[override]
        raise AttributeError(self._missing())

    def attach(self, backend: Engine, *, move: bool = False) -> None:
        names = self._labelnames
        self._order = sorted(range(len(names)), key=names.__getitem__)
        handle = backend.families.handle(self._family, names, bool(names))
        known = self._leave(move) if hasattr(self, "_handle") else {}
        self._handle = handle
        self.name_labels(names)
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
        values = self._values(labelvalues, {})
        self._handle.remove(self._pairs_of(values))
        self._forget()

    def remove_by_labels(self, labels: Mapping[str, object]) -> None:
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

    def _missing(self) -> str:
        return (
            f"{self._family.name}: missing label values; it has the labels {list(self._labelnames)}, say which series: "
            f".labels({', '.join(label + '=...' for label in self._labelnames)})"
        )

    def without_labels(self, *_: object, **__: object) -> NoReturn:
        """Raise InvalidMetricError."""
        raise InvalidMetricError(self._missing())


def _labelled_time(update: str) -> Callable[[Any], LabelledTimer]:
    """time() of a metric with labels, whose series get the seconds by their method `update`."""

    def time(self: Any) -> LabelledTimer:
        """Return a context manager; `labels(...)` of it says which series gets the seconds that the block took."""
        return LabelledTimer(
            lambda *values, **names: getattr(self.labels(*values, **names), update), self.without_labels
        )

    return time


# -- the table ---------------------------------------------------------------------------------------------------------

# No instance dict in a compiled one; an interpreted cell has one already.
_SERIES_SLOTS = ("__weakref__", "_handle", "_pairs", "overflowed")
_DECLARED_SLOTS = ("_family", "_labelnames")
_LABELLED_SLOTS = ("__weakref__", "_handle", "_order", *_DECLARED_SLOTS)


class _Kind(NamedTuple):
    """One row: what the classes of one type, or of one type of gauge, are made of."""

    public: type[Metric]
    cell: Any  # allocates the series
    parts: type[SeriesMethods]
    updates: tuple[str, ...]  # the methods that an overflowed series counts
    overrides: Mapping[str, Any] = {}
    slots: tuple[str, ...] = ()

    def series(self) -> Any:
        """The class of the series that a family gives out."""
        return self._class((self.public, ChildMethods, self.parts, self.cell), self._series_slots(), self.overrides)

    def plain(self) -> Any:
        """The class of a metric without labels."""
        slots = (*self._series_slots(), *_DECLARED_SLOTS)
        return self._class((self.public, PlainMethods, self.parts, self.cell), slots, self.overrides)

    def labelled(self) -> Any:
        """The class of a metric with labels: what needs a series raises, but a timer can be told it later."""
        methods: dict[str, Any] = {}
        for base in (self.public, MetricWithExemplars):
            if issubclass(self.public, base):
                methods.update(
                    (name, LabelledMethods.without_labels)
                    for name, value in vars(base).items()
                    if callable(value) and not name.startswith("_")
                )
        if "time" in methods:
            methods["time"] = _labelled_time(self.updates[0])
        slots = _LABELLED_SLOTS if COMPILED else _NONE
        return self._class((self.public, LabelledMethods, lookup.Children), slots, methods)

    def _series_slots(self) -> tuple[str, ...]:
        return (*_SERIES_SLOTS, *self.slots) if COMPILED or self.cell is object else _NONE

    def _class(self, bases: tuple[Any, ...], slots: tuple[str, ...], methods: Mapping[str, Any]) -> Any:
        public = self.public
        own = {
            "__slots__": slots,
            "__module__": public.__module__,
            "__doc__": public.__doc__,
            "_public": public,
            "_base": bases[-1],
            "_updates": self.updates,
        }
        # `object` stands last among the bases of every class already
        return type(public.__name__, tuple(base for base in bases if base is not object), own | dict(methods))


_MOVING = _Kind(Gauge, cells.GaugeCell, GaugeParts, ("set", "inc", "dec"))
_NEWEST = _MOVING._replace(
    updates=("set",), overrides=dict.fromkeys(("inc", "dec", "increment", "decrement"), _no_steps)
)
_KINDS: Mapping[str, _Kind] = {
    COUNTER: _Kind(Counter, cells.CounterCell, CounterParts, ("inc",)),
    HISTOGRAM: _Kind(Histogram, cells.HistogramCell, HistogramParts, ("observe",)),
    SUMMARY: _Kind(Summary, cells.HistogramCell, SummaryParts, ("observe",)),
    INFO: _Kind(Info, object, InfoParts, (), slots=("_cell", "_said")),
    STATESET: _Kind(Enum, cells.GaugeCell, SeriesMethods, ("state",)),
    "shared gauge": _MOVING._replace(cell=cells.SharedGaugeCell),
    "gauge": _MOVING,
    "newest gauge": _NEWEST,
}
_GAUGES: Mapping[str, str] = {
    mode.name: "shared gauge" if mode.name == SHARED else "gauge" if mode.moves else "newest gauge"
    for mode in MODES.values()
}
_SERIES: Mapping[str, Any] = {name: kind.series() for name, kind in _KINDS.items()}
_PLAIN: Mapping[str, Any] = {name: kind.plain() for name, kind in _KINDS.items()}
_LABELLED: Mapping[str, Any] = {
    type_: _KINDS["gauge" if type_ == GAUGE else type_].labelled()
    for type_ in (COUNTER, GAUGE, HISTOGRAM, SUMMARY, INFO, STATESET)
}
_PUBLIC = (Counter, Gauge, Histogram, Summary, Info, Enum)


def _kind_name(type_: str, mode: str) -> str:
    return _GAUGES[mode] if type_ == GAUGE else type_


def series_class(family: Family) -> Any:
    """Return the class of the family's series."""
    return _SERIES[_kind_name(family.type, family.mode)]


def declared_class(type_: str, mode: str, labelled: bool) -> Any:
    """Return the class of a declared metric. mode: of a gauge."""
    return _LABELLED[type_] if labelled else _PLAIN[_kind_name(type_, mode)]


def new_series(handle: FamilyHandle, pairs: LabelPairs) -> Any:
    """Return the series of `handle` with these labels, with a place to count in."""
    cls = series_class(handle.family)
    series = cls._base.__new__(cls)
    series.start(handle, pairs)
    return series


def allocate(
    cls: Any, name: str = "", documentation: str = "", labelnames: Iterable[str] = (), *_: Any, **options: Any
) -> Any:
    """Return a declared metric of the public class `cls`, or of a user's subclass of one, that is not yet set up."""
    public = public_class(cls)
    mode = options.get("multiprocess_mode", DEFAULT_MODE)
    if not isinstance(mode, str) or mode not in MODES:
        mode = DEFAULT_MODE  # the constructor refuses it
    implementation = declared_class(public._type, mode, bool(labelnames))
    return implementation._base.__new__(implementation if public in _PUBLIC else _subclass(public, implementation))


def public_class(cls: Any) -> Any:
    """Return the class whose constructor makes instances of `cls`."""
    return getattr(cls, "_public", cls)


def is_declared(metric: Metric) -> bool:
    """Return whether `metric` was declared, and is not a series that a family gave out."""
    return not isinstance(metric, ChildMethods)


@cache
def _subclass(cls: type, implementation: type) -> type:
    """What a user's subclass of a public class makes."""
    return type(cls.__name__, (cls, implementation), {"__module__": cls.__module__, "_public": cls})
