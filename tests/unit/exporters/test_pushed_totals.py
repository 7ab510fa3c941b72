"""Whatever is counted, reset and pushed in whatever order, and wherever a push ends: no delta twice, none below 0."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shm_metrics.exporters.classify import BUCKET, COUNT, SUM, Point, Series
from shm_metrics.exporters.pushed_totals import growth

KEYS = ["bucket", "count", "sum"]
MEANINGS = {"bucket": BUCKET, "count": COUNT, "sum": SUM}

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("observe"), st.integers(0, 5)),
        st.tuples(st.just("reset"), st.booleans()),  # with a new `created`, or not
        st.tuples(st.just("push"), st.integers(0, 3)),  # and so many of its lines are taken
    ),
    max_size=40,
)


@given(STEPS)
def test_every_observation_is_sent_at_most_once_and_without_resets_exactly_once(steps):
    now = dict.fromkeys(KEYS, 0.0)
    counted, sent = dict.fromkeys(KEYS, 0.0), dict.fromkeys(KEYS, 0.0)
    kept, created, reset = {}, 1.0, False

    def push(taken):
        points = [Point(key, (), now[key], MEANINGS[key]) for key in KEYS]
        ready = list(growth(Series((), created, points), kept, KEYS))
        for place, grown, change in ready[:taken]:
            assert grown > 0
            sent[KEYS[place]] += grown
            kept[change[0]] = change[2]

    for what, argument in steps:
        if what == "observe":
            for key, amount in (("bucket", argument % 2), ("count", 1), ("sum", argument)):
                now[key] += amount
                counted[key] += amount
        elif what == "push":
            push(argument)
        else:
            now = dict.fromkeys(KEYS, 0.0)
            reset = True
            created += argument
            if not argument:
                push(0)  # without `created` only a push can see it, by what fell
    push(3)
    assert all(sent[key] <= counted[key] for key in KEYS)
    if not reset:
        assert sent == counted
