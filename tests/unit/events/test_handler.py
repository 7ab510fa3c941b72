"""handle_event: what each event of the table does, and that an event counts whole or not at all."""

from __future__ import annotations

import logging
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from math import inf, nan
from types import MappingProxyType

import numpy as np
import pytest

from shm_metrics import Counter, EventRule, Gauge, Histogram
from shm_metrics.events import counts, observes, sets
from shm_metrics.events.handler import CAPPED, MAX_ENTITIES
from shm_metrics.segment import layout as L
from tests.support.segments import shown


@pytest.fixture
def backend(make_backend):
    return make_backend(rows=8, slots=32_768)


def values(backend) -> dict:
    """Every series' value, or (count, sum)."""
    return {
        key: found.get("value", (found.get("count"), found.get("sum"))) for key, found in backend.all_metrics().items()
    }


def catalog_of(backend) -> bytes:
    """What the segment knows, to the byte: a family or series made in vain would show here."""
    segment = backend._segment
    return repr((segment.get(L.CATALOG_COMMIT_OFFSET), segment.slots_used, values(backend))).encode()


# -- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["started", "completed", "failed", "cancelled"])
def test_the_life_of_anything_is_counted_with_its_labels(backend, ending):
    payload = {"status": "ok", "handler_class": "Mailer", "namespace": "shop", "else": "unseen"}
    assert backend.handle_event(f"task.{ending}", payload) is True
    assert backend.handle_event(f"task.{ending}", payload) is True
    assert backend.handle_event(f"task.{ending}") is True
    assert backend.handle_event(f"task.{ending}", {"status": "ok", "namespace": None}) is True
    assert values(backend) == {
        f'task_{ending}_total{{handler="Mailer",namespace="shop",status="ok"}}': 2.0,
        f"task_{ending}_total": 1.0,
        f'task_{ending}_total{{status="ok"}}': 1.0,
    }


@pytest.mark.parametrize("ending", ["completed", "failed"])
@pytest.mark.parametrize("field", ["duration", "execution_duration"])
def test_a_duration_is_observed(backend, ending, field):
    for duration in (2.5, 0, 1, Decimal("0.5"), Fraction(1, 2), np.float32(0.25), np.int64(1)):
        assert backend.handle_event(f"task.{ending}", {field: duration, "status": "ok"}) is True
    assert values(backend) == {
        f'task_{ending}_total{{status="ok"}}': 7.0,
        'task_duration_seconds{status="ok"}': (7, 5.75),
    }


def test_completed_and_failed_have_one_histogram(backend):
    backend.handle_event("task.completed", {"duration": 1.0, "execution_duration": 7.0})
    backend.handle_event("task.failed", {"duration": "unknown", "execution_duration": 2.0})
    assert values(backend)["task_duration_seconds"] == (2, 3.0)


@pytest.mark.parametrize(
    "duration",
    [None, "2.5", b"1", True, False, np.bool_(True), nan, inf, -inf, -1.0, -1, [1], {}, 1j, 10**400, object()],
)
def test_a_duration_that_is_no_number_of_seconds_is_left_out(backend, duration):
    assert backend.handle_event("task.completed", {"duration": duration}) is True
    assert values(backend) == {"task_completed_total": 1.0}


def test_an_iteration_sets_a_gauge_and_observes_and_zero_is_a_value(backend):
    assert backend.handle_event("workflow.iteration", {"active_task_count": 0, "iteration_duration": 0}) is True
    assert values(backend) == {"workflow_active_tasks": 0.0, "workflow_iteration_duration_seconds": (1, 0.0)}
    assert backend.handle_event("workflow.iteration", {"active_task_count": 3}) is True
    assert values(backend) == {"workflow_active_tasks": 3.0, "workflow_iteration_duration_seconds": (1, 0.0)}


def test_health_sets_two_gauges(backend):
    assert backend.handle_event("system.health", {"healthy_task_count": 5, "failed_task_count": 0}) is True
    assert values(backend) == {"system_healthy_tasks": 5.0, "system_failed_tasks": 0.0}
    assert backend.handle_event("system.health", {"failed_task_count": 2}) is True
    assert values(backend) == {"system_healthy_tasks": 5.0, "system_failed_tasks": 2.0}


@pytest.mark.parametrize("name", ["task.progress", "task", "started", "task.started.late", "TASK.STARTED", "."])
def test_any_other_event_does_nothing(backend, name):
    before = catalog_of(backend)
    assert backend.handle_event(name, {"duration": 1.0}) is True
    assert backend.handle_event(name) is True
    assert catalog_of(backend) == before


def test_any_mapping_is_a_payload(backend):
    for payload in ({}, None, MappingProxyType({"status": "ok"})):
        assert backend.handle_event("task.started", payload) is True
    assert values(backend) == {"task_started_total": 2.0, 'task_started_total{status="ok"}': 1.0}


def test_label_values_are_told_apart_by_their_text(backend):
    class Status(str, Enum):
        OK = "ok"

    class Mailer:
        pass

    for status in (1, 1.0, True, "1", Status.OK, "ok", 1, Status.OK):
        assert backend.handle_event("task.started", {"status": status, "handler_class": Mailer}) is True
    name = Mailer.__qualname__
    assert {dict(pairs)["status"]: value for pairs, value in shown(backend, "task_started").items()} == {
        "1": 3.0,
        "1.0": 1.0,
        "True": 1.0,
        "ok": 3.0,
    }
    assert all(dict(pairs)["handler"] == name for pairs in shown(backend, "task_started"))


# -- whole or not at all ----------------------------------------------------------------------------------------------


class Hostile:
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


BAD_EVENTS = [
    (None, {}),
    (3, {}),
    (["task.started"], {}),
    (b"task.started", {}),
    ("", {}),
    ("task\n.started", {}),
    ("task.started\n", {}),
    ("t" * 201, {}),
    ("\ud800.started", {}),
    (".started", {}),
    ("task.started", [1]),
    ("task.started", "text"),
    ("task.started", 3),
    ("no.rule", [1]),
    ("task.started", {"status": ["unhashable"]}),
    ("task.started", {"status": {}}),
    ("task.started", {"status": "x" * 10_000_000}),
    ("task.started", {"status": "\ud800"}),
    ("task.started", {"status": Hostile()}),
    ("system.health", {"healthy_task_count": 1, "failed_task_count": "many"}),
    ("system.health", {"healthy_task_count": 1, "failed_task_count": True}),
    ("system.health", {"healthy_task_count": 1, "failed_task_count": nan}),
    ("system.health", {"healthy_task_count": 1, "failed_task_count": inf}),
    ("system.health", {"healthy_task_count": 1, "failed_task_count": Hostile()}),
]


@pytest.mark.parametrize(("name", "payload"), BAD_EVENTS, ids=range(len(BAD_EVENTS)))
def test_an_event_that_is_not_valid_is_refused_and_leaves_the_segment_as_it_was(backend, name, payload, caplog):
    backend.handle_event("task.started", {"status": "ok"})
    before = catalog_of(backend)
    with caplog.at_level(logging.WARNING):
        assert backend.handle_event(name, payload) is False
        assert backend.handle_event(name, payload) is False
    assert catalog_of(backend) == before
    assert len(caplog.records) == 1, "told once"
    assert len(caplog.text) < 1_000


@pytest.mark.parametrize("amount", [nan, inf, -1, True, "3", [], -0.5, 10**400])
def test_an_amount_that_a_counter_cannot_take_refuses_the_event(backend, amount):
    backend.event_rules.add(EventRule("cart.paid", [counts("carts_total"), counts("paid_total", "amount")]))
    before = catalog_of(backend)
    assert backend.handle_event("cart.paid", {"amount": amount}) is False
    assert catalog_of(backend) == before
    assert backend.handle_event("cart.paid", {"amount": 2}) is True
    assert backend.handle_event("cart.paid", {}) is True
    assert values(backend) == {"carts_total": 2.0, "paid_total": 2.0}


def test_a_name_that_another_type_has_refuses_the_whole_event(backend):
    Gauge("task_duration_seconds", "", registry=backend).set(1)
    before = catalog_of(backend)
    assert backend.handle_event("task.completed", {"duration": 1.0}) is False
    assert catalog_of(backend) == before, "the counter was not made either"
    assert backend.handle_event("task.completed", {}) is True


def test_a_name_that_belongs_to_another_family_refuses_the_whole_event(backend):
    Counter("task_duration_seconds_sum", "", registry=backend)
    before = catalog_of(backend)
    assert backend.handle_event("task.completed", {"duration": 1.0}) is False
    assert catalog_of(backend) == before


def test_a_rule_whose_own_metrics_clash_refuses_its_events(backend):
    backend.event_rules.add(EventRule("a.b", [counts("x_sum_total"), observes("x", "y"), sets("x_sum", "z")]))
    before = catalog_of(backend)
    assert backend.handle_event("a.b", {"y": 1, "z": 1}) is False
    assert catalog_of(backend) == before


def test_other_buckets_refuse_the_event_and_those_of_a_declared_histogram_are_used_where_a_rule_has_none(backend):
    Histogram("task_duration_seconds", "", buckets=[1, 2], registry=backend)
    assert backend.handle_event("task.completed", {"duration": 1.5}) is True
    assert backend.all_metrics()["task_duration_seconds"]["buckets"] == {"1.0": 0, "2.0": 1, "+Inf": 1}
    backend.event_rules.add(EventRule("task.completed", [observes("task_duration_seconds", "duration")], buckets=[5]))
    before = catalog_of(backend)
    assert backend.handle_event("task.completed", {"duration": 1.5}) is False
    assert catalog_of(backend) == before


def test_each_kind_of_reason_is_told_once(backend, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            backend.handle_event("task.started", [])
            backend.handle_event("a\nb", {})
            backend.handle_event("task.started", {"status": []})
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["payload)", "name)", "label)"]


def test_a_reader_refuses_events(backend, make_backend):
    reader = make_backend(read_only=True)
    assert reader.handle_event("task.started", {}) is False
    assert reader.handle_event("no.rule", {}) is True


# -- rules of one's own -----------------------------------------------------------------------------------------------


def test_a_rule_can_name_any_field_for_labels_and_values(backend):
    rule = EventRule(
        "order.*",
        [counts("orders_total"), counts("cents_total", "cents"), sets("stock", "left"), observes("weight_kg", "kg")],
        {"carrier": "sent_by", "unit": "unit"},
        buckets=[1, 10],
    )
    backend.event_rules.add(rule)
    payload = {"sent_by": "bike", "cents": 250, "left": -3, "kg": 4, "unit": "pcs"}
    assert backend.handle_event("order.shipped", payload) is True
    labels = '{carrier="bike",unit="pcs"}'
    assert values(backend) == {
        f"orders_total{labels}": 1.0,
        f"cents_total{labels}": 250.0,
        f"stock{labels}": -3.0,
        f"weight_kg{labels}": (1, 4.0),
    }
    assert backend.all_metrics()[f"weight_kg{labels}"]["buckets"] == {"1.0": 0, "10.0": 1, "+Inf": 1}


def test_a_changed_rule_counts_from_the_next_event_on(backend):
    backend.handle_event("task.started")
    backend.event_rules.replace("*.started", EventRule("*.started", [counts("begun_total")]))
    backend.handle_event("task.started")
    backend.event_rules.remove("*.started")
    backend.handle_event("task.started")
    assert values(backend) == {"task_started_total": 1.0, "begun_total": 1.0}


def test_a_gauge_may_have_a_mode_and_a_histogram_signed_values(backend):
    effects = [sets("most", "n", multiprocess_mode="max"), observes("offset_seconds", "n", signed=True)]
    backend.event_rules.add(EventRule("a.b", effects))
    assert backend.handle_event("a.b", {"n": -3}) is True
    assert backend.snapshot().family("most").family.mode == "max"
    assert values(backend)["offset_seconds"] == (1, -3.0)


def test_label_values_beyond_the_cap_are_other_and_are_counted(backend):
    backend.event_rules.add(EventRule("user.seen", [counts("seen_total")], ["user"], max_label_values=3))
    for _ in range(2):
        for user in "abcdef":
            assert backend.handle_event("user.seen", {"user": user}) is True
    assert {dict(pairs)["user"]: value for pairs, value in shown(backend, "seen").items()} == {
        "a": 2.0,
        "b": 2.0,
        "c": 2.0,
        "other": 6.0,
    }
    assert backend.counter(CAPPED, rule="user.seen", label="user").value == 6.0


def test_the_cap_is_the_segments_so_that_recycled_workers_do_not_raise_it(make_backend):
    keeps_it = make_backend()
    for generation in range(5):
        worker = make_backend()
        worker.event_rules.add(EventRule("user.seen", [counts("seen_total")], ["user"], max_label_values=3))
        for n in range(2):
            assert worker.handle_event("user.seen", {"user": f"user {generation} {n}"}) is True
        worker.close()
    found = {dict(pairs)["user"]: value for pairs, value in shown(keeps_it, "seen").items()}
    assert found == {"user 0 0": 1.0, "user 0 1": 1.0, "user 1 0": 1.0, "other": 7.0}


def test_what_was_removed_makes_room_under_the_cap(backend, make_backend):
    other = make_backend()
    for each in (backend, other):
        each.event_rules.add(EventRule("user.seen", [counts("seen_total")], ["user"], max_label_values=2))
    for user in "abc":
        backend.handle_event("user.seen", {"user": user})
    other.clear()
    for user in "cde":
        backend.handle_event("user.seen", {"user": user})
    assert {dict(pairs)["user"] for pairs in shown(other, "seen")} == {"c", "d", "other"}


def test_events_that_the_segment_knows_read_no_catalog(backend, make_backend):
    payload = {"status": "success", "duration": 1.0}
    assert backend.handle_event("task.completed", payload) is True
    other = make_backend()
    assert other.handle_event("task.completed", payload) is True
    assert "_cardinality" not in vars(other._events)


def test_label_sets_beyond_the_cap_are_other(backend):
    backend.event_rules.add(EventRule("user.seen", [counts("seen_total")], ["a", "b"], max_label_sets=5))
    for a in range(10):
        for b in range(10):
            assert backend.handle_event("user.seen", {"a": str(a), "b": str(b)}) is True
    found = shown(backend, "seen")
    assert len(found) == 6
    assert found["a", "other"] if ("a", "other") in found else found[(("a", "other"), ("b", "other"))] == 95.0


def test_entities_are_capped_for_they_name_families(backend, make_backend):
    done = [backend.handle_event(f"user{n}.started") for n in range(MAX_ENTITIES + 5)]
    assert done == [True] * MAX_ENTITIES + [False] * 5
    assert len(backend.all_metrics()) == MAX_ENTITIES
    another = make_backend()
    assert another.handle_event("user1.started") is True
    assert another.handle_event("user.started") is False


def test_events_after_clear_count_from_zero_and_zeros_are_shown(backend):
    backend.handle_event("task.started")
    backend.handle_event("workflow.iteration", {"active_task_count": 0})
    backend.clear()
    assert values(backend) == {}
    backend.handle_event("task.started")
    backend.handle_event("workflow.iteration", {"active_task_count": 0})
    assert values(backend) == {"task_started_total": 1.0, "workflow_active_tasks": 0.0}


def test_a_full_segment_takes_events_as_overflow(make_backend):
    backend = make_backend(rows=2, slots=64)
    for n in range(100):
        assert backend.handle_event("task.started", {"status": str(n)}) is True
    assert sum(shown(backend, "task_started").values()) == 100.0


# -- sampled ----------------------------------------------------------------------------------------------------------


def test_a_sampled_event_counts_for_all_it_stands_for_and_is_marked(backend):
    for _ in range(3):
        assert backend.handle_sampled_event("task.completed", {"duration": 2.0, "status": "ok"}, 0.25) is True
    assert backend.handle_sampled_event("task.completed", {"status": "ok"}, 1.0) is True
    assert values(backend) == {
        'task_completed_total{sampling_rate="0.25",status="ok"}': 12.0,
        'task_duration_seconds{sampling_rate="0.25",status="ok"}': (3, 6.0),
        'task_completed_total{status="ok"}': 1.0,
    }
    assert backend.handle_sampled_event("task.completed", {}, 0.0) is False
    assert backend.handle_sampled_event("task.completed", {}, 2.0) is False
