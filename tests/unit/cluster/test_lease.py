"""A lease's states and deadlines, on a clock that the test moves; with real caches in test_stores.py."""

from __future__ import annotations

import pytest

from shm_metrics.cluster.lease import TRANSITIONS, Lease
from shm_metrics.cluster.stores.protocol import Grant, LeaseRefused
from shm_metrics.errors import LockLostError, SyncError


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Cache:
    """The rules of a cache that grants leases: one holder a scope, until its time is over."""

    def __init__(self, clock):
        self.clock = clock
        self.holder = None
        self.until = 0.0
        self.tokens = 0
        self.down = False
        self.slow = 0.0
        self.calls = []

    def _answers(self, name):
        self.calls.append(name)
        self.clock.now += self.slow
        if self.down:
            raise SyncError("no answer")

    def acquire(self, scope, owner, ttl):
        self._answers("acquire")
        if self.holder is not None and self.clock() < self.until:
            return LeaseRefused(self.until - self.clock())
        self.tokens += 1
        self.holder, self.until = (owner, self.tokens), self.clock() + ttl
        return Grant(scope, owner, self.tokens)

    def renew(self, grant, ttl):
        self._answers("renew")
        if self.holder != (grant.owner, grant.token) or self.clock() >= self.until:
            return False
        self.until = self.clock() + ttl
        return True

    def release(self, grant):
        self._answers("release")
        if self.holder == (grant.owner, grant.token):
            self.holder = None
            return True
        return False


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def cache(clock):
    return Cache(clock)


@pytest.fixture
def contend(cache, clock):
    return lambda owner, ttl=9.0: Lease(cache, "cluster", owner, ttl, now=clock, spread=lambda: 0.0)


def test_the_first_one_gets_it_and_the_second_waits_until_it_runs_out(contend, clock):
    a, b = contend("a"), contend("b")
    assert a.tick()
    assert not b.tick()
    assert b.seconds_to_wait == 3.0  # a third of the time to live: it may be given back before
    clock.now += 3.0
    a.close()  # without a word
    for _ in range(2):
        assert not b.tick()
        clock.now += b.seconds_to_wait
    assert b.tick()
    assert b.grant.token > 1


def test_it_is_renewed_at_a_third_of_its_time_and_not_before(contend, clock, cache):
    lease = contend("a")
    lease.tick()
    clock.now += 2.9
    lease.tick()
    assert cache.calls == ["acquire"]
    clock.now += 0.1
    assert lease.tick()
    assert cache.calls == ["acquire", "renew"]
    clock.now += 8.9
    assert lease.held


def test_without_an_answer_it_is_held_until_its_time_is_over_and_no_longer(contend, clock, cache):
    lease = contend("a")
    lease.tick()
    cache.down = True
    clock.now += 3.0
    with pytest.raises(SyncError):
        lease.tick()
    assert lease.held
    clock.now += 5.9
    assert lease.held
    clock.now += 0.1
    assert not lease.held
    with pytest.raises(LockLostError, match="cluster"):
        lease.grant


def test_a_slow_answer_does_not_make_it_longer(contend, clock, cache):
    cache.slow = 4.0
    lease = contend("a")
    assert lease.tick()
    clock.now += 5.0  # nine seconds after the request was sent, five after the answer
    assert not lease.held


def test_an_answer_that_came_too_late_is_no_lease(contend, clock, cache):
    cache.slow = 10.0
    assert not contend("a").tick()


def test_who_was_stopped_past_its_time_finds_that_it_lost_it(contend, clock):
    a, b = contend("a"), contend("b")
    a.tick()
    clock.now += 20.0  # SIGSTOP ... SIGCONT
    assert b.tick()
    assert not a.held
    assert not a.tick()
    assert b.held
    a.release()
    assert b.tick()


def test_a_write_that_was_refused_ends_it_at_once(contend):
    lease = contend("a")
    lease.tick()
    lease.denied()
    assert not lease.held


def test_a_write_renews_it(contend, clock):
    lease = contend("a")
    lease.tick()
    clock.now += 2.0
    lease.renewed(clock())
    clock.now += 8.5
    assert lease.held


def test_given_back_nobody_has_to_wait(contend):
    a, b = contend("a"), contend("b")
    a.tick()
    a.release()
    assert b.tick()


def test_closed_it_does_nothing_any_more(contend, cache):
    lease = contend("a")
    lease.tick()
    lease.close()
    lease.close()
    assert not lease.tick()
    assert cache.calls == ["acquire"]


def test_what_is_not_in_the_table_is_an_error(contend):
    lease = contend("a")
    with pytest.raises(AssertionError, match="GRANTED in state FREE"):
        lease._to("GRANTED")


def test_every_state_of_the_table_is_known():
    assert {following for events in TRANSITIONS.values() for following in events.values()} <= set(TRANSITIONS)


def test_who_can_only_watch_looks_often_enough_to_be_there_within_a_second(clock):
    """Memcached tells of a renewal only to who looks; what is noticed late is waited for in addition."""

    class Watched:
        seen, since = -1, 0.0

        def acquire(self, scope, owner, ttl):
            renewals = int((min(clock(), dies) - 100.0) / (ttl / 3))
            if renewals != self.seen:
                self.seen, self.since = renewals, clock()
            left = self.since + ttl - clock()
            return LeaseRefused(left, watched=True) if left > 0 else Grant(scope, owner, 1)

    for ttl, spread in [(15.0, 0.0), (15.0, 1.0), (2.0, 0.5), (60.0, 0.9)]:
        clock.now = 100.0
        dies = 100.0 + ttl * 1.9
        lease = Lease(Watched(), "s", "b", ttl, now=clock, spread=lambda spread=spread: spread)
        asked = 0
        while not lease.tick():
            asked += 1
            clock.now += max(0.01, lease.seconds_to_wait)
        last_renewal = 100.0 + int(1.9 * 3) * ttl / 3
        assert clock.now - last_renewal <= ttl + 1.0
        assert asked < 4 * (ttl * 3) + 10


@pytest.mark.parametrize("when", ["asking", "renewing"])
@pytest.mark.parametrize("what", [KeyboardInterrupt, ValueError])
def test_whatever_interrupts_a_request_the_lease_is_asked_for_again(when, what):
    """A signal handler or a greenlet's time-out may raise anything in the middle of a request."""
    clock = Clock()
    cache = Cache(clock)
    lease = Lease(cache, "scope", "one", 30.0, now=clock, spread=lambda: 0.0)
    answers, cache._answers = cache._answers, None
    if when == "renewing":
        cache._answers = answers
        assert lease.tick()
        clock.now += 10

    def interrupted(name):
        raise what

    cache._answers = interrupted
    with pytest.raises(what):
        lease.tick()
    cache._answers = answers
    clock.now += lease.seconds_to_wait
    assert lease.tick()
