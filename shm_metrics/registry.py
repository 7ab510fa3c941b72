"""The families that this process has met in one backend, by name; asked for the first time, a family is made.

Lives here: that a name, and each name of a family's samples, has one definition. May not: count, read or remove
(handles and series do).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shm_metrics.errors import MetricConflictError
from shm_metrics.families import Family, LabelPairs
from shm_metrics.handles import FamilyHandle, sample_names
from shm_metrics.series import series_class

if TYPE_CHECKING:
    from shm_metrics.engine import Engine

__all__ = ["Registry"]

# What the get-or-create calls are told of a definition -> the field of a Family.
_FIELDS = {"unit": "unit", "multiprocess_mode": "mode", "buckets": "bounds"}


class Registry:
    """handles: name -> this process' hold on the family."""

    def __init__(self, backend: Engine) -> None:
        self._backend = backend
        self.handles: dict[str, FamilyHandle] = {}
        self._sample_names: dict[str, Family] = {}

    def handle(self, family: Family, labelnames: tuple[str, ...] | None, labelled: bool) -> FamilyHandle:
        """This process' hold on a family. labelnames: as declared, if it is; labelled: whether its series have labels.

        Raises MetricConflictError when its names are taken by another definition.
        """
        known = self.handles.get(family.name)
        if known is None:
            self._check_names(family)
            # setdefault: threads that declare a family at the same moment must get the same hold on it
            known = self.handles.setdefault(family.name, self.new_handle(family, labelnames))
            try:
                known.writer.family(known.family, labelled)
            except BaseException:  # it cannot be recorded: its name is not taken
                self.handles.pop(family.name, None)
                raise
            self._sample_names.update(dict.fromkeys(sample_names(known.family), known.family))
        _check_same(known.family, family)
        if labelnames is not None:
            if known.labelnames is not None and set(known.labelnames) != set(labelnames):
                raise MetricConflictError(
                    f"{family.name}: declared with labels {known.labelnames!r} before, now with {labelnames!r}"
                )
            known.labelnames = labelnames
        return known

    def new_handle(self, family: Family, labelnames: tuple[str, ...] | None = None) -> FamilyHandle:
        """A hold on a family; who asks for the family by name gets another."""
        return FamilyHandle(self._backend, family, labelnames, series_class(family).of)

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


def _check_same(known: Family, wanted: Family) -> None:
    for what in ("type", "mode", "unit", "bounds", "states"):
        before, now = getattr(known, what), getattr(wanted, what)
        if before != now:
            raise MetricConflictError(f"{wanted.name}: declared with {what} {before!r} before, now with {now!r}")
