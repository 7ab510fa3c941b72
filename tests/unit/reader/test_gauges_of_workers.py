"""Every gauge mode against a table of what several workers' values make, while they live and after one died.

The ten modes of prometheus_client are checked against prometheus_client too, with real processes.
"""

from __future__ import annotations

import json

import pytest

from shm_metrics.model.gauge_modes import MODES
from tests.support.segments import process_id, shown

# Worker 101 sets 10, 102 sets 3, 103 sets EXTREME; then 103 dies; then 104 comes, takes 103's row, and sets nothing.
EXTREME = {"max": 99.0, "livemax": 99.0}
OTHERWISE = -7.0


def by_pid(**values):
    return {(("pid", name[1:]),): value for name, value in values.items()}


# mode: (while all live, after 103 died, after 104 took its row)
EXPECTED = {
    "shared": ({(): -7.0}, {(): -7.0}, {(): -7.0}),
    "all": (
        by_pid(p101=10.0, p102=3.0, p103=-7.0),
        by_pid(p101=10.0, p102=3.0, p103=-7.0),
        by_pid(p101=10.0, p102=3.0),
    ),
    "liveall": (
        by_pid(p101=10.0, p102=3.0, p103=-7.0),
        by_pid(p101=10.0, p102=3.0),
        by_pid(p101=10.0, p102=3.0),
    ),
    "min": ({(): -7.0}, {(): -7.0}, {(): -7.0}),
    "livemin": ({(): -7.0}, {(): 3.0}, {(): 3.0}),
    "max": ({(): 99.0}, {(): 99.0}, {(): 99.0}),
    "livemax": ({(): 99.0}, {(): 10.0}, {(): 10.0}),
    "sum": ({(): 6.0}, {(): 6.0}, {(): 6.0}),
    "livesum": ({(): 6.0}, {(): 13.0}, {(): 13.0}),
    "mostrecent": ({(): -7.0}, {(): -7.0}, {(): -7.0}),
    "livemostrecent": ({(): -7.0}, {(): 3.0}, {(): 3.0}),
}


def test_the_table_has_every_mode():
    assert set(EXPECTED) == set(MODES)


@pytest.fixture
def worker(make_backend):
    def worker(pid):
        with process_id(pid):
            return make_backend(rows=8, slots=2048)

    return worker


def gauge(backend, mode, **labels):
    return backend.gauge("depth", multiprocess_mode=mode, **labels)


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_makes_of_the_workers_what_the_table_says(mode, worker):
    alive, bereft, replaced = EXPECTED[mode]
    scraper = worker(100)
    dying = worker(103)
    for backend, value in ((worker(101), 10.0), (worker(102), 3.0), (dying, EXTREME.get(mode, OTHERWISE))):
        gauge(backend, mode).set(value)
    seen = gauge(scraper, mode)
    assert shown(scraper, "depth") == alive
    assert seen.value == pytest.approx(sum(alive.values()))
    row = dying.row
    dying.close()
    assert shown(scraper, "depth") == bereft
    assert seen.value == pytest.approx(sum(bereft.values()))
    assert worker(104).row == row
    assert shown(scraper, "depth") == replaced
    assert seen.value == pytest.approx(sum(replaced.values()))


THEIRS = """
import json, os, shutil, sys, tempfile
extremes = json.loads(sys.argv[1])
os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory = tempfile.mkdtemp()
from prometheus_client import CollectorRegistry, Gauge, multiprocess

names = {}

def worker(name, values):
    pid = os.fork()
    if not pid:
        for mode, value in values.items():
            Gauge(mode, "", multiprocess_mode=mode, registry=None).set(value)
        os._exit(0)
    os.waitpid(pid, 0)
    names[str(pid)] = name
    return pid

def show():
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    samples = [sample for family in registry.collect() for sample in family.samples]
    print(json.dumps([(s.name, {k: names[v] for k, v in s.labels.items()}, s.value) for s in samples]))

worker("101", dict.fromkeys(extremes, 10.0))
worker("102", dict.fromkeys(extremes, 3.0))
dying = worker("103", extremes)
show()
multiprocess.mark_process_dead(dying)
show()
shutil.rmtree(directory)
"""


def test_the_table_says_what_prometheus_client_says(python):
    theirs = {mode: EXTREME.get(mode, OTHERWISE) for mode in MODES if mode != "shared"}
    for column, line in enumerate(python(THEIRS, json.dumps(theirs)).splitlines()):
        found = {mode: {} for mode in theirs}
        for mode, labels, value in json.loads(line):
            found[mode][tuple(labels.items())] = value
        assert found == {mode: EXPECTED[mode][column] for mode in theirs}
    assert column == 1


@pytest.mark.parametrize("mode", MODES)
def test_before_anybody_set_it_a_gauge_is_zero_or_not_there(mode, worker):
    backend = worker(101)
    assert gauge(backend, mode).value == 0.0
    vanishing = MODES[mode].combine == "each" or (MODES[mode].live and mode != "livesum")
    assert shown(backend, "depth") == ({} if vanishing else {(): 0.0})


@pytest.mark.parametrize("mode", [mode.name for mode in MODES.values() if mode.live])
def test_a_live_gauge_goes_with_its_last_worker(mode, worker):
    scraper, dying = worker(100), worker(101)
    gauge(dying, mode).set(5.0)
    dying.close()
    assert shown(scraper, "depth") == ({(): 0.0} if mode == "livesum" else {})


@pytest.mark.parametrize("mode", [mode.name for mode in MODES.values() if mode.moves])
def test_inc_and_dec_move_a_workers_value(mode, worker):
    backend = worker(101)
    series = gauge(backend, mode)
    series.inc()
    series.inc(4)
    series.dec(2.5)
    series.increment()
    series.decrement(0.5)
    assert series.value == 3.0
    assert list(shown(backend, "depth").values()) == [3.0]


@pytest.mark.parametrize("mode", ["mostrecent", "livemostrecent"])
def test_the_newest_value_cannot_be_counted_up(mode, worker):
    backend = worker(101)
    series = gauge(backend, mode)
    for move in (series.inc, series.dec, series.increment, series.decrement):
        with pytest.raises(ValueError, match=f"depth: inc and dec make no sense with mode {mode}"):
            move()
    assert series.value == 0.0


# -- shared ------------------------------------------------------------------------------------------------------------


def test_a_shared_gauge_is_one_value_that_any_worker_sets_and_moves(worker):
    one, other = worker(101), worker(102)
    mine, theirs = gauge(one, "shared"), gauge(other, "shared")
    mine.set(5)
    theirs.inc(2)
    assert mine.value == theirs.value == 7.0
    theirs.set(1)
    assert mine.value == 1.0
    mine.dec(4)
    mine.inc()
    theirs.inc()
    assert mine.value == theirs.value == -1.0
    mine.set(100)
    assert shown(other, "depth") == {(): 100.0}


def test_a_shared_gauge_outlives_its_workers_with_all_they_moved(worker):
    scraper, first, second = worker(100), worker(101), worker(102)
    gauge(first, "shared").set(10)
    gauge(second, "shared").inc(5)
    first.close()
    second.close()
    assert shown(scraper, "depth") == {(): 15.0}
    successor = worker(103)
    gauge(successor, "shared").dec(1)
    assert shown(scraper, "depth") == {(): 14.0}
    gauge(successor, "shared").set(3)
    assert shown(scraper, "depth") == {(): 3.0}


def test_a_shared_gauge_that_is_only_moved_is_the_sum_of_the_moves(worker):
    one, other = worker(101), worker(102)
    gauge(one, "shared").inc(3)
    gauge(other, "shared").dec(1)
    assert shown(one, "depth") == {(): 2.0}


def test_the_default_mode_is_shared(make_backend):
    one, other = make_backend(), make_backend()
    one.gauge("g").set(1)
    other.gauge("g").inc()
    assert shown(one, "g") == {(): 2.0}


# -- an earlier life -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_removed_gauge_comes_back_without_its_past(mode, worker):
    one, other = worker(101), worker(102)
    for backend in (one, other):
        gauge(backend, mode, shop="a").set(9.0)
    handle = one.families.handles["depth"]
    handle.remove((("shop", "a"),))
    assert shown(other, "depth") == {}
    gauge(one, mode, shop="a").set(2.0)
    assert list(shown(other, "depth").values()) == [2.0]
