"""What was seen of the instances, on a clock that the test moves."""

from __future__ import annotations

from shm_metrics.cluster.liveness import Liveness
from shm_metrics.cluster.model.blob import Folded
from tests.support.blobs import A, B, blob, counter


def of(instance, sequence):
    return blob(counter(value=1.0), instance=instance, sequence=sequence)


def test_silence_is_what_was_watched_and_at_most_an_interval_a_look():
    seen = Liveness(10.0)
    for at in (0.0, 10.0, 15.0):
        seen.observe({A: 1}, at)
    assert seen.get(A).silent == 15.0
    seen.observe({A: 1}, 3_600.0)
    assert seen.get(A).silent == 25.0
    seen.observe({A: 2}, 3_610.0)
    assert seen.get(A).silent == 0.0


def test_a_change_counts_as_watched_only_if_one_looked_often_enough():
    seen = Liveness(10.0)
    seen.observe({A: 1}, 0.0)
    assert not seen.get(A).watched, "nobody knows how old it is"
    seen.observe({A: 2}, 20.0)
    assert seen.get(A).watched
    seen.observe({A: 3}, 41.0)
    assert not seen.get(A).watched


def test_a_copy_stands_in_only_for_what_is_not_there():
    seen = Liveness(10.0)
    seen.observe({A: 1, B: 1}, 0.0)
    seen.keep([of(A, 1), of(B, 1)])
    assert seen.copies() == {}
    seen.observe({A: 2}, 10.0)
    assert {name: copy.sequence for name, copy in seen.copies().items()} == {B: 1}


def test_who_is_in_the_record_as_far_as_the_copy_goes_is_dropped_when_it_is_not_there():
    seen = Liveness(10.0)
    seen.observe({A: 5, B: 5}, 0.0)
    seen.keep([of(A, 4), of(B, 5)])
    seen.drop_folded({A: Folded(4, 1.0), B: Folded(4, 1.0)})
    assert [name for name, _ in seen.items()] == [A, B]
    seen.observe({}, 10.0)
    seen.drop_folded({A: Folded(4, 1.0), B: Folded(4, 1.0)})
    assert [name for name, _ in seen.items()] == [B], "what it has published since is in nothing but the copy"


def test_who_is_lost_is_dropped_after_silence_or_absence():
    seen = Liveness(10.0)
    seen.observe({A: 1}, 0.0)
    seen.observe({}, 10.0)
    seen.drop_lost(20.0, 1_000.0)
    assert seen.get(A) is not None
    seen.observe({}, 20.0)
    seen.drop_lost(20.0, 1_000.0)
    assert seen.get(A) is None
    seen.observe({A: 1}, 30.0)
    seen.observe({}, 1_030.0)
    seen.drop_lost(20.0, 1_000.0)
    assert seen.get(A) is None, "so long that the record may have forgotten it since"
