"""The merge: what the cluster shows of the blobs of all instances."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest

from shm_metrics.cluster.merge.merge import ClusterView, Merger, fold, merge
from shm_metrics.exposition import render_openmetrics, render_text
from shm_metrics.model.families import SUMMARY, Family, FamilySnapshot, SeriesLabels
from tests.support.blobs import A, B, C, blob, counter, gauge, histogram, info, numbers, pairs, sent, stateset


def view(*blobs, retired=None, tombstones=None, **more) -> ClusterView:
    return merge([sent(each) for each in blobs], retired, tombstones or {}, **more)


def test_a_counter_that_was_published_three_times_counts_once():
    published = [blob(counter(value=5.0), sequence=sequence) for sequence in (1, 2, 3)]
    assert view(published[-1]).value("jobs") == 5.0
    assert view(*published).value("jobs") == 5.0
    assert view(*reversed(published)).value("jobs_total") == 5.0


def test_of_two_blobs_of_an_instance_the_later_counts():
    assert view(blob(counter(value=9.0), sequence=8), blob(counter(value=5.0), sequence=7)).value("jobs") == 9.0


def test_counters_add_up():
    found = view(blob(counter(value=7.0)), blob(counter(value=5.0), instance=B))
    assert found.value("jobs") == 12.0
    assert [(each.instance, each.state, each.stale) for each in found.instances] == [
        (B, "counted", False),
        (A, "counted", False),
    ]


def test_an_instance_that_begins_anew_on_the_same_host_adds_to_what_it_was():
    blobs = [blob(counter(value=7.0)), blob(counter(value=5.0), instance=B), blob(counter(value=2.0), instance=C)]
    assert view(*blobs).value("jobs") == 14.0


def test_series_that_only_some_have_are_there_once():
    found = view(
        blob(counter(more={"a": 1.0, "b": 2.0})),
        blob(counter(more={"b": 10.0, "c": 20.0}), counter("errors", 3.0), instance=B),
        blob(counter(more={"c": 100.0}), instance=C),
    )
    assert {each.family.name for each in found.families} == {"jobs", "errors"}
    assert {shop: found.value("jobs", shop=shop) for shop in "abc"} == {"a": 1.0, "b": 12.0, "c": 120.0}
    assert found.value("errors") == 3.0
    assert found.value("jobs", shop="z") is None
    assert found.value("other") is None
    assert found.series == 4


def test_histograms_with_the_same_buckets_add_up_bucket_by_bucket():
    found = view(blob(histogram([1, 2], 3.5)), blob(histogram([10, 20], 0.25), instance=B)).family("seconds")
    assert found.values.tolist() == [[11.0, 22.0]]
    assert found.sums.tolist() == [3.75]


def test_summaries_add_up():
    def summary(count, total):
        return FamilySnapshot(Family("sizes", SUMMARY), SeriesLabels([()]), numbers([count]), numbers([total]))

    found = view(blob(summary(2, 10.0)), blob(summary(3, nan), instance=B)).family("sizes")
    assert found.values.tolist() == [5.0]
    assert np.isnan(found.sums).all()


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("sum", (3.0, 4.0), 7.0),
        ("livesum", (3.0, 4.0), 7.0),
        ("min", (3.0, 4.0), 3.0),
        ("livemin", (4.0, -inf), -inf),
        ("max", (3.0, 4.0), 4.0),
        ("livemax", (inf, 4.0), inf),
        ("mostrecent", (3.0, 4.0), 4.0),
        ("livemostrecent", (9.0, 4.0), 4.0),
        ("shared", (9.0, 4.0), 4.0),
    ],
)
def test_gauges_go_by_their_mode(mode, values, expected):
    older = blob(gauge(mode, values[0], stamp=100.0))
    newer = blob(gauge(mode, values[1], stamp=200.0), instance=B)
    for blobs in ((older, newer), (newer, older)):
        assert view(*blobs).value(f"depth_{mode}") == expected


@pytest.mark.parametrize("mode", ["min", "max", "mostrecent", "shared"])
def test_a_gauge_that_an_instance_never_set_is_not_asked(mode):
    found = view(blob(gauge(mode, 0.0, stamp=0.0)), blob(gauge(mode, 5.0, stamp=1.0), instance=B))
    assert found.value(f"depth_{mode}") == 5.0
    assert view(blob(gauge(mode, 0.0, stamp=0.0))).value(f"depth_{mode}") == 0.0


def test_a_shared_gauge_that_nobody_set_is_the_sum_of_what_all_moved_it():
    moved = [blob(gauge("shared", 3.0, stamp=0.0)), blob(gauge("shared", 4.0, stamp=0.0), instance=B)]
    assert view(*moved).value("depth_shared") == 7.0
    once_set = blob(gauge("shared", 50.0, stamp=9.0), instance=C)
    for blobs in ((*moved, once_set), (once_set, *moved)):
        assert view(*blobs).value("depth_shared") == 50.0


@pytest.mark.parametrize("mode", ["all", "liveall"])
def test_gauges_of_each_worker_are_told_apart_by_their_node(mode):
    own = [gauge(mode, value, labels=pairs(pid="7")) for value in (1.0, 2.0)]
    found = view(blob(own[0], host="web-1"), blob(own[1], host="web-1", instance=B))
    assert found.value(f"depth_{mode}", pid="7", node="web-1:aaaaaaaa") == 1.0
    assert found.value(f"depth_{mode}", pid="7", node="web-1:bbbbbbbb") == 2.0


def test_a_label_node_of_the_application_is_renamed():
    found = view(blob(gauge("all", 1.0, labels=pairs(node="n", pid="7"))))
    assert found.value("depth_all", exported_node="n", pid="7", node="web-1:aaaaaaaa") == 1.0


def test_live_gauges_of_a_stale_instance_are_gone_and_its_counters_are_not():
    modes = ("livesum", "livemin", "livemax", "livemostrecent")
    families = [gauge(mode, 3.0) for mode in modes]
    own = [gauge("liveall", 3.0, labels=pairs(pid="7")), gauge("all", 4.0, labels=pairs(pid="7"))]
    blobs = [blob(*families, *own, counter(value=5.0), gauge("max", 9.0))]
    found = view(*blobs, stale={A})
    assert found.value("jobs") == 5.0
    assert found.value("depth_max") == 9.0
    assert found.value("depth_livesum") == 0.0, "a sum of none is 0"
    assert [found.value(f"depth_{mode}") for mode in modes[1:]] == [None] * 3
    assert found.value("depth_all", pid="7", node="web-1:aaaaaaaa") == 4.0
    assert found.family("depth_liveall").labels == ()
    assert [each.stale for each in found.instances] == [True]
    blobs.append(blob(*[gauge(mode, 2.0, stamp=0.5) for mode in modes], instance=B))
    assert [view(*blobs, stale={A}).value(f"depth_{mode}") for mode in modes] == [2.0] * 4
    assert [view(*blobs).value(f"depth_{mode}") for mode in modes] == [5.0, 2.0, 3.0, 3.0]


def test_of_what_was_said_the_newest_is_shown():
    found = view(
        blob(info(2.0, version="2")),
        blob(info(1.0, version="1"), instance=B),
        blob(info(5.0, pairs(part="x"), version="1"), instance=C),
    ).family("build")
    assert set(found.labels) == {pairs(version="2"), pairs(part="x", version="1")}
    assert found.values.tolist() == [1.0, 1.0]


def test_the_newest_state_is_shown():
    assert view(blob(stateset(1.0, 7.0)), blob(stateset(0.0, 6.0), instance=B)).value("light") == 1.0


# -- definitions that differ -------------------------------------------------------------------------------------------


def test_different_buckets_are_reported_and_not_mixed():
    old = blob(histogram([1, 2], 3.0), instance=A, created_at=100.0)
    others = blob(histogram([5, 6], 7.0), instance=C, created_at=150.0)
    new = blob(histogram([4, 0, 1], 9.0, (0.5, 1.0, inf)), counter(value=1.0), instance=B, created_at=200.0)
    for blobs in ((old, others, new), (new, others, old)):
        found = view(*blobs)
        assert found.family("seconds").values.tolist() == [[4.0, 0.0, 1.0]]
        assert [each.family.name for each in found.families] == ["jobs", "seconds"]
        (conflict,) = found.conflicts
        assert (conflict.name, conflict.shown.bounds, conflict.hidden.bounds) == (
            "seconds",
            (0.5, 1.0, inf),
            (1.0, inf),
        )
        assert (conflict.instances, conflict.series) == (2, 2)


def test_the_newest_incarnations_definition_is_shown_whoever_published_last():
    new = blob(histogram([4, 0, 1], 9.0, (0.5, 1.0, inf)), instance=B, created_at=200.0, published_at=1.0)
    old = blob(histogram([1, 2], 3.0), created_at=100.0, published_at=999.0, sequence=99)
    assert view(old, new).family("seconds").family.bounds == (0.5, 1.0, inf)


@pytest.mark.parametrize(
    "other",
    [gauge("sum", 1.0, name="jobs"), counter(value=1.0, unit="things"), stateset(0.0, 1.0)],
    ids=["type", "unit", "none"],
)
def test_different_types_and_units_are_reported_and_not_mixed(other):
    found = view(blob(counter(value=5.0), created_at=2.0), blob(other, instance=B, created_at=1.0))
    assert found.value("jobs") == 5.0
    assert len(found.conflicts) == (other.family.name == "jobs")


def test_another_documentation_is_no_conflict_and_the_newest_is_shown():
    found = view(
        blob(counter(value=1.0, documentation="old"), created_at=1.0),
        blob(counter(value=2.0, documentation="new"), instance=B, created_at=2.0),
    )
    assert found.value("jobs") == 3.0
    assert found.family("jobs").family.documentation == "new"
    assert found.conflicts == []


def test_a_definition_that_only_retired_instances_had_is_reported_too():
    old = blob(histogram([1, 2], 3.0))
    retired = fold(None, old, None, 1.0)
    found = view(blob(histogram([4, 0, 1], 9.0, (0.5, 1.0, inf)), instance=B), retired=retired)
    assert found.family("seconds").sums.tolist() == [9.0]
    assert [(each.hidden.bounds, each.instances) for each in found.conflicts] == [((1.0, inf), 0)]


# -- as a page ---------------------------------------------------------------------------------------------------------


def test_the_view_can_be_rendered():
    found = view(
        blob(counter(more={"a": 1.0, "b": 2.0}), histogram([1, 2], 3.0), gauge("all", 1.0, labels=pairs(pid="7"))),
        blob(counter(more={"b": 1.0}), info(1.0, version="2"), stateset(1.0, 1.0), instance=B),
    )
    for render in (render_text, render_openmetrics):
        page = render(found.families).decode()
        assert 'jobs_total{shop="b"} 3.0\n' in page
        assert 'seconds_bucket{le="1.0"} 1.0\n' in page
        assert 'depth_all{node="web-1:aaaaaaaa",pid="7"} 1.0\n' in page
        assert 'build_info{version="2"} 1.0\n' in page
        assert 'light{light="green"} 1.0\n' in page


def test_nothing_is_nothing():
    assert view() == ClusterView([], [], [])


def test_a_merger_keeps_what_it_knows_and_is_never_wrong_about_what_changed():
    merger, blobs = Merger(), [sent(blob(counter(more={"a": 1.0, "b": 2.0}), instance=each)) for each in (A, B)]
    first = merger.merge(blobs, None, {})
    blobs[0] = sent(blob(counter(more={"a": 5.0, "b": 2.0}), sequence=2))
    second = merger.merge(blobs, None, {})
    assert second.value("jobs", shop="a") == 6.0
    assert second.family("jobs").labels is first.family("jobs").labels, "a renderer keeps its texts by it"
    blobs[1] = sent(blob(counter(more={"c": 1.0}), histogram([1, 1], 2.0), instance=B, sequence=3))
    third = merger.merge(blobs, None, {})
    assert [third.value("jobs", shop=shop) for shop in "abc"] == [5.0, 2.0, 1.0]
    assert merger.merge(blobs[1:], None, {}).value("jobs", shop="a") is None
