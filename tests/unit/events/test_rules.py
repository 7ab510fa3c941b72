"""The table from events to metrics: what a rule may say, and how the table is changed."""

from __future__ import annotations

import pytest

from shm_metrics import EventRule, InvalidMetricError
from shm_metrics.events import DEFAULT_RULES, Effect, EventRules, counts, observes, sets
from shm_metrics.events.rules import entity_of


@pytest.mark.parametrize(
    ("name", "entity"),
    [
        ("task.started", "task"),
        ("task", "task"),
        ("order.item.started", "order"),
        ("my-task.started", "my_task"),
        ("größe.started", "gr__e"),
        ("a:b.started", "a_b"),
        ("2fa.started", "_2fa"),
        (".started", ""),
        ("", ""),
    ],
)
def test_the_entity_is_the_text_before_the_first_dot_made_valid(name, entity):
    assert entity_of(name) == entity


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("task.started", "*.started"),
        ("a.b.completed", "*.completed"),
        ("workflow.failed", "*.failed"),
        ("workflow.iteration", "workflow.iteration"),
        ("system.health", "system.health"),
        ("task.Started", None),
        ("started", None),
        ("task.progress", None),
    ],
)
def test_the_first_rule_that_matches_is_the_one(name, pattern):
    found = EventRules(DEFAULT_RULES).match(name)
    assert (found and found.pattern) == pattern


def test_a_rule_that_is_added_wins_over_those_before_it():
    rules = EventRules(DEFAULT_RULES)
    mine = EventRule("task.started")
    rules.add(mine)
    assert rules.match("task.started") is mine
    assert rules.match("step.started").pattern == "*.started"
    assert len(rules) == len(DEFAULT_RULES) + 1
    fallback = EventRule("*", [counts("events_total")])
    rules.add(fallback, last=True)
    assert rules.match("step.started").pattern == "*.started"
    assert rules.match("anything") is fallback


def test_a_rule_is_replaced_in_its_place_and_removed():
    changes = []
    rules = EventRules(DEFAULT_RULES, lambda: changes.append(1))
    rules.replace("*.failed", EventRule("*.failed", [counts("failures_total")]))
    assert [rule.pattern for rule in rules] == [rule.pattern for rule in DEFAULT_RULES]
    assert rules.match("task.failed").effects == (counts("failures_total"),)
    rules.remove("*.failed")
    assert rules.match("task.failed") is None
    rules.clear()
    assert list(rules) == []
    assert len(changes) == 3
    with pytest.raises(KeyError, match="no event rule has the pattern 'x'"):
        rules.remove("x")
    with pytest.raises(KeyError):
        rules.replace("x", EventRule("x"))
    with pytest.raises(InvalidMetricError, match="give an EventRule"):
        rules.add("*.started")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"pattern": ""}, "give the name"),
        ({"pattern": 3}, "give the name"),
        ({"effects": ["x_total"]}, "make it with counts"),
        ({"effects": [Effect("timer", "x")]}, "no such kind"),
        ({"effects": [observes("x_seconds")]}, "say which field"),
        ({"effects": [counts("{user}_total")]}, "metric name"),
        ({"effects": [counts("two words")]}, "metric name"),
        ({"effects": [sets("x", "y", multiprocess_mode="most")]}, "most"),
        ({"effects": [counts("x")], "labels": ["not valid"]}, "label name"),
        ({"effects": [counts("x")], "labels": "status"}, "give a list or a mapping"),
        ({"effects": [counts("x")], "labels": {"status": 3}}, "give label -> field"),
        ({"effects": [counts("x")], "labels": ["sampling_rate"]}, "choose another"),
        ({"effects": [observes("x", "y")], "labels": ["le"]}, "reserved"),
        ({"buckets": [2, 1]}, "ascending"),
        ({"max_label_values": 0}, "max_label_values=0"),
        ({"max_label_sets": True}, "max_label_sets=True"),
    ],
)
def test_a_rule_that_could_not_work_is_refused_when_it_is_made(arguments, named):
    with pytest.raises(InvalidMetricError, match=named):
        EventRule(**{"pattern": "a.b", **arguments})


def test_rules_are_plain_data():
    one = EventRule("a.b", [counts("x")], {"a": "b"}, buckets=[1, 2])
    assert one == EventRule("a.b", (counts("x"),), [("a", "b")], buckets=(1.0, 2.0))
    assert hash(one) == hash(EventRule("a.b", (counts("x"),), [("a", "b")], buckets=(1.0, 2.0)))
    assert EventRule("a.b", [counts("x")], ["status"]).labels == (("status", "status"),)
