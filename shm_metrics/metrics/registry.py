"""The families that this process has met in one backend, by name; asked for the first time, a family is made."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shm_metrics.errors import MetricConflictError
from shm_metrics.metrics.family_handle import FamilyHandle, sample_names
from shm_metrics.metrics.series import new_series
from shm_metrics.model.families import Family, LabelPairs

if TYPE_CHECKING:
    from shm_metrics.metrics.engine import Engine

__all__ = ["Registry"]

# What the get-or-create calls are told of a definition -> the field of a Family.
_FIELDS = {"unit": "unit", "multiprocess_mode": "mode", "buckets": "bounds"}


class Registry:
    """handles: name -> this process' hold on the family."""

    def __init__(self, backend: Engine) -> None:
        self._reference = weakref.ref(
            backend
        )  # a backend whose making is interrupted goes at once, and its row is free
        self.handles: dict[str, FamilyHandle] = {}
        self._sample_names: dict[str, Family] = {}

    @property
    def _backend(self) -> Engine:
        backend = self._reference()
        assert backend is not None  # its methods are the only callers
        return backend

    def handle(self, family: Family, labelnames: tuple[str, ...] | None, labelled: bool) -> FamilyHandle:
        """This process' hold on a family. labelnames: as declared, if it is; labelled: whether its series have labels.

        Raises MetricConflictError when its names are taken by another definition.
        """
        known = self.handles.get(family.name)
        if known is None:
            self._check_names(family)
            try:
                # setdefault: threads that declare a family at the same moment must get the same hold on it
                known = self.handles.setdefault(family.name, self.new_handle(family, labelnames))
                known.writer.family(known.family, labelled)
                self._sample_names.update(dict.fromkeys(sample_names(known.family), known.family))
            except BaseException:  # it cannot be recorded: its name is not taken
                self.handles.pop(family.name, None)
                raise
        _check_same(known.family, family)
        if labelnames is not None:
            _check_labels(known, labelnames)
            known.labelnames = labelnames
        return known

    def redefine(self, family: Family, labelnames: tuple[str, ...], labelled: bool) -> FamilyHandle:
        """As handle(), where the name had another definition or other labels in this process, which nobody wants now.

        The new definition is the one that is shown, for all processes; series with other labels are hidden.
        """
        before = self.handles.pop(family.name, None)
        if before is not None:
            self._sample_names = {name: owner for name, owner in self._sample_names.items() if owner != before.family}
        self._backend.forget_series()
        handle = self.handle(family, labelnames, labelled)
        handle.writer.show(family)
        handle.remove_unlike(labelnames)
        return handle

    def new_handle(self, family: Family, labelnames: tuple[str, ...] | None = None) -> FamilyHandle:
        """A hold on a family; who asks for the family by name gets another."""
        return FamilyHandle(self._backend, family, labelnames, new_series)

    def series(self, wanted: Family, given: Mapping[str, Any], pairs: LabelPairs) -> Any:
        """The series of a family with these labels; of its definition, only what is `given` was asked for."""
        return self.handle(self._as_known(wanted, given), None, bool(pairs)).child(pairs)

    def check(self, wanted: Family, given: Mapping[str, Any]) -> None:
        """Raise the MetricConflictError that asking for such a series would raise; nothing is made."""
        known = self.handles.get(wanted.name)
        if known is None:
            self._check_names(wanted)
        else:
            _check_same(known.family, self._as_known(wanted, given))

    def check_labels(self, wanted: Family, labelnames: Iterable[str]) -> None:
        """Raise MetricConflictError if the family is declared in this process, with other labels than these."""
        known = self.handles.get(wanted.name)
        if known is not None:
            _check_labels(known, tuple(labelnames))

    def has(self, wanted: Family, given: Mapping[str, Any], pairs: LabelPairs | None = None) -> bool:
        """Whether some process has made the family already, and the series if `pairs` are given; nothing is made."""
        return self._backend._writer.has(self._as_known(wanted, given), pairs)

    def _as_known(self, wanted: Family, given: Mapping[str, Any]) -> Family:
        """The family as it was made before, if what is `given` of its definition says nothing else."""
        known = self.handles.get(wanted.name)
        if known is None or known.family.type != wanted.type:
            return wanted
        left_out = {field: getattr(known.family, field) for option, field in _FIELDS.items() if option not in given}
        return replace(wanted, **left_out)

    def _check_names(self, family: Family) -> None:
        for sample_name in sample_names(family):
            other = self._sample_names.get(sample_name)
            if other is not None and other.name != family.name:
                raise MetricConflictError(
                    f"{family.type} {family.name}: its sample {sample_name} is already one of "
                    f"{other.type} {other.name}; choose another name"
                )


def _check_labels(known: FamilyHandle, now: tuple[str, ...]) -> None:
    before = known.labelnames
    if before is not None and set(before) != set(now):
        raise MetricConflictError(
            f"{known.family.name}: declared with the labels {list(before)} before, now asked for with {list(now)}; "
            "give the declared ones, or choose another name"
        )


def _check_same(known: Family, wanted: Family) -> None:
    for what in ("type", "mode", "unit", "bounds", "states"):
        before, now = getattr(known, what), getattr(wanted, what)
        if before != now:
            raise MetricConflictError(f"{wanted.name}: declared with {what} {before!r} before, now with {now!r}")
