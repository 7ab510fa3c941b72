"""The fold: an instance that is gone is in the totals exactly once, whatever happens on the way."""

from __future__ import annotations

from math import inf

import pytest

from shm_metrics.cluster.codec import wire
from shm_metrics.cluster.merge.fold import fold, forget, state_of
from shm_metrics.cluster.merge.merge import merge
from shm_metrics.cluster.model.blob import Blob, Folded, Retired
from tests.support.blobs import A, B, C, blob, counter, gauge, histogram, info, pairs, plain, sent, stateset


def kept(retired: Retired) -> Retired:
    return wire.decode_retired(wire.encode_retired(retired))


def total(retired: Retired | None, *blobs: Blob, tombstones=None) -> float | None:
    return merge(blobs, retired, tombstones or {}).value("jobs")


def jobs(value: float, instance: str = A, sequence: int = 1) -> Blob:
    return sent(blob(counter(value=value), instance=instance, sequence=sequence))


def test_a_fold_changes_nothing_that_is_shown_and_a_second_one_nothing_at_all():
    gone, others = jobs(5.0, B), [jobs(7.0, A), jobs(2.0, C)]
    assert total(None, gone, *others) == 14.0
    once = kept(fold(None, gone, None, 9.0, token=4))
    assert (once.version, once.token, once.folded) == (1, 4, {B: Folded(1, 9.0)})
    assert total(once, *others) == 14.0
    assert total(once, gone, *others) == 14.0, "its blob is still there"
    assert fold(once, gone, None, 10.0) is once
    assert total(fold(once, gone, gone, 10.0), *others) == 14.0


def test_totals_of_all_that_ever_were_stay():
    retired = None
    for number in range(50):
        retired = kept(fold(retired, jobs(float(number), f"{number:032x}"), None, 1.0))
    assert total(retired) == sum(range(50))
    assert retired.version == 50
    assert len(retired.folded) == 50


def test_an_instance_that_comes_back_counts_what_it_counted_since():
    before = jobs(5.0, sequence=1)
    retired, tombstones = kept(fold(None, before, None, 1.0)), {A: before}
    after = jobs(8.0, sequence=2)
    assert total(retired, after, tombstones=tombstones) == 8.0
    found = merge([after], retired, tombstones)
    assert [each.state for each in found.instances] == ["returned"]
    again = kept(fold(retired, after, before, 2.0))
    assert total(again) == 8.0
    assert total(again, after, tombstones={A: after}) == 8.0
    assert total(again, jobs(9.5, sequence=3), tombstones={A: after}) == 9.5


def test_a_blob_from_before_the_fold_is_ignored():
    retired = fold(None, jobs(5.0, sequence=7), None, 1.0)
    found = merge([jobs(3.0, sequence=6)], retired, {})
    assert found.value("jobs") == 5.0
    assert [each.state for each in found.instances] == ["folded"]


def test_without_its_tombstone_an_instance_that_came_back_is_not_guessed_at():
    before, after = jobs(5.0, sequence=1), jobs(8.0, sequence=2)
    retired = fold(None, before, None, 1.0)
    for tombstones in ({}, {A: jobs(6.0, sequence=9)}):
        found = merge([after], retired, tombstones)
        assert found.value("jobs") == 5.0
        assert [each.state for each in found.instances] == ["unknown"]
    anew = fold(retired, after, None, 2.0)
    assert total(anew) == 5.0, "nothing is added"
    assert total(anew, jobs(10.0, sequence=3), tombstones={A: after}) == 7.0, "and from here on it counts again"


def test_a_fold_that_died_before_the_record_was_written_has_spoiled_nothing():
    first, second = jobs(5.0, sequence=1), jobs(8.0, sequence=2)
    stored, retired = {(A, 1): first}, fold(None, first, None, 1.0)
    # The next fold writes its tombstone, and its leader is killed: the record in force still finds the one it needs.
    died = fold(retired, second, first, 2.0)
    stored[A, died.folded[A].sequence] = second
    assert total(retired, second, tombstones={A: stored[A, retired.folded[A].sequence]}) == 8.0
    assert total(died, second, tombstones={A: stored[A, died.folded[A].sequence]}) == 8.0


def test_histograms_and_sum_gauges_of_one_that_came_back_count_once():
    def at(count: float, depth: float, sequence: int) -> Blob:
        return sent(blob(histogram([count, 1], count / 2), gauge("sum", depth), sequence=sequence))

    before, after = at(4, 10.0, 1), at(6, 3.0, 2)
    retired = kept(fold(None, before, None, 1.0))
    for found in (merge([after], retired, {A: before}), merge([], kept(fold(retired, after, before, 2.0)), {})):
        assert found.family("seconds").values.tolist() == [[6.0, 1.0]]
        assert found.family("seconds").sums.tolist() == [3.0]
        assert found.value("depth_sum") == 3.0


@pytest.mark.parametrize(
    ("mode", "gone", "here", "expected"),
    [
        ("sum", 3.0, 4.0, 7.0),
        ("min", 3.0, 4.0, 3.0),
        ("max", 9.0, 4.0, 9.0),
        ("mostrecent", 3.0, 4.0, 4.0),
        ("shared", 3.0, 4.0, 4.0),
        ("livesum", 3.0, 4.0, 4.0),
        ("livemin", 3.0, 4.0, 4.0),
        ("livemax", 9.0, 4.0, 4.0),
        ("livemostrecent", 9.0, 4.0, 4.0),
    ],
)
def test_gauges_of_the_gone_go_by_their_mode(mode, gone, here, expected):
    old, new = sent(blob(gauge(mode, gone, stamp=1.0))), sent(blob(gauge(mode, here, stamp=2.0), instance=B))
    retired = kept(fold(None, old, None, 1.0))
    assert merge([new], retired, {}).value(f"depth_{mode}") == expected
    alone = merge([], retired, {}).value(f"depth_{mode}")
    assert alone == (None if mode.startswith("live") else gone)


def test_a_newer_value_of_the_gone_stays_until_somebody_sets_it_again():
    retired = fold(None, sent(blob(gauge("mostrecent", 3.0, stamp=5.0), stateset(1.0, 5.0))), None, 1.0)
    older = sent(blob(gauge("mostrecent", 4.0, stamp=4.0), stateset(0.0, 4.0), instance=B))
    newer = sent(blob(gauge("mostrecent", 4.0, stamp=6.0), stateset(0.0, 6.0), instance=B))
    assert [merge([each], retired, {}).value("depth_mostrecent") for each in (older, newer)] == [3.0, 4.0]
    assert [merge([each], retired, {}).value("light") for each in (older, newer)] == [1.0, 0.0]


@pytest.mark.parametrize("mode", ["all", "liveall"])
def test_gauges_of_each_worker_go_with_their_instance(mode):
    retired = kept(fold(None, sent(blob(gauge(mode, 3.0, labels=pairs(pid="7")))), None, 1.0))
    assert merge([], retired, {}).families == []


def test_what_was_said_last_stays():
    retired = kept(fold(None, sent(blob(info(2.0, version="2"))), None, 1.0))
    retired = kept(fold(retired, sent(blob(info(1.0, version="1"), instance=B)), None, 1.0))
    assert merge([], retired, {}).family("build").labels == (pairs(version="2"),)
    said_since = sent(blob(info(3.0, version="3"), instance=C))
    assert merge([said_since], retired, {}).family("build").labels == (pairs(version="3"),)


def test_a_shared_gauge_that_was_only_moved_is_added_and_of_one_that_came_back_once():
    def moved(value: float, instance: str, sequence: int = 1) -> Blob:
        return sent(blob(gauge("shared", value, stamp=0.0), instance=instance, sequence=sequence))

    before, after, other = moved(5.0, A), moved(6.0, A, 2), moved(1.0, B)
    retired = kept(fold(None, before, None, 1.0))
    assert merge([other], retired, {}).value("depth_shared") == 6.0
    assert merge([other, after], retired, {A: before}).value("depth_shared") == 7.0
    assert merge([other], fold(retired, after, before, 2.0), {}).value("depth_shared") == 7.0


def test_several_definitions_of_a_name_are_kept_apart():
    old, new = sent(blob(histogram([1, 2], 3.0))), sent(blob(histogram([1, 0, 0], 0.25, (0.5, 1.0, inf)), instance=B))
    retired = kept(fold(kept(fold(None, old, None, 1.0)), new, None, 1.0))
    assert len(retired.part.table.families) == 2
    for living, expected in ((blob(histogram([1, 2], 3.0), instance=C), 6.0), (sent(new), 0.25)):
        found = merge([living], retired, {})
        assert found.family("seconds").sums.tolist() == [expected]
        assert len(found.conflicts) == 1


def test_a_series_that_was_removed_before_it_came_back_takes_nothing_away():
    before = sent(blob(counter(more={"a": 5.0, "b": 6.0})))
    after = sent(blob(counter(more={"b": 8.0, "c": 1.0}), sequence=2))
    found = merge([after], fold(None, before, None, 1.0), {A: before})
    assert [found.value("jobs", shop=shop) for shop in "abc"] == [5.0, 8.0, 1.0]


def test_the_table_is_kept_while_no_new_series_come():
    one = fold(None, jobs(1.0), None, 1.0)
    stored = kept(one)
    assert fold(stored, jobs(2.0, B), None, 1.0).part.table is stored.part.table


def test_forgetting_who_was_folded_keeps_the_totals():
    retired = fold(fold(None, jobs(5.0), None, 10.0), jobs(6.0, B), None, 20.0)
    young = kept(forget(retired, 15.0))
    assert (set(young.folded), young.version) == ({B}, retired.version + 1)
    assert total(young) == 11.0
    assert forget(young, 15.0) is young
    assert forget(retired, 15.0, living=[A]) is retired


def test_the_record_tells_up_to_which_sequence_somebody_was_forgotten():
    retired = fold(fold(None, jobs(5.0, sequence=7), None, 10.0), jobs(6.0, B, sequence=5), None, 20.0)
    assert retired.forgotten == 0
    once = kept(forget(retired, 15.0))
    assert once.forgotten == 7
    assert kept(forget(fold(once, jobs(1.0, C, sequence=6), None, 20.0), 25.0)).forgotten == 7


def test_states_are_as_the_table_says():
    retired = fold(None, jobs(5.0, sequence=3), None, 1.0)
    assert state_of(jobs(1.0, B), retired, None) == "counted"
    assert state_of(jobs(1.0), None, None) == "counted"
    assert state_of(jobs(1.0, sequence=3), retired, jobs(5.0, sequence=3)) == "folded"
    assert state_of(jobs(1.0, sequence=4), retired, jobs(5.0, sequence=3)) == "returned"
    assert state_of(jobs(1.0, sequence=4), retired, jobs(5.0, sequence=2)) == "unknown"
    assert state_of(jobs(1.0, sequence=4), retired, None) == "unknown"


def test_the_order_of_folds_makes_no_difference_to_the_last_bit():
    values = [0.1, 1e15, 0.3, 7e-5, 123456.789, 0.7]
    blobs = [jobs(value, f"{number:032x}") for number, value in enumerate(values)]
    expected = total(None, *blobs)
    for first in range(len(blobs)):
        retired, rest = None, blobs[first:] + blobs[:first]
        while rest:
            retired = kept(fold(retired, rest.pop(), None, 1.0))
            assert total(retired, *rest) == expected
    assert plain(merge([], retired, {}).families) == plain(merge(blobs, None, {}).families)
