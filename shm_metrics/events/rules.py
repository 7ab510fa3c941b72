"""The table from events to metrics, as plain data. The first rule whose pattern matches applies.

EventRule("order.shipped", [counts("orders_shipped_total"), observes("order_weight_kg", "weight")], ["carrier"])
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from shm_metrics.errors import InvalidMetricError
from shm_metrics.model.buckets import check_buckets
from shm_metrics.model.declarations import define
from shm_metrics.model.families import COUNTER, GAUGE, HISTOGRAM, Family
from shm_metrics.model.labels import check_label_names

__all__ = [
    "DEFAULT_RULES",
    "ENTITY",
    "SAMPLING_LABEL",
    "Effect",
    "EventRule",
    "EventRules",
    "counts",
    "entity_of",
    "observes",
    "sets",
]

ENTITY = "{entity}"
SAMPLING_LABEL = "sampling_rate"
MAX_LABEL_VALUES = 100
MAX_LABEL_SETS = 1_000

_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_]")


def entity_of(event_name: str) -> str:
    """Return the text before the first dot as part of a metric name; "" if there is none.

    Invalid characters become `_`, and a leading digit gets a `_` before it.
    """
    entity = _NOT_IN_A_NAME.sub("_", event_name.partition(".")[0])
    return "_" + entity if entity[:1].isdigit() else entity


@dataclass(frozen=True)
class Effect:
    """One metric that an event updates; made by counts(), sets() and observes().

    metric: its name; {entity} stands for that of the event. fields: of the payload; the first that has a value is used.
    mode: of a gauge. signed: whether a histogram takes negative numbers, which are ignored otherwise.
    """

    kind: str
    metric: str
    fields: tuple[str, ...] = ()
    mode: str = ""
    signed: bool = False

    def family(self, entity: str, buckets: tuple[float, ...] | None) -> Family:
        """Return the family for an event of this entity. Raise InvalidMetricError."""
        options: dict[str, Any] = {}
        if self.kind == GAUGE and self.mode:
            options["multiprocess_mode"] = self.mode
        if self.kind == HISTOGRAM and buckets is not None:
            options["buckets"] = buckets
        return define(self.kind, self.metric.replace(ENTITY, entity), **options)


def counts(metric: str, amount: str = "") -> Effect:
    """Increment a counter by 1, or by the field `amount` of the payload if it has a value."""
    return Effect(COUNTER, metric, (amount,) if amount else ())


def sets(metric: str, field: str, *, multiprocess_mode: str = "") -> Effect:
    """Set a gauge to a field of the payload, if it has a value."""
    return Effect(GAUGE, metric, (field,), multiprocess_mode)


def observes(metric: str, *fields: str, signed: bool = False) -> Effect:
    """Observe the first of these fields that is a number (at least 0, unless signed) in a histogram."""
    return Effect(HISTOGRAM, metric, fields, signed=signed)


@dataclass(frozen=True)
class EventRule:
    """The effects of events that match one pattern.

    pattern: the name of an event, or a glob (`*` also matches dots); case-sensitive.
    effects: made by counts(), sets() and observes(); without effects the events do nothing.
    labels: label -> field of the payload, or a list of names that are both. The label is absent where the field is
        absent or None.
    buckets: of the rule's histograms; those of prometheus_client if left out.
    max_label_values, max_label_sets: limits of the values of a label, and of the series of one of these metrics, in the
        segment; further ones are counted as `other`.

    Raises InvalidMetricError.
    """

    pattern: str
    effects: Iterable[Effect] = ()
    labels: Mapping[str, str] | Iterable[Any] = ()
    buckets: Iterable[float] | None = None
    max_label_values: int = MAX_LABEL_VALUES
    max_label_sets: int = MAX_LABEL_SETS

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str) or not self.pattern:
            raise InvalidMetricError(f"event rule {self.pattern!r}: give the name of an event, or a glob")
        effects = tuple(self.effects)
        for effect in effects:
            if not isinstance(effect, Effect):
                raise InvalidMetricError(
                    f"event rule {self.pattern}: effect {effect!r}: make it with counts(), sets() or observes()"
                )
        buckets = None if self.buckets is None else check_buckets(self.buckets, self.pattern)
        for what in ("max_label_values", "max_label_sets"):
            number = getattr(self, what)
            if type(number) is not int or number < 1:
                raise InvalidMetricError(f"event rule {self.pattern}: {what}={number!r}: give a whole number from 1")
        # frozen: one rule may be in the tables of several backends
        object.__setattr__(self, "effects", effects)
        object.__setattr__(self, "labels", self._pairs())
        object.__setattr__(self, "buckets", buckets)
        for effect in effects:
            self._check(effect)

    def _pairs(self) -> tuple[tuple[str, str], ...]:
        declared = self.labels
        if isinstance(declared, str):
            raise InvalidMetricError(f"event rule {self.pattern}: labels {declared!r}: give a list or a mapping")
        items: tuple[Any, ...] = tuple(declared.items()) if isinstance(declared, Mapping) else tuple(declared)
        pairs: tuple[Any, ...] = tuple([(each, each) if type(each) is str else tuple(each) for each in items])
        for pair in pairs:
            if len(pair) != 2 or not all(isinstance(each, str) for each in pair):
                raise InvalidMetricError(f"event rule {self.pattern}: labels {declared!r}: give label -> field")
        return pairs

    def _check(self, effect: Effect) -> None:
        if effect.kind not in (COUNTER, GAUGE, HISTOGRAM):
            raise InvalidMetricError(f"event rule {self.pattern}: effect {effect.kind!r}: no such kind")
        if effect.kind != COUNTER and not effect.fields:
            raise InvalidMetricError(f"event rule {self.pattern}: {effect.metric}: say which field has its value")
        family = effect.family("entity", self.buckets)  # type: ignore[arg-type]
        names = check_label_names([pair[0] for pair in self.labels], effect.kind, family.name)
        if SAMPLING_LABEL in names:
            raise InvalidMetricError(
                f"event rule {self.pattern}: label {SAMPLING_LABEL!r} marks what a router sampled; choose another"
            )

    def matches(self, event_name: str) -> bool:
        """Whether the rule is for events of this name."""
        return self.pattern == event_name or fnmatchcase(event_name, self.pattern)


class EventRules:
    """The rules of one backend, in order; the first that matches applies.

    on_change: called after each change, to drop what was derived from the rules before.
    """

    def __init__(self, rules: Iterable[EventRule], on_change: Callable[[], object] = lambda: None) -> None:
        self._rules = tuple(rules)
        self._on_change = on_change

    def __iter__(self) -> Iterator[EventRule]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def match(self, event_name: str) -> EventRule | None:
        """Return the rule for events of this name, or None."""
        return next((rule for rule in self._rules if rule.matches(event_name)), None)

    def add(self, rule: EventRule, *, last: bool = False) -> None:
        """Add a rule before all others, so that it wins; or after them."""
        self._set((*self._rules, _checked(rule)) if last else (_checked(rule), *self._rules))

    def replace(self, pattern: str, rule: EventRule) -> None:
        """Replace the rule with this pattern. Raise KeyError when there is none."""
        place = self._place(pattern)
        self._set((*self._rules[:place], _checked(rule), *self._rules[place + 1 :]))

    def remove(self, pattern: str) -> None:
        """Remove the rule with this pattern. Raise KeyError when there is none."""
        place = self._place(pattern)
        self._set(self._rules[:place] + self._rules[place + 1 :])

    def clear(self) -> None:
        """Remove all rules."""
        self._set(())

    def _place(self, pattern: str) -> int:
        for place, rule in enumerate(self._rules):
            if rule.pattern == pattern:
                return place
        raise KeyError(f"no event rule has the pattern {pattern!r}; there are {[rule.pattern for rule in self._rules]}")

    def _set(self, rules: tuple[EventRule, ...]) -> None:
        self._rules = rules
        self._on_change()


def _checked(rule: EventRule) -> EventRule:
    if not isinstance(rule, EventRule):
        raise InvalidMetricError(f"event rule {rule!r}: give an EventRule")
    return rule


_LABELS = {"status": "status", "handler": "handler_class", "namespace": "namespace"}
_SECONDS = observes("{entity}_duration_seconds", "duration", "execution_duration")

DEFAULT_RULES = (
    EventRule("*.started", [counts("{entity}_started_total")], _LABELS),
    EventRule("*.completed", [counts("{entity}_completed_total"), _SECONDS], _LABELS),
    EventRule("*.failed", [counts("{entity}_failed_total"), _SECONDS], _LABELS),
    EventRule("*.cancelled", [counts("{entity}_cancelled_total")], _LABELS),
    EventRule(
        "workflow.iteration",
        [
            sets("workflow_active_tasks", "active_task_count"),
            observes("workflow_iteration_duration_seconds", "iteration_duration"),
        ],
    ),
    EventRule(
        "system.health",
        [sets("system_healthy_tasks", "healthy_task_count"), sets("system_failed_tasks", "failed_task_count")],
    ),
)
