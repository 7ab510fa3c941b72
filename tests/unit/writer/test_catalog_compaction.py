"""A catalog that is full of the dead is copied without them: nothing that lives is lost, and all workers follow."""

from __future__ import annotations

import pytest

from shm_metrics.segment import layout as L
from shm_metrics.segment.catalog import Catalog
from shm_metrics.segment.removals import EVERY_SLOT, Removals
from shm_metrics.writer.allocator import Allocator
from tests.support.segments import shown
from tests.support.soundness import check_sound

OVERFLOW = (("overflow", "true"),)


@pytest.fixture
def worker(make_backend):
    """worker(): one more worker on a segment of 512 slots, whose catalog has room for some 700 records."""
    return lambda **options: make_backend(rows=4, slots=512, **options)


def remove(backend, name, **labels):
    backend.families.handles[name].remove(tuple(sorted(labels.items())))


def switches(backend):
    return backend._writer.allocator.catalog.switches


def churn(backend, start, stop, name="churn"):
    """Label sets that come and go, one at a time."""
    for n in range(start, stop):
        backend.counter(name, n=n).inc(n)
        remove(backend, name, n=str(n))


def copied(backend):
    """Churn until the catalog was copied once more; how many label sets that took."""
    before, n = switches(backend), 0
    while switches(backend) == before:
        churn(backend, n, n + 1, f"churn_{before}")
        n += 1
        assert n < 5_000
    return n


class Killed(BaseException):
    pass


def test_five_thousand_label_sets_go_through_512_slots_without_overflow_and_with_right_totals(worker, caplog):
    backend, other = worker(), worker()
    kept = [backend.counter("jobs", n=n) for n in range(20)]
    theirs = other.histogram("seconds", buckets=[1], n=0)
    for n in range(5_000):
        series = (backend, other)[n % 2].counter("churn", n=n)
        assert not series.overflowed
        series.inc(n + 1)
        kept[n % 20].inc()
        theirs.observe(n % 2 * 2)
        if n % 100 == 0:
            assert shown((other, backend)[n % 2], "churn") == {(("n", str(n)),): n + 1.0}
            assert series.value == n + 1.0
        backend.counter("churn", n="x")  # so that both have a handle
        other.counter("churn", n="x")
        remove((backend, other)[n // 2 % 2], "churn", n=str(n))
        remove(backend, "churn", n="x")
    for reader in (backend, other, worker(read_only=True)):
        assert shown(reader, "jobs") == {(("n", str(n)),): 250.0 for n in range(20)}
        assert shown(reader, "churn") == {}
        seconds = reader.snapshot().family("seconds")
        assert (seconds.values.tolist(), seconds.sums.tolist()) == ([[2500.0, 2500.0]], [5000.0])
        assert reader.stats()["overflowed_updates"] == reader.stats()["damaged_records"] == 0
    assert switches(backend) >= 5
    assert caplog.text == ""


def test_five_hundred_series_at_once_come_and_go_without_overflow_and_with_right_totals(worker):
    backend = worker()
    total = 0
    for turn in range(12):
        for n in range(440):
            series = backend.counter("jobs", turn=turn, n=n)
            assert not series.overflowed
            series.inc(n)
            total += 1
        assert sum(shown(backend, "jobs").values()) == 440 * 439 / 2
        backend.families.handles["jobs"].clear()
        assert shown(backend, "jobs") == {}
    assert total > 5_000
    assert backend.stats()["overflowed_updates"] == 0
    assert switches(backend) >= 5


def test_a_copy_keeps_what_lives_and_what_was_removed_and_counts_again(worker):
    backend, other = worker(), worker()
    live, removed = backend.counter("jobs", shop="live"), other.counter("jobs", shop="removed")
    live.inc(5)
    removed.inc(7)
    backend.counter("jobs", shop="removed")
    remove(backend, "jobs", shop="removed")
    removed.inc(2)
    for turn in range(3):
        copied(backend)
        assert switches(backend) == turn + 1
        expected = {(("shop", "live"),): 5.0 + turn, (("shop", "removed"),): 2.0 + turn}
        for reader in (backend, other, worker(read_only=True)):
            assert shown(reader, "jobs") == expected
        assert live.value == 5.0 + turn
        assert other.counter("jobs", shop="live").value == 5.0 + turn
        live.inc()
        removed.inc()
        assert other.snapshot().damaged_records == 0


def test_readers_and_the_index_of_another_worker_follow_a_copy_though_all_offsets_change(worker):
    backend, other = worker(), worker()
    churn(backend, 0, 10)  # so that something is left out before what is kept
    for n in range(30):
        backend.counter("jobs", n=n).inc(n)
    reader = worker(read_only=True)
    before = shown(reader, "jobs")
    index = other._writer.allocator.index
    offsets = {record.key: offset for offset, record, _ in index.catalog.scan(0) if record.key[:1] == b"S"}
    copied(backend)
    after = {record.key: offset for offset, record, _ in index.catalog.scan(0) if record.key[:1] == b"S"}
    same = [key for key in after if key in offsets]
    assert len(same) >= 30
    assert all(after[key] < offsets[key] for key in same)
    assert {key: index.find(key, index.hash(key)) for key in after} == after
    assert shown(reader, "jobs") == shown(other, "jobs") == before
    for n in range(30):
        other.counter("jobs", n=n).inc(100)
    assert shown(reader, "jobs") == {labels: value + 100 for labels, value in before.items()}
    assert other._writer.segment.get(L.INDEX_SWITCHES_OFFSET) == 1
    check_sound(backend._writer.segment)


def test_a_cell_of_a_series_that_was_left_out_finds_a_place_of_its_own(worker):
    backend, other = worker(), worker()
    held, theirs = backend.counter("jobs", shop="a"), other.counter("jobs", shop="a")
    held.inc(5)
    theirs.inc(6)
    remove(backend, "jobs", shop="a")
    copied(backend)
    keys = [record.key for _, record, _ in backend._writer.allocator.catalog.scan(0)]
    assert not any(b"shop\xffa" in key for key in keys), "nobody had counted in it since it was removed"
    stranger = other.counter("jobs", shop="b")
    stranger.inc(1)
    held.inc(2)
    theirs.inc(3)
    for reader in (backend, other):
        assert shown(reader, "jobs") == {(("shop", "b"),): 1.0, (("shop", "a"),): 5.0}
    assert held.value == theirs.value == 5.0
    assert backend.stats()["overflowed_updates"] == 0


@pytest.mark.parametrize("where", ["copy", "_append"])
def test_a_copier_that_is_killed_before_the_switch_leaves_all_as_it_was(worker, monkeypatch, where):
    backend, other = worker(), worker()
    for n in range(20):
        backend.counter("jobs", n=n).inc(n)
    before = {(("n", str(n)),): float(n) for n in range(20)}
    removed = other.counter("churn_0", n="held")
    removed.inc(9)
    backend.counter("churn_0", n="held")
    remove(backend, "churn_0", n="held")
    real, killed = getattr(Catalog, where), []

    def die(self, *args):
        if where == "copy" or args[1] != self.switches & 1:
            killed.append(1)
            raise Killed
        return real(self, *args)

    monkeypatch.setattr(Catalog, where, die)
    with pytest.raises(Killed):
        copied(backend)
    monkeypatch.undo()
    assert killed
    assert switches(backend) == 0
    reader = worker(read_only=True)
    assert shown(reader, "jobs") == shown(other, "jobs") == before
    assert reader.snapshot().damaged_records == 0
    other.counter("jobs", n="next").inc()
    assert switches(backend) == 1, "the next holder of the lock begins again"
    for each in (backend, other, reader):
        assert shown(each, "jobs") == {**before, (("n", "next"),): 1.0}
        assert each.snapshot().damaged_records == 0
    removed.inc(2)
    assert shown(reader, "churn_0")[(("n", "held"),)] == 2.0
    check_sound(backend._writer.segment)


def test_a_copier_killed_right_after_the_switch_leaves_an_index_to_rebuild(worker, monkeypatch):
    backend, other = worker(), worker()
    for n in range(20):
        backend.counter("jobs", n=n).inc(n)
    real = Catalog.copy

    def die(self, wanted):
        real(self, wanted)
        raise Killed

    monkeypatch.setattr(Catalog, "copy", die)
    with pytest.raises(Killed):
        copied(backend)
    monkeypatch.undo()
    assert switches(backend) == 1
    expected = {(("n", str(n)),): float(n) for n in range(20)}
    assert shown(other, "jobs") == shown(worker(read_only=True), "jobs") == expected
    other.counter("jobs", n=3).inc()
    assert shown(backend, "jobs") == {**expected, (("n", "3"),): 4.0}
    check_sound(backend._writer.segment)


def test_a_catalog_full_of_the_living_is_not_copied_again_and_again(worker, monkeypatch):
    backend = worker()
    looked = []
    real = Allocator._make_room
    monkeypatch.setattr(Allocator, "_make_room", lambda self: (looked.append(1), real(self))[1])
    for n in range(300):
        backend.counter("jobs", shop=f"{n:0200}").inc()
    assert switches(backend) == 0
    assert len(looked) < 10
    found = shown(backend, "jobs")
    assert sum(found.values()) == 300.0
    assert found[OVERFLOW] == backend.stats()["overflowed_updates"] > 0


def test_what_a_held_cell_counts_between_a_killed_copy_and_the_next_one_is_not_lost(worker, monkeypatch):
    backend, other = worker(), worker()
    held = other.counter("jobs", shop="held")
    held.inc(9)
    backend.counter("jobs", shop="held")
    remove(backend, "jobs", shop="held")
    real = Removals.note

    def die(self, generation, slot, reused):
        if slot == EVERY_SLOT:
            raise Killed
        real(self, generation, slot, reused)

    monkeypatch.setattr(Removals, "note", die)
    with pytest.raises(Killed):
        copied(backend)
    monkeypatch.undo()
    held.inc(2)
    backend.counter("jobs", shop="next").inc()
    assert switches(backend) == 1
    held.inc(1)
    expected = {(("shop", "held"),): 3.0, (("shop", "next"),): 1.0}
    for reader in (backend, other, worker(read_only=True)):
        assert shown(reader, "jobs") == expected
    check_sound(backend._writer.segment)
