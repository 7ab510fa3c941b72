"""Creating, removing and reusing series: the catalog's only author."""

from __future__ import annotations

import os
import threading

import pytest

from shm_metrics.errors import InvalidMetricError
from shm_metrics.model.families import COUNTER, GAUGE, Family
from shm_metrics.segment import layout as L
from shm_metrics.writer.allocator import CatalogBusyError
from tests.support.segments import DEPTH, JOBS, SECONDS, catalog_held, shown
from tests.support.soundness import check_sound

A = (("shop", "a"),)
B = (("shop", "b"),)
OVERFLOW = (("overflow", "true"),)


def series(writer, family=JOBS, labels=A, stamp=100.0):
    place = writer.allocator.family(family, bool(labels), 1e9)
    return writer.allocator.series(family, place, labels, (), 1e9, stamp)


def find(writer, family=JOBS, labels=A):
    return writer.allocator.find(writer.allocator.family(family, bool(labels), 1e9), labels)


def test_all_workers_get_the_same_place_for_the_same_series(make_writer):
    one, other = make_writer(), make_writer()
    assert series(one) == series(other) == series(one)
    assert series(one, labels=B).slot != series(one, labels=A).slot
    assert find(other) == series(one)
    assert find(other, labels=(("shop", "c"),)) is None


def test_a_series_takes_the_slots_that_its_type_needs_and_the_map_says_which(make_writer):
    writer = make_writer()
    for family, codes in (
        (JOBS, [L.SLOT_ADDS]),
        (DEPTH, [*[L.SLOT_STAMP_SHARED, L.SLOT_VALUE] * 2, L.SLOT_STAMP_SHARED, L.SLOT_DELTA]),
        (SECONDS, [L.SLOT_SEQUENCE, *[L.SLOT_BUCKET] * 3, *[L.SLOT_SUM] * 2]),
    ):
        place = series(writer, family, ())
        assert list(writer.segment.codes[place.slot : place.slot + place.slots]) == codes
        assert writer.segment.slots_used == place.slot + place.slots


def test_a_family_with_labels_has_slots_for_its_overflow_from_the_beginning(make_writer):
    writer = make_writer()
    assert writer.allocator.family(JOBS, True, 1e9).overflow is not None
    assert writer.allocator.family(DEPTH, False, 1e9).overflow is None


def test_two_definitions_of_one_name_are_two_families(make_writer):
    writer = make_writer()
    one = writer.allocator.family(Family("x", COUNTER), False, 1e9)
    assert writer.allocator.family(Family("x", GAUGE, mode="sum"), False, 1e9) != one
    assert writer.allocator.family(Family("x", COUNTER, "other words"), False, 1e9) == one


def test_threads_and_workers_that_race_make_each_series_once(make_writer):
    writers = [make_writer(), make_writer()]
    start, found = threading.Barrier(8), []

    def work(writer):
        start.wait(30)
        found.append([series(writer, labels=(("n", str(n)),)) for n in range(100)])

    threads = [threading.Thread(target=work, args=(writers[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 8
    assert all(each == found[0] for each in found)
    assert len({place.slot for place in found[0]}) == 100


def test_what_comes_in_on_top_of_a_creation_in_the_same_thread_is_refused(make_writer):
    """A signal handler, or a __del__: it can neither wait for what it interrupted nor go on in the middle of it."""
    writer = make_writer()
    known = series(writer)

    def on_top():
        assert series(writer) == known, "what is there takes no lock"
        with pytest.raises(CatalogBusyError, match="within a creation"):
            series(writer, labels=B)

    writer.allocator.run_locked(on_top)
    assert series(writer, labels=B)


def test_a_catalog_that_stays_locked_is_busy_and_no_hang(make_writer, monkeypatch):
    one = make_writer()
    known = series(one)
    monkeypatch.setattr("shm_metrics.writer.allocator.CATALOG_SECONDS", 0.01)
    with catalog_held(one.segment):
        assert series(one) == known
        with pytest.raises(CatalogBusyError, match="has been locked"):
            series(one, labels=B)
    assert series(one, labels=B)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("family", [JOBS, DEPTH, SECONDS], ids=lambda family: family.type)
def test_an_author_killed_between_any_two_steps_leaves_nothing_half_made(
    make_writer, make_backend, monkeypatch, family
):
    """Stop an author after the n-th store into the segment, for every n; then another worker does the same work."""
    observer = make_backend(rows=8, slots=2048)
    died = 0
    for n in range(60):
        labels = (("n", str(n)),)
        author = make_writer()
        count = [n // 2]  # every place twice: with a family that is new, and with one that is known
        definition = family if n % 2 else Family(f"{family.name}_{n}", *_rest(family))

        def step(count=count):
            if count[0] == 0:
                raise Killed
            count[0] -= 1

        with monkeypatch.context() as patch:
            _stop_at_each_store(patch, author, step)
            try:
                series(author, definition, labels)
            except Killed:
                died += 1
                lived = False
            else:
                lived = True
        author.close()
        successor = make_writer()
        place = series(successor, definition, labels)
        assert find(successor, definition, labels) == place
        assert labels in shown(observer, definition.name)
        assert observer.snapshot().damaged_records == 0
        successor.close()
        if lived and n > 20:
            break
    assert died > 10
    slots = _slots_of_all(observer)
    assert len(slots) == len(set(slots)), "no slot is served twice"


def _rest(family):
    return family.type, family.documentation, family.unit, family.bounds, family.mode, family.states


def _slots_of_all(backend):
    catalog_view = backend._scraper._reader().refreshed()
    entries = [entry for family in catalog_view.families.values() for entry in family.series.values()]
    return [entry.slot for entry in entries]


def _stop_at_each_store(patch, author, step):
    """Have `step` called before each store of the author into the segment's header, maps, tables, catalog and index."""

    class Watched:
        def __init__(self, view):
            self.view = view

        def __setitem__(self, key, value):
            step()
            self.view[key] = value

        def __getitem__(self, key):
            return self.view[key]

        def __len__(self):
            return len(self.view)

    patch.setattr(author.segment, "words", Watched(author.segment.words))
    patch.setattr(author.segment, "codes", Watched(author.segment.codes))
    allocator = author.allocator
    for holder, name in (
        (allocator.index, "words"),
        (allocator.table, "words"),
        (allocator.table, "doubles"),
        (allocator.removals, "_ring"),
    ):
        patch.setattr(holder, name, Watched(getattr(holder, name)))
    real = author.allocator.catalog.append

    def append(record):
        step()
        return real(record)

    patch.setattr(author.allocator.catalog, "append", append)


@pytest.mark.parametrize("kind", ["creation", "removal"])
def test_a_child_forked_on_top_of_a_call_repeats_it_and_its_parent_goes_on(make_writer, monkeypatch, kind):
    """As by a signal handler that forks, between any two stores: the child returns into its parent's call."""
    forked = 0
    parent = os.getpid()
    for n in range(30):
        labels = (("n", str(n)),)
        writer = make_writer()
        place = series(writer, labels=labels) if kind == "removal" else None
        children, left = [], [n]

        def step(children=children, left=left):
            if left[0] == 0 and not children:
                children.append(os.fork())
            left[0] -= 1

        code = 1
        try:
            with monkeypatch.context() as patch:
                _stop_at_each_store(patch, writer, step)
                if place is None:
                    found = series(writer, labels=labels)
                else:
                    writer.allocator.remove(place, 1e9)
                    found = place
            if os.getpid() != parent:
                there = find(writer, labels=labels)
                code = 0 if there == (found if place is None else None) and writer.allocator.lock.holder is None else 3
        finally:
            if os.getpid() != parent:
                os._exit(code)
        if not children:
            break
        forked += 1
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
        assert find(writer, labels=labels) == (found if place is None else None)
        assert series(make_writer(), labels=labels).slot == found.slot
        check_sound(writer.segment)
        assert not writer.allocator.lock.poisoned
        writer.close()
    assert forked > 3
    assert not children


def test_a_definition_too_large_to_record_takes_no_slots(make_writer):
    writer = make_writer()
    series(writer)
    before = _state(writer)
    wide = Family("wide", "histogram", bounds=tuple(n + 0.123456789 for n in range(9000)))
    with pytest.raises(InvalidMetricError, match="65536"):
        writer.allocator.family(wide, True, 1e9)
    assert _state(writer) == before


def test_labels_too_large_to_record_take_no_slots(make_writer):
    writer = make_writer()
    series(writer)
    before = _state(writer)
    with pytest.raises(InvalidMetricError, match="65536"):
        series(writer, labels=tuple((f"l{n}", "x" * 16_000) for n in range(5)))
    assert _state(writer) == before


def _state(writer):
    segment = writer.segment
    return segment.slots_used, segment.get(L.CATALOG_COMMIT_OFFSET), segment.get(L.INDEX_USED_OFFSET)


# -- removal, revival, reuse ------------------------------------------------------------------------------------------


@pytest.fixture
def worker(make_backend):
    """worker(): one more worker on a segment of a single page of slots."""
    return lambda **options: make_backend(rows=8, slots=512, **options)


def remove(backend, name, **labels):
    backend.families.handles[name].remove(tuple(sorted(labels.items())))


def test_a_removed_series_is_hidden_from_everybody_at_the_next_scrape(worker):
    one, other = worker(), worker()
    one.counter("jobs", shop="a").inc(5)
    one.counter("jobs", shop="b").inc(6)
    assert shown(other, "jobs") == {A: 5.0, B: 6.0}
    remove(other.counter("jobs", shop="b")._handle.backend, "jobs", shop="a")
    assert shown(one, "jobs") == shown(other, "jobs") == {B: 6.0}


@pytest.mark.parametrize("kind", ["counter", "histogram", "summary", "gauge"])
def test_a_removed_series_that_is_added_to_shows_again_from_zero(worker, kind):
    one, other = worker(), worker()
    held, theirs = (getattr(backend, kind)("thing", shop="a") for backend in (one, other))
    add = {"counter": "inc", "gauge": "inc"}.get(kind, "observe")
    getattr(held, add)(5)
    getattr(theirs, add)(2)
    remove(one, "thing", shop="a")
    assert shown(one, "thing") == {}
    getattr(theirs, add)(3)
    expected = 3.0 if add == "inc" else 1.0
    assert shown(one, "thing") == {A: expected}
    if add == "observe":
        assert one.snapshot().family("thing").sums.tolist() == [3.0]


def test_a_removed_series_that_is_asked_for_again_is_there_with_zero(worker):
    one, other = worker(), worker()
    one.counter("jobs", shop="a").inc(5)
    remove(one, "jobs", shop="a")
    again = other.counter("jobs", shop="a")
    assert shown(one, "jobs") == {A: 0.0}
    assert again.value == 0.0
    again.inc(2)
    assert again.value == one.counter("jobs", shop="a").value == 2.0


def test_removing_twice_and_removing_nothing_changes_nothing(worker):
    backend = worker()
    backend.counter("jobs", shop="a").inc(5)
    remove(backend, "jobs", shop="x")
    assert shown(backend, "jobs") == {A: 5.0}
    for _ in range(2):
        remove(backend, "jobs", shop="a")
    assert shown(backend, "jobs") == {}
    assert backend._writer.segment.get(L.GENERATION_OFFSET) == 1


def _killed_after(monkeypatch, author, stores, work):
    """Whether `work` ended, rather than being killed after so many stores."""

    def step(left=[stores]):  # noqa: B006
        if left[0] == 0:
            raise Killed
        left[0] -= 1

    with monkeypatch.context() as patch:
        _stop_at_each_store(patch, author, step)
        try:
            work()
        except Killed:
            return False
    return True


@pytest.mark.parametrize("kind", ["counter", "histogram", "gauge"])
def test_a_remover_killed_between_any_two_steps_has_removed_all_or_nothing(make_writer, worker, monkeypatch, kind):
    observer = worker()
    before, after = [], []
    for stores in range(30):
        labels = {"n": str(stores)}
        pairs = (("n", str(stores)),)
        held = getattr(observer, kind)("thing", **labels)
        update = held.observe if kind == "histogram" else held.inc
        update(5)
        full, once = (1.0, 1.0) if kind == "histogram" else (5.0, 3.0)
        author = make_writer()
        definition = observer.families.handles["thing"].family
        place = series(author, definition, pairs)
        ended = _killed_after(monkeypatch, author, stores, lambda a=author, p=place: a.allocator.remove(p, 1e9))
        author.close()
        found = shown(observer, "thing").get(pairs)
        assert found in (None, full)
        (after if found is None else before).append(stores)
        if ended:
            assert found is None
            break
        successor = make_writer()
        successor.allocator.run_locked(successor.allocator._prepare)
        assert shown(observer, "thing").get(pairs) == found, "a removal is completed, and none is made"
        remove(observer, "thing", **labels)
        update(3)
        for reader in (observer, worker(read_only=True)):
            assert shown(reader, "thing")[pairs] == once
            assert reader.snapshot().damaged_records == 0
        successor.close()
    assert ended
    assert before
    assert len(after) > 2
    assert max(before) < min(after), "there is one store that does it"


@pytest.mark.parametrize("kind", ["counter", "histogram", "gauge"])
def test_a_reuser_killed_between_any_two_steps_leaves_no_slot_to_two_series_and_no_past(
    make_writer, worker, monkeypatch, kind
):
    observer = worker()
    held = getattr(observer, kind)("thing", n="0")
    fill(observer)
    definition = observer.families.handles["thing"].family
    died = 0
    for stores in range(60):
        old, new = str(stores), str(stores + 1)
        (held.observe if kind == "histogram" else held.inc)(5)
        remove(observer, "thing", n=old)
        author = make_writer()
        wanted = (("n", new),)
        ended = _killed_after(monkeypatch, author, stores, lambda a=author, w=wanted: series(a, definition, w))
        author.close()
        died += not ended
        assert all(value == 0.0 for value in shown(observer, "thing").values())
        held = getattr(observer, kind)("thing", n=new)
        assert not held.overflowed
        for reader in (observer, worker(read_only=True)):
            assert shown(reader, "thing") == {wanted: 0.0}
            assert reader.snapshot().damaged_records == 0
        if ended:
            break
    assert ended
    assert died > 8


def fill(backend, name="filler"):
    """Take every slot that is left."""
    n = 0
    while not backend.counter(name, n=n).overflowed:
        n += 1
    return n


def test_when_all_slots_are_used_updates_go_to_the_overflow_and_are_counted(worker, caplog):
    backend = worker()
    backend.counter("jobs", shop="a").inc()
    fill(backend)
    caplog.clear()
    for n in range(5):
        backend.counter("jobs", shop=f"x{n}").inc(2)
    assert shown(backend, "jobs") == {A: 1.0, (("overflow", "true"),): 10.0}
    assert backend.stats()["overflowed_updates"] == 5.0
    assert caplog.text == "", "it was said once, when the first one overflowed"


def test_the_overflow_is_logged_once_with_what_to_do(worker, caplog):
    backend = worker()
    fill(backend)
    fill(backend, "other")
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[1] == "shm_metrics: other: nothing of it is shown until there is room for it"
    assert "all 512 slots are used; make the segment with more slots, or use fewer label values" in told[0]


@pytest.mark.parametrize("kind", ["histogram", "summary", "gauge"])
def test_every_type_overflows_without_an_error(worker, kind):
    backend = worker()
    first = getattr(backend, kind)("thing", shop="a")
    fill(backend)
    lost = getattr(backend, kind)("thing", shop="b")
    update = "inc" if kind == "gauge" else "observe"
    for each in (first, lost, lost):
        getattr(each, update)(3)
    assert shown(backend, "thing")[A] == (3.0 if kind == "gauge" else 1.0)
    assert shown(backend, "thing")[(("overflow", "true"),)] == (6.0 if kind == "gauge" else 2.0)
    assert backend.stats()["overflowed_updates"] == 2.0
    if kind != "gauge":
        with lost.time():
            pass
        assert backend.stats()["overflowed_updates"] == 3.0


def test_a_metric_without_labels_has_nowhere_to_overflow_and_the_application_goes_on(worker):
    backend = worker()
    fill(backend)
    lost = backend.counter("plain")
    lost.inc(3)
    assert lost.value == 0.0
    assert shown(backend, "plain") == {}
    assert backend.stats()["overflowed_updates"] == 1.0


def test_slots_of_a_removed_series_go_to_another_though_a_cell_of_it_is_held(worker):
    first, other = worker(), worker()
    held, theirs = first.counter("jobs", shop="a"), other.counter("jobs", shop="a")
    held.inc(5)
    theirs.inc(6)
    fill(first)
    assert first.counter("jobs", shop="early").overflowed
    remove(first, "jobs", shop="a")
    new = first.counter("jobs", shop="new")
    assert not new.overflowed
    assert shown(other, "jobs") == {(("shop", "new"),): 0.0}
    new.inc(2)
    assert shown(other, "jobs") == {(("shop", "new"),): 2.0}
    assert other.counter("jobs", shop="new").value == 2.0
    held.inc(7)
    theirs.inc(8)
    assert shown(first, "jobs") == {(("shop", "new"),): 2.0, OVERFLOW: 15.0}, "held cells find a place of their own"
    assert held.overflowed
    assert theirs.overflowed
    assert first.stats()["overflowed_updates"] == 2.0
    new.inc()
    assert new.value == 3.0


@pytest.mark.parametrize("kind", ["counter", "histogram", "summary", "gauge"])
def test_a_held_series_that_is_given_the_slots_of_another_loses_no_update(worker, kind):
    """Its own slots went to another series; at its next update it takes those of a third one, which was removed."""
    backend, other = worker(), worker()
    held, third = (getattr(backend, kind)("thing", shop=shop) for shop in "ac")
    update = "inc" if kind in ("counter", "gauge") else "observe"
    getattr(held, update)(5)
    getattr(third, update)(6)
    fill(backend)
    remove(backend, "thing", shop="a")
    getattr(other, kind)("thing", shop="b")
    remove(backend, "thing", shop="c")
    for _ in range(3):
        getattr(held, update)(2)
    once = 3.0 if update == "observe" else 6.0
    assert not held.overflowed
    for reader in (backend, other):
        assert shown(reader, "thing") == {B: 0.0, A: once}
    if update == "observe":
        assert sorted(backend.snapshot().family("thing").sums.tolist()) == [0.0, 6.0]


def test_a_removed_series_in_which_something_was_counted_since_keeps_its_slots(worker):
    first, other = worker(), worker()
    held = first.counter("jobs", shop="a")
    held.inc(5)
    fill(first)
    remove(first, "jobs", shop="a")
    held.inc(1)
    assert other.counter("jobs", shop="new").overflowed
    assert shown(other, "jobs") == {A: 1.0}


def test_a_series_whose_slots_went_to_another_overflows_when_it_comes_back(worker):
    first = worker()
    first.counter("jobs", shop="a").inc(5)
    fill(first)
    remove(first, "jobs", shop="a")
    keeper = worker()
    first.close()
    keeper.counter("jobs", shop="new").inc(2)
    back = keeper.counter("jobs", shop="a")
    assert back.overflowed
    back.inc(7)
    assert shown(keeper, "jobs") == {(("shop", "new"),): 2.0, (("overflow", "true"),): 7.0}


@pytest.mark.parametrize("mode", ["shared", "max", "mostrecent", "livesum"])
def test_a_gauge_in_reused_slots_knows_nothing_of_their_past(worker, mode):
    first = worker()
    first.gauge("depth", multiprocess_mode=mode, shop="a").set(99)
    fill(first)
    remove(first, "depth", shop="a")
    keeper = worker()
    first.close()
    worker().close()  # takes the row over, and folds what was left in it
    series = keeper.gauge("depth", multiprocess_mode=mode, shop="b")
    assert not series.overflowed
    series.set(1)
    assert shown(keeper, "depth") == {B: 1.0}
    assert series.value == 1.0


def test_a_histogram_in_reused_slots_counts_from_zero(worker):
    first = worker()
    for value in (0.5, 7, 8):
        first.histogram("seconds", buckets=[1], shop="a").observe(value)
    fill(first)
    remove(first, "seconds", shop="a")
    keeper = worker()
    first.close()
    series = keeper.histogram("seconds", buckets=[1], shop="b")
    series.observe(0.25)
    found = keeper.snapshot().family("seconds")
    assert (found.labels, found.values.tolist(), found.sums.tolist()) == ((B,), [[1, 0]], [0.25])
    assert (series.count, series.sum) == (1.0, 0.25)


def test_slots_reused_many_times_stay_exact(worker):
    first = worker()
    first.counter("jobs", shop="0").inc(1)
    fill(first)
    for turn in range(1, 30):
        remove(first, "jobs", shop=str(turn - 1))
        successor = worker()
        first.close()
        first = successor
        series = first.counter("jobs", shop=str(turn))
        assert not series.overflowed
        series.inc(turn)
        assert shown(first, "jobs") == {(("shop", str(turn)),): float(turn)}


def test_an_overflowed_series_finds_its_place_once_there_is_one(worker):
    """It is not kept: asked for again, it is looked for again."""
    first, keeper = worker(), worker()
    first.counter("jobs", shop="a").inc()
    fill(first)
    for _ in range(3):
        assert keeper.counter("jobs", shop="new").overflowed
    remove(first, "jobs", shop="a")
    again = keeper.counter("jobs", shop="new")
    assert not again.overflowed
    again.inc()
    assert shown(keeper, "jobs") == {(("shop", "new"),): 1.0}


def test_a_series_that_is_removed_and_asked_for_in_turns_takes_one_slot_and_one_record(worker):
    backend = worker()
    backend.counter("jobs", shop="a").inc()
    before = _state(backend._writer)
    for turn in range(50):
        remove(backend, "jobs", shop="a")
        backend.counter("jobs", shop="a").inc(turn)
        assert shown(backend, "jobs") == {A: float(turn)}
    assert _state(backend._writer) == before


def test_a_full_catalog_is_no_error_for_the_application(worker, caplog):
    backend = worker()
    for n in range(300):
        backend.counter("jobs", shop=f"{n:0200}").inc()
    found = shown(backend, "jobs")
    assert sum(found.values()) == 300.0
    assert found[(("overflow", "true"),)] == backend.stats()["overflowed_updates"] > 0
    assert "catalog of 65536 bytes is full; make the segment with more slots" in caplog.text
