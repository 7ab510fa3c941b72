"""Whatever names, labels and values come: a clear error, or False through handle_event, and the segment as it was.

What is taken is shown, and as what it was given.
"""

from __future__ import annotations

import math
import os
import secrets

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shm_metrics import InvalidMetricError, MetricConflictError, MetricsBackend
from shm_metrics.events.rules import entity_of
from shm_metrics.segment import layout as L
from shm_metrics.segment.location import SegmentLocation

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary(max_size=8)
    | st.decimals()
    | st.complex_numbers()
    | st.text(st.characters(codec=None, categories=["Cs", "Cc"]), max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2) | st.tuples(inner)
    ),
    max_leaves=4,
)
names = st.text() | st.from_regex(r"[a-z\-é0-9]{1,8}\.(started|completed|failed|cancelled)", fullmatch=True) | anything
fields = st.sampled_from(["duration", "execution_duration", "status", "handler_class", "namespace", "x"])
payloads = st.dictionaries(fields, anything, max_size=4) | anything
many = settings(
    max_examples=settings.default.max_examples * 3 // 2,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def backend():
    name = f"test-{os.getpid()}-{secrets.token_hex(4)}-any"
    backend = MetricsBackend(name, rows=4, slots=131_072)
    yield backend
    backend.close()
    SegmentLocation.named(name, os.geteuid()).unlink()


def state(backend):
    """Everything the segment says, and how much of it there is."""
    segment = backend._segment
    values = {
        key: (each.get("value"), each.get("count"), each.get("sum")) for key, each in backend.all_metrics().items()
    }
    return segment.get(L.CATALOG_COMMIT_OFFSET), segment.slots_used, repr(values)


@many
@given(names, payloads)
def test_an_event_is_counted_or_refused_and_never_raises(backend, name, payload):
    before = state(backend)
    taken = backend.handle_event(name, payload)
    assert taken in (True, False)
    if not taken:
        assert state(backend) == before


@many
@given(st.text(st.characters(codec="utf-8"), max_size=20), st.floats(0, 1e100) | st.integers(0, 2**60))
def test_a_valid_event_is_shown_as_it_was_given(backend, status, duration):
    labels = {"status": status}
    before = backend.counter("task_completed_total", **labels).value
    seconds = backend.histogram("task_duration_seconds", **labels)
    observed = seconds.count
    assert backend.handle_event("task.completed", {"status": status, "duration": duration}) is True
    assert backend.counter("task_completed_total", **labels).value == before + 1
    assert seconds.count == observed + 1


@many
@given(st.text(max_size=30))
def test_an_entity_is_a_valid_part_of_a_name_or_nothing(name):
    entity = entity_of(name)
    assert entity == "" or (entity + "_total").isidentifier()
    assert entity_of(entity) == entity


@many
@given(anything)
def test_an_amount_is_counted_or_refused(backend, amount):
    counter = backend.counter("amounts_total")
    before = counter.value
    try:
        counter.inc(amount)
    except InvalidMetricError:
        assert counter.value == before
    else:
        assert not isinstance(amount, bool)
        assert math.isfinite(amount)
        assert amount >= 0
        counter.reset()


@many
@given(anything)
def test_an_observation_is_counted_or_refused(backend, value):
    histogram = backend.histogram("observed")
    before = histogram.count
    try:
        histogram.observe(value)
    except InvalidMetricError:
        assert histogram.count == before
    else:
        assert not isinstance(value, bool)
        assert histogram.count == before + 1


@many
@given(st.text(max_size=10) | anything, anything)
def test_a_name_and_a_label_value_are_taken_or_refused(backend, name, value):
    before = state(backend)
    try:
        series = backend.counter(name, label=value)
    except (InvalidMetricError, MetricConflictError):
        assert state(backend) == before
    else:
        series.inc()
        assert series.value >= 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda backend: backend.gauge("taken_total"),
        lambda backend: backend.gauge("taken"),
        lambda backend: backend.histogram("bucketed", buckets=[1, 3]),
        lambda backend: backend.counter("taken_total").inc(math.nan),
        lambda backend: backend.counter("taken_total").inc(math.inf),
        lambda backend: backend.counter("taken_total").inc(True),
        lambda backend: backend.counter("taken_total").inc(-1),
        lambda backend: backend.histogram("bucketed").observe(math.nan),
        lambda backend: backend.histogram("bucketed").observe(True),
        lambda backend: backend.gauge("level").set(False),
        lambda backend: backend.counter("new", label="x" * 10_000_000),
        lambda backend: backend.counter("new\n"),
        lambda backend: backend.counter("new", **{"label\n": "x"}),
        lambda backend: backend.counter("new", label=["unhashable"]),
        lambda backend: backend.counter("new", label={}),
    ],
    ids=range(15),
)
def test_what_cannot_be_recorded_is_a_clear_error_and_changes_nothing(make_backend, wrong):
    backend = make_backend(rows=4, slots=8_192)
    backend.counter("taken_total").inc()
    backend.histogram("bucketed", buckets=[1, 2]).observe(1)
    backend.gauge("level").set(1)
    before = state(backend)
    with pytest.raises((InvalidMetricError, MetricConflictError)) as raised:
        wrong(backend)
    assert 10 < len(str(raised.value)) < 300
    assert state(backend) == before
