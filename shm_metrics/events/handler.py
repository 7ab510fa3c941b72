"""handle_event: apply all updates of an event, or none.

An event is read and checked in full before a series is created or updated. A value that is no number, a label of 10 MB
or a name that another type has leave the segment unchanged.
"""

from __future__ import annotations

import logging
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from shm_metrics.errors import InvalidMetricError, MetricConflictError, SegmentError, short_repr
from shm_metrics.events.cardinality import Cardinality
from shm_metrics.events.payload import EventRefusedError, Read, as_dict, reader, value_text
from shm_metrics.events.rules import DEFAULT_RULES, ENTITY, SAMPLING_LABEL, Effect, EventRule, EventRules, entity_of
from shm_metrics.metrics.family_handle import sample_names
from shm_metrics.model.families import COUNTER, GAUGE, Family, LabelPairs
from shm_metrics.model.labels import label_pairs
from shm_metrics.runtime import forks
from shm_metrics.runtime.cached_property import cached_property
from shm_metrics.runtime.log_once import LogOnce

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

__all__ = ["CAPPED", "OTHER", "EventHandler"]

log = logging.getLogger("shm_metrics")

OTHER = "other"
CAPPED = "shm_metrics_capped_label_values_total"
MAX_NAME_CHARACTERS = 200
MAX_ENTITIES = 500  # per segment; an entity names families, and more of them are misplaced label values
MAX_PLANS = 2_048

_KINDS: dict[type[Exception], str] = {InvalidMetricError: "label", MetricConflictError: "conflict"}


class EventPlan:
    """What is known of events of one name before their payload is read.

    fields: of the labels. reads: the readers of the values, one per effect that has a value.
    whole: label values as they came -> the updates. part: (label values, which values are missing) -> the updates.
    """

    __slots__ = (
        "fields",
        "labels",
        "part",
        "plain",
        "rate",
        "reads",
        "rule",
        "valued",
        "whole",
    )

    def __init__(self, rule: EventRule | None, entity: str, rate: float) -> None:
        self.rule = rule
        self.rate = rate
        self.labels: tuple[tuple[str, str], ...] = () if rule is None else tuple(rule.labels)  # type: ignore[arg-type]
        self.fields = tuple([field for _, field in self.labels])
        self.plain: list[tuple[Effect, Family]] = []
        self.valued: list[tuple[Effect, Family]] = []
        self.reads: list[Read] = []
        self.whole: dict[tuple[Any, ...], Any] = {}
        self.part: dict[tuple[Any, ...], Any] = {}
        for effect in () if rule is None else rule.effects:
            assert rule is not None
            family = effect.family(entity, rule.buckets)  # type: ignore[arg-type]
            if effect.fields:
                self.valued.append((effect, family))
                self.reads.append(reader(effect.kind, effect.fields, 1 / rate, effect.signed, family.name))
            else:
                self.plain.append((effect, family))

    def pairs(self, texts: list[str | None]) -> LabelPairs:
        """Return the labels of the series. texts: their values, None where missing. Raise InvalidMetricError."""
        labels = {label: text for (label, _), text in zip(self.labels, texts, strict=True) if text is not None}
        if self.rate != 1.0:
            labels[SAMPLING_LABEL] = format(self.rate, "g")
        return label_pairs(labels)


class EventHandler:
    """The rules of one backend, and the plans of the events that it has handled."""

    def __init__(self, backend: MetricsBackend) -> None:
        self.backend = backend
        self.rules = EventRules(DEFAULT_RULES, self.forget)
        self._plans: dict[str, EventPlan] = {}
        self._sampled: dict[tuple[str, float], EventPlan] = {}
        self._log_once = LogOnce(log)
        _handlers.add(self)

    @cached_property
    def _cardinality(self) -> Cardinality:
        return Cardinality(self.backend.segment)

    def after_fork(self) -> None:
        """Drop the reader of the catalog: another thread of the parent may have been using it."""
        self.__dict__.pop("_cardinality", None)

    def forget(self) -> None:
        """Drop all plans, after a change of the rules or the series."""
        self._plans, self._sampled = {}, {}

    def handle(self, event_name: str, payload: Any = None) -> bool:
        """Apply the first rule that matches. Return True if the event was counted or matched no rule.

        Return False if it was refused; the first refusal of each kind is logged.
        """
        try:
            plan = self._plans.get(event_name)
            if plan is None:
                plan = self._plan(event_name, 1.0)
            if type(payload) is not dict:
                payload = as_dict(payload)
            return self._apply(plan, payload)
        except Exception as error:
            return self._refuse(event_name, error)

    def handle_sampled(self, event_name: str, payload: Any, rate: float) -> bool:
        """Handle one sampled event out of 1 / rate: counters increase by 1 / rate, with a label that says so."""
        if rate == 1.0:
            return self.handle(event_name, payload)
        try:
            plan = self._sampled.get((event_name, rate)) or self._plan(event_name, rate)
            return self._apply(plan, as_dict(payload))
        except Exception as error:
            return self._refuse(event_name, error)

    def _apply(self, plan: EventPlan, payload: dict[str, Any]) -> bool:
        get = payload.get
        key = tuple(map(get, plan.fields))
        reads = plan.reads
        if reads:
            values = [read(payload) for read in reads]
            if None in values:
                left = tuple([value is None for value in values])
                updates = plan.part.get((key, left)) or self._find(plan, key, left, plan.part, (key, left))
                values = [value for value in values if value is not None]
            else:
                updates = plan.whole.get(key) or self._find(plan, key, (), plan.whole, key)
            for move, value in zip(updates[1], values):  # noqa: B905  # found for just these; saying strict costs 40 ns
                move(value)
        else:
            updates = plan.whole.get(key) or self._find(plan, key, (), plan.whole, key)
        for count in updates[0]:
            count()
        return True

    # -- the first time -------------------------------------------------------------------------------------------

    def _plan(self, event_name: object, rate: float) -> EventPlan:
        if not isinstance(event_name, str):
            raise EventRefusedError("name", f"a name of type {type(event_name).__name__}: give text")
        if not event_name or len(event_name) > MAX_NAME_CHARACTERS or not event_name.isprintable():
            raise EventRefusedError("name", f"give a name of 1 to {MAX_NAME_CHARACTERS} printable characters")
        if not 0.0 < rate <= 1.0:
            raise EventRefusedError("rate", f"sampling rate {rate!r}: it is above 0 and at most 1")
        name = str.__str__(event_name)
        rule = self.rules.match(name)
        entity = entity_of(name)
        plan = EventPlan(rule, entity, rate)
        self._check_entity(plan, entity)
        plans: dict[Any, EventPlan] = self._plans if rate == 1.0 else self._sampled
        if len(plans) >= MAX_PLANS:
            plans.clear()
        plans[name if rate == 1.0 else (name, rate)] = plan
        return plan

    def _find(
        self, plan: EventPlan, values: tuple[Any, ...], left: tuple[bool, ...], known: dict[Any, Any], key: Any
    ) -> tuple[list[Any], list[Any]]:
        """Return the updates of the effects whose values are present, creating series as needed."""
        if plan.rule is None or not plan.rule.effects:
            return [], []
        texts = [
            None if value is None else value_text(value, label)
            for value, (label, _) in zip(values, plan.labels, strict=True)
        ]
        wanted = [*plan.plain, *[each for n, each in enumerate(plan.valued) if not left or not left[n]]]
        plan.pairs(texts)  # raises for a value that is too long, before the catalog is read
        self._check(plan, [family for _, family in wanted])
        # From here on the event is valid.
        capped = self._cap(plan, wanted, texts)
        pairs = plan.pairs(texts)
        series = [self.backend.families.series(family, self._given(plan, family), pairs) for _, family in wanted]
        for label in capped:
            self.backend.counter(CAPPED, rule=plan.rule.pattern, label=label).inc()
        updates = (
            [each.inc if plan.rate == 1.0 else partial(each.inc, 1 / plan.rate) for each in series[: len(plan.plain)]],
            [
                each.inc if family.type == COUNTER else each.set if family.type == GAUGE else each.observe
                for each, (_, family) in zip(series[len(plan.plain) :], wanted[len(plan.plain) :], strict=True)
            ],
        )
        # Only text is a safe key: 1, 1.0 and True are one key, and three label values.
        found_again = not capped and all(value is None or type(value) is str for value in values)
        if found_again and not any(each.overflowed for each in series):
            known[key] = updates
        return updates

    def _cap(self, plan: EventPlan, wanted: list[tuple[Effect, Family]], texts: list[str | None]) -> list[str]:
        """Replace label values beyond the limits by `other`; return the labels that were replaced."""
        assert plan.rule is not None
        if not wanted or self._exists(plan, wanted, texts):
            return []
        names = [family.name for _, family in wanted]
        capped = []
        for n, (label, _) in enumerate(plan.labels):
            known = [set(self._cardinality.values(name, label)) - {OTHER} for name in names]
            is_new = texts[n] not in (None, OTHER) and not any(texts[n] in values for values in known)
            if is_new and max(map(len, known)) >= plan.rule.max_label_values:
                texts[n] = OTHER
                capped.append(label)
        if capped and self._exists(plan, wanted, texts):
            return capped
        if max(map(self._cardinality.series, names)) >= plan.rule.max_label_sets:
            for n, (label, _) in enumerate(plan.labels):
                if texts[n] not in (None, OTHER):
                    texts[n] = OTHER
                    capped.append(label)
        return capped

    def _exists(self, plan: EventPlan, wanted: list[tuple[Effect, Family]], texts: list[str | None]) -> bool:
        """Whether the segment already has a series with these labels."""
        pairs = plan.pairs(texts)
        return any(self.backend.families.has(family, self._given(plan, family), pairs) for _, family in wanted)

    def _check_entity(self, plan: EventPlan, entity: str) -> None:
        """Refuse an event name that would create more families than MAX_ENTITIES allows."""
        named = [(effect, family) for effect, family in (*plan.plain, *plan.valued) if ENTITY in effect.metric]
        if not named:
            return
        if not entity:
            raise EventRefusedError("name", "there is no text before its first dot, which is to name the metrics")
        if any(self.backend.families.has(family, self._given(plan, family)) for _, family in named):
            return
        effect, family = named[0]
        before = effect.metric.partition(ENTITY)[0]
        behind = family.name[len(before) + len(entity) :]
        alike = [name for name in self._cardinality.names() if name.startswith(before) and name.endswith(behind)]
        if len(alike) >= MAX_ENTITIES:
            raise EventRefusedError(
                "entities", f"{MAX_ENTITIES} different names before the first dot; others are refused"
            )

    def _check(self, plan: EventPlan, families: list[Family]) -> None:
        owners: dict[str, Family] = {}
        for family in families:
            self.backend.families.check(family, self._given(plan, family))
            for name in sample_names(family):
                other = owners.setdefault(name, family)
                if other.name != family.name or other.type != family.type:
                    raise EventRefusedError(
                        "conflict", f"its {other.type} {other.name} and {family.type} {family.name} clash"
                    )

    def _given(self, plan: EventPlan, family: Family) -> dict[str, Any]:
        """Return the options that the rule sets for the family; other options stay as declared."""
        assert plan.rule is not None
        given: dict[str, Any] = {}
        if family.bounds and plan.rule.buckets is not None:
            given["buckets"] = plan.rule.buckets
        modes = [effect.mode for effect, each in plan.valued if each is family and effect.mode]
        if modes:
            given["multiprocess_mode"] = modes[0]
        return given

    # -- when it cannot be ----------------------------------------------------------------------------------------

    def _refuse(self, event_name: object, error: Exception) -> bool:
        if isinstance(error, TypeError) and str(error).startswith("unhashable type"):  # a look-up found it out
            kind = "label" if isinstance(event_name, str) else "name"
        elif isinstance(error, EventRefusedError):
            kind = error.kind
        elif isinstance(error, SegmentError):
            kind = "segment"
        else:
            kind = _KINDS.get(type(error), type(error).__name__)
        if kind not in self._log_once:
            self._log_once.warning(
                kind,
                "shm_metrics: event %s is not counted: %s (further errors of this kind are suppressed: %s)",
                short_repr(event_name),
                error,
                kind,
            )
        return False


_handlers: weakref.WeakSet[EventHandler] = weakref.WeakSet()


@forks.in_child(forks.STATE)
def _after_fork_in_child() -> None:
    for handler in list(_handlers):
        handler.after_fork()
