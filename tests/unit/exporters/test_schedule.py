"""Who pushes: one worker of all, the next when it dies, and nothing twice; on real processes and sockets."""

from __future__ import annotations

import gc
import logging
import os
import weakref

import pytest

from shm_metrics import ExportError, InvalidMetricError, MetricsBackend, configure, get_backend
from shm_metrics.default import use_backend
from shm_metrics.exporters import PushSchedule, exporter
from shm_metrics.exporters.pushed_totals import PushedTotals

FAST = 0.02


class Kept:
    """An exporter that keeps what it is asked to send, and fails when told to."""

    def __init__(self):
        self.sent = 0
        self.error = None
        self.backends = []

    def export(self, backend):
        if self.error is not None:
            raise self.error
        self.sent += 1
        self.backends.append(backend.place.path)
        return b"sent"


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def schedule(clock):
    """schedule(backend): one without a thread, on a clock that the test moves."""
    made = []

    def make(backend, interval=10.0):
        made.append(PushSchedule(backend, Kept(), interval, now=clock))
        return made[-1]

    yield make
    for each in made:
        each.stop()


# -- in one process, a step at a time ----------------------------------------------------------------------------------


def test_it_pushes_at_once_and_then_every_interval(backend, schedule, clock):
    one = schedule(backend)
    for seconds, sent in ((0, 1), (9, 1), (1, 2), (5, 2), (35, 3), (1, 3)):
        clock.now += seconds
        assert 0 < one.step() <= 1
        assert one.exporter.sent == one.pushed == sent


def test_of_two_workers_one_pushes_and_the_other_when_that_one_stops(make, schedule):
    a, b = schedule(make()), schedule(make())
    for each in (a, b, a, b):
        each.step()
    assert (a.exporter.sent, b.exporter.sent) == (1, 0)
    a.stop()
    b.step()
    assert b.exporter.sent == 1
    a.step()
    assert a.exporter.sent == 1


def test_whoever_does_not_lead_says_so_when_asked_to_push(make, schedule):
    a, b = schedule(make()), schedule(make())
    assert a.push_now() == b"sent"
    with pytest.raises(ExportError, match="another worker leads, and pushes every 10 s"):
        b.push_now()


def test_a_stop_may_push_once_more(backend, schedule):
    one = schedule(backend)
    one.step()
    one.stop(push=True)
    assert one.exporter.sent == 2


def test_two_schedules_of_one_worker_both_push_and_one_may_stop(make, schedule):
    backend, other = make(), schedule(make())
    a, b = schedule(backend), schedule(backend)
    a.step()
    b.step()
    a.stop()
    b.step()
    other.step()
    assert (a.exporter.sent, b.exporter.sent, other.exporter.sent) == (1, 1, 0)
    b.stop()
    other.step()
    assert other.exporter.sent == 1


def test_who_syncs_without_a_cache_is_no_matter_of_who_pushes(make, schedule):
    workers = [make() for _ in range(3)]
    one, other = schedule(workers[0]), schedule(workers[1])
    one.step()
    for backend in (*workers, *workers):
        report = backend.sync_to_cache()
        assert report["success"], report
    one.stop()
    other.step()
    assert (one.exporter.sent, other.exporter.sent) == (1, 1)


def test_whoever_is_forgotten_leads_no_more(make, schedule):
    backend, other = make(), schedule(make())
    one = PushSchedule(backend, Kept())
    assert one.push_now() == b"sent"
    del one
    gc.collect()
    other.step()
    assert other.exporter.sent == 1


def test_what_fails_is_counted_and_logged_once_until_it_goes_right(backend, schedule, clock, caplog):
    one = schedule(backend)
    one.exporter.error = ExportError("nobody there")
    for _ in range(3):
        one.step()
        clock.now += 10
    assert (one.failed, one.pushed, one.last_error) == (3, 0, "ExportError: nobody there")
    one.exporter.error = None
    one.step()
    assert one.pushed == 1
    assert [record.getMessage() for record in caplog.records] == [
        "shm_metrics: push: ExportError: nobody there; it is tried again, and counting goes on",
        "shm_metrics: push: it works again",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_a_failure_of_the_whole_is_logged_though_a_part_has_always_failed(backend, schedule, clock, caplog):
    one = schedule(backend)
    for error in (ExportError("odd", partly=True), ExportError("odd", partly=True), ExportError("nobody there")):
        one.exporter.error = error
        one.step()
        clock.now += 10
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "shm_metrics: push: ExportError: odd",
        "shm_metrics: push: ExportError: nobody there",
    ]


def test_a_defect_of_an_exporter_does_not_end_the_schedule(backend, schedule, caplog):
    one = schedule(backend)
    one.exporter.error = ZeroDivisionError("division by zero")
    one.step()
    assert one.last_error == "ZeroDivisionError: division by zero"
    assert caplog.records[0].levelno == logging.ERROR


@pytest.mark.parametrize("cache", [None, "redis://127.0.0.1:1/0"])
def test_a_backend_that_is_closed_is_not_pushed(make, schedule, cache, caplog):
    backend = make(cache=cache)
    one = schedule(backend)
    one.step()
    sent = one.exporter.sent
    backend.close()
    one.step()
    one.stop()
    assert (one.exporter.sent, one.failed, one.last_error) == (sent, 0, None)
    assert "sync_agent" not in vars(backend)


@pytest.mark.slow
def test_a_lost_lease_ends_the_pushing_at_once(make, schedule, clock, valkey, namespace):
    backend = make(cache=valkey.url, namespace=namespace, sync_options={"lease_ttl": 30.0})
    one = schedule(backend)
    one.step()
    assert one.exporter.sent == 0  # nobody has asked for the lease
    assert backend.sync_to_cache()["success"]
    one.step()
    assert one.exporter.sent == 1
    backend.sync_agent.member.segment_lease.denied()
    clock.now += 10
    one.step()
    assert one.exporter.sent == 1


@pytest.mark.parametrize("interval", [0, -1, True, "5", float("inf")])
def test_what_is_no_interval_is_refused(backend, interval):
    with pytest.raises(InvalidMetricError, match="interval="):
        PushSchedule(backend, Kept(), interval)


def test_what_cannot_lead_or_is_no_exporter_is_refused(backend, tmp_path):
    with pytest.raises(InvalidMetricError, match="needs a worker's backend"):
        PushSchedule(MetricsBackend(path=tmp_path / "segment", read_only=True), Kept())
    with pytest.raises(InvalidMetricError, match="give an object with export"):
        PushSchedule(backend, "statsd")


# -- the default backend -----------------------------------------------------------------------------------------------


@pytest.fixture
def default(tmp_path, monkeypatch):
    """default(name): configure() on a segment of its own."""
    monkeypatch.setattr(
        "shm_metrics.metrics.default_backend.declared", weakref.WeakValueDictionary()
    )  # what earlier tests left
    made = []

    def make(name, **options):
        made.append(configure(path=tmp_path / name, process_metrics=False, **options))
        return made[-1]

    previous = use_backend(None)
    yield make
    use_backend(previous)
    for backend in made:
        backend.close()


def test_a_schedule_of_the_default_backend_follows_it(default, schedule, clock, make):
    first = default("a")
    one = schedule(first)
    one.step()
    second = default("b")
    one.step()  # at once: nobody knows when the new one was pushed
    assert one.exporter.backends == [first.place.path, second.place.path]
    assert one.leads()
    other = schedule(make(path=second.place.path))
    other.step()
    assert other.exporter.sent == 0
    one.stop()
    other.step()
    assert other.exporter.sent == 1


def test_its_thread_goes_on_with_the_next_one(default, udp):
    default("a")
    schedule = PushSchedule(get_backend(), exporter("statsd", names="orders", **udp.options), FAST).start()
    default("b").counter("orders_total").inc(3)
    udp.until(lambda: udp.counters["orders_total"] == 3)
    schedule.stop()


def test_one_that_begins_after_the_default_was_replaced_begins_with_the_next(default):
    one = PushSchedule(default("a"), Kept(), FAST)
    second = default("b")
    assert one.push_now() == b"sent"
    assert one.exporter.backends == [second.place.path]
    one.stop()


def test_a_schedule_of_another_backend_stays_with_it(default, make, schedule):
    default("a")
    mine = make()
    one = schedule(mine)
    default("b")
    one.step()
    assert one.exporter.backends == [mine.place.path]


def test_a_default_backend_that_cannot_lead_is_told_once(default, make, schedule, caplog):
    one = schedule(default("a"))
    watched = make(path=default("b").place.path)
    default("b", read_only=True)
    for _ in range(3):
        one.step()
    assert one.exporter.sent == 0
    assert ["only a worker's can be pushed" in record.getMessage() for record in caplog.records] == [True]
    watched.close()


# -- real processes ----------------------------------------------------------------------------------------------------


def work(link, path, options, cache):
    """A worker with a schedule, that counts when it is told to."""
    backend = MetricsBackend(path=path, process_metrics=False, **cache)
    schedule = PushSchedule(backend, exporter("statsd", names="orders", **options), FAST).start()
    link.say()
    while True:
        what, number = link.hear()
        if what == "count":
            for _ in range(number):
                backend.counter("orders_total").inc()
            link.say(number)
        elif what == "leads":
            link.say((schedule.leads(), schedule.pushed))


@pytest.fixture
def workers(fork, tmp_path, datagrams):
    """workers(n, **cache): so many processes, each with a schedule."""

    def start(number, **cache):
        started = [fork(work, str(tmp_path / "segment"), datagrams.options, cache) for _ in range(number)]
        for each in started:
            each.hear()
        return started

    return start


def ask(worker, what, number=0):
    worker.say((what, number))
    return worker.hear()


def leader(workers):
    """The one that leads, once there is one; never two."""
    while True:
        found = [each for each in workers if ask(each, "leads")[0]]
        assert len(found) <= 1
        if found:
            return found[0]


@pytest.mark.slow
@pytest.mark.both_builds
@pytest.mark.timeout(180)
def test_leaders_are_killed_one_after_the_other_and_every_count_arrives_once(workers, datagrams):
    alive, counted = workers(4), 0
    while True:
        counted += sum(ask(each, "count", 100) for each in alive)
        datagrams.until(lambda expected=counted: datagrams.counters["orders_total"] >= expected)
        assert datagrams.counters["orders_total"] == counted
        assert sum(ask(each, "leads")[1] > 0 for each in alive) == 1
        first = leader(alive)
        first.kill()
        alive.remove(first)
        if not alive:
            break
    assert counted == 100 * (4 + 3 + 2 + 1)
    assert min(datagrams.deltas) > 0


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_leaders_that_are_killed_while_they_count_and_push_send_nothing_twice(workers, datagrams, tmp_path):
    """What the segment holds is the truth; a push that a leader died in may be missing, and no more may have come."""
    alive = workers(4)
    watcher = MetricsBackend(path=tmp_path / "segment", read_only=True, process_metrics=False)
    while len(alive) > 1:
        first = leader(alive)
        for each in alive:
            each.say(("count", 20_000))
        some = sum(datagrams.counters.values()) + 1
        datagrams.until(lambda some=some: datagrams.counters["orders_total"] >= some)
        first.kill()
        alive.remove(first)
        for each in alive:
            each.hear()
        datagrams.receive()
        assert datagrams.counters["orders_total"] <= watcher.snapshot().value("orders")
    ask(alive[0], "count", 10)
    total = watcher.snapshot().value("orders")
    assert 60_010 < total <= 4 * 20_000 + 3 * 20_000 + 2 * 20_000 + 10
    last = leader(alive)
    before = ask(last, "leads")[1]
    while ask(last, "leads")[1] < before + 2:  # two more pushes: all that is still due was sent
        datagrams.receive()
    datagrams.receive()
    assert total - 3 * 80_000 < datagrams.counters["orders_total"] <= total
    assert min(datagrams.deltas) > 0


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_with_a_cache_the_holder_of_the_lease_pushes_and_its_heir(udp, fork, tmp_path, valkey, namespace):
    cache = {"cache": valkey.url, "namespace": namespace, "sync_interval": 0.2, "sync_options": {"lease_ttl": 1.0}}
    alive = [fork(work, str(tmp_path / "segment"), udp.options, cache) for _ in range(2)]
    for each in alive:
        each.hear()
    counted = sum(ask(each, "count", 100) for each in alive)
    udp.until(lambda: udp.counters["orders_total"] >= counted)
    first = leader(alive)
    first.kill()
    alive.remove(first)
    counted += ask(alive[0], "count", 100)
    udp.until(lambda: udp.counters["orders_total"] >= counted)
    assert udp.counters["orders_total"] == counted
    assert leader(alive) is alive[0]


@pytest.mark.both_builds
def test_a_child_of_fork_has_a_thread_of_its_own_and_pushes_when_its_parent_stops(make, udp, fork):
    backend = make()
    schedule = PushSchedule(backend, exporter("statsd", names="orders", **udp.options), FAST).start()
    backend.counter("orders_total").inc(3)
    udp.until(lambda: udp.counters["orders_total"] == 3)

    def child(link):
        link.say((schedule.running, schedule.leads(), schedule.pushed))
        link.hear()
        backend.counter("orders_total").inc(4)
        link.say()
        link.hear()

    forked = fork(child)
    assert forked.hear() == (True, False, 0)
    schedule.stop()
    assert not schedule.running
    forked.say()
    forked.hear()
    udp.until(lambda: udp.counters["orders_total"] >= 7)
    assert udp.counters["orders_total"] == 7
    forked.say()


@pytest.mark.both_builds
def test_a_child_that_was_forked_in_the_middle_of_a_push_does_not_hold_its_lock(fork, tmp_path):
    """The pusher forks, and is killed: its child lives on, and the lock is free."""
    totals = PushedTotals(str(tmp_path / "state"), 5.0, segment="", shared=False)
    reading, writing = os.pipe()

    def push(link):
        with totals.locked("x"):
            pid = os.fork()
            if pid == 0:
                os.close(writing)
                os.read(reading, 1)  # until the test is over
                os._exit(0)
            link.say(pid)
            link.hear()

    pusher = fork(push)
    grandchild = pusher.hear()
    pusher.kill()
    os.kill(grandchild, 0)
    with totals.locked("x") as kept:
        assert kept == {}
    os.close(reading)
    os.close(writing)


def test_the_thread_ends_when_nobody_has_the_schedule_any_more(make):
    thread = PushSchedule(make(), Kept(), FAST).start()._thread
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()
