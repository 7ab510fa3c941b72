"""What a cache loses, and what a leader cannot have seen: totals stay right, and nobody is taken for gone too soon."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from shm_metrics import MetricsBackend
from shm_metrics.cluster import member
from shm_metrics.cluster.codec import wire
from shm_metrics.cluster.publish_journal import PublishJournal
from shm_metrics.cluster.stores.memcached_records import DIRECTORY_SHARDS
from shm_metrics.cluster.stores.protocol import CLUSTER
from tests.support.cluster_hosts import Hosts

pytestmark = pytest.mark.slow


def lose(host, kind, *names):
    """What an eviction takes, of this namespace: "blob" or "tombstone" by its name, "directory", "retired"."""
    store = host.agent.store
    if hasattr(store, "_ring"):
        names = [str(n) for n in range(DIRECTORY_SHARDS)] if kind == "directory" else names or [""]
        store._ring.delete([store.key(kind, name) for name in names])
    else:
        store._call("DEL", *(store.key("instances" if kind == "directory" else kind, name) for name in names or [""]))


def lose_everything(host, *others):
    """As a flush, but of this namespace: the server is shared."""
    names = [each.agent.member.instance for each in (host, *others)]
    lose(host, "blob", *names)
    lose(host, "directory")
    lose(host, "retired")


def retired(host):
    record = host.agent.store.retired()
    return None if record is None else wire.decode_retired(record)


def look(host, times=1, seconds=30.0, hosts=None):
    """Time passes, and the host looks around after each interval."""
    for _ in range(times):
        hosts.time.jump(seconds)
        host.step()


@contextmanager
def counting(host, name):
    """How often the host asks its store for this."""
    store, asked = host.agent.store, []
    ask = getattr(store, name)
    setattr(store, name, lambda *arguments: asked.append(1) or ask(*arguments))
    yield asked
    setattr(store, name, ask)


def counted(host, orders):
    host.backend.counter("orders").inc(orders)


def pair(hosts, *, ahead=0, **options):
    """A leader, and another host with 5 orders, which it has seen. ahead: seconds that the other's clock is."""
    a = hosts.host(**options)
    a.step()
    b = hosts.host()
    b.agent.member._wall = lambda: time.time() + ahead
    counted(b, 5)
    b.step()
    a.step()
    return a, b


# -- the record -------------------------------------------------------------------------------------------------------


def test_the_record_is_read_once_for_each_change_of_it_however_often_one_looks(hosts):
    a, b = pair(hosts)
    c = hosts.host()
    counted(c, 5)
    c.step()
    b.die()
    with counting(a, "retired") as leader, counting(c, "retired") as other:
        for _ in range(3):
            hosts.time.jump(30)
            a.step()
            c.step()
        assert retired(hosts.host()).version == 1
        for _ in range(5):
            a.step()
            c.step()
            assert (a.total("orders"), c.total("orders")) == (10, 10)
        assert (len(leader), len(other)) == (1, 1)


def test_whoever_has_met_a_record_shows_nothing_less_while_the_cache_has_lost_it(hosts):
    a, b = pair(hosts)
    b.die()
    look(a, 3, hosts=hosts)
    assert retired(a).version == 1
    assert a.total("orders") == 5
    lose(a, "retired")
    assert hosts.host().total("orders") is None
    assert a.total("orders") == 5
    a.step()
    assert hosts.host().total("orders") == 5


def test_a_record_of_which_memcached_has_lost_a_part_is_put_back(memcached, namespace, tmp_path):
    hosts = Hosts(lambda: memcached.url, namespace, tmp_path)
    try:
        a, b = pair(hosts)
        b.die()
        look(a, 3, hosts=hosts)
        store = a.agent.store
        (head,) = store._ring.get([store.key("retired")]).values()
        store._ring.delete([store.key("chunk", f"{head.split()[-1].decode()}:0")])
        assert store.retired_mark() is None
        a.step()
        assert hosts.host().total("orders") == 5
    finally:
        hosts.close()


# -- the directory, and blobs -----------------------------------------------------------------------------------------


def test_who_has_read_before_misses_nobody_when_the_directory_is_lost(hosts):
    a, b = hosts.host(), hosts.host()
    for host in (a, b):
        counted(host, 5)
        host.step()
    assert a.total("orders") == 10
    lose(a, "directory")
    counted(b, 1)
    assert a.total("orders") == 10
    assert b.agent.sync_now()["success"]
    lose(a, "directory")
    assert a.total("orders") == 11, "and it reads what is new"


def test_totals_do_not_fall_for_whoever_has_read_them_while_the_cache_is_empty(hosts):
    a, b = hosts.host(), hosts.host()
    for host in (a, b):
        counted(host, 5)
        host.step()
    assert a.total("orders") == 10
    lose_everything(a, b)
    assert a.total("orders") == 10
    counted(b, 1)
    b.agent.sync_now()
    assert a.total("orders") == 11


def test_what_was_read_once_does_not_count_for_ever(hosts):
    a, b = pair(hosts)
    assert a.total("orders") == 5
    lose_everything(a, b)
    for _ in range(4):  # retention and two intervals, and a leader that would have folded it there is none
        assert a.total("orders") == 5
        hosts.time.jump(30)
    assert a.total("orders") is None
    assert b.agent.member.instance not in dict(a.agent.member._liveness.items())


def test_a_dead_host_that_the_cache_forgot_is_folded_from_the_leaders_copy(hosts):
    a, b = pair(hosts, retention=600.0)
    b.die()
    look(a, 2, hosts=hosts)  # silent for `stale_after`: the leader has a copy, though nobody has asked for a total
    assert retired(a) is None
    lose_everything(a, b)
    assert hosts.host().total("orders") is None
    look(a, 2, hosts=hosts)
    assert list(retired(a).folded) == [b.agent.member.instance]
    assert hosts.host().total("orders") == 5
    look(a, 30, hosts=hosts)
    assert hosts.host().total("orders") == 5
    assert retired(a).version == 1


def test_a_dead_host_whose_entry_in_the_directory_is_lost_is_folded_all_the_same(hosts):
    a, b = pair(hosts)
    b.die()
    lose(a, "directory")
    look(a, 3, hosts=hosts)
    assert list(retired(a).folded) == [b.agent.member.instance]
    assert hosts.host().total("orders") == 5


def test_who_was_folded_from_a_copy_and_lives_counts_on(hosts):
    a, b = pair(hosts, retention=600.0)
    look(a, 2, hosts=hosts)
    lose_everything(a, b)
    look(a, 2, hosts=hosts)
    assert list(retired(a).folded) == [b.agent.member.instance]
    counted(b, 3)
    b.step()
    assert a.total("orders") == hosts.host().total("orders") == 8


def succeed(hosts, host):
    """Another process of the same host, which leads it from here on."""
    heir = hosts.host(host.path)
    lose(host, "lease", host.agent.member.segment_lease.scope)
    host.agent.stop()
    return heir


# -- tombstones ------------------------------------------------------------------------------------------------------


def cut_off(hosts, leader, host):
    """`host` is folded by the leader while it lives."""
    look(leader, 3, hosts=hosts)
    folded = retired(leader).folded[host.agent.member.instance]
    lose(leader, "tomb", f"{host.agent.member.instance}:{folded.sequence}")


def test_a_host_whose_tombstone_was_lost_while_it_was_away_puts_it_back_by_itself(hosts):
    a, b = pair(hosts)
    cut_off(hosts, a, b)
    counted(b, 3)
    b.agent.sync_now()
    assert hosts.host().total("orders") == 5, "until it has looked around"
    b.step()
    for reader in (a, b, hosts.host()):
        assert reader.total("orders") == 8


def test_a_host_whose_tombstone_is_lost_for_good_counts_from_its_return_on(hosts):
    """Its leader is another process than the one that published the tombstone."""
    a, b = pair(hosts)
    cut_off(hosts, a, b)
    heir = succeed(hosts, b)
    counted(heir, 3)
    heir.step()
    assert a.total("orders") == 5
    states = {found.instance: found.state for found in a.agent.view().instances}
    assert states[heir.agent.member.instance] == "unknown"
    look(a, 1, 1.0, hosts=hosts)
    assert retired(a).version == 1, "somebody may still put it back"
    look(a, 1, 1.0, hosts=hosts)
    assert retired(a).version == 2
    counted(heir, 2)
    heir.step()
    for reader in (a, heir, hosts.host()):
        assert reader.total("orders") == 7


def test_a_reader_that_meets_a_second_fold_half_way_counts_it_once(hosts):
    a, b = pair(hosts)
    look(a, 3, hosts=hosts)
    counted(b, 3)
    b.step()
    reader = hosts.host()
    store, asks = reader.agent.store, reader.agent.store.tombstones

    def late(wanted):
        store.tombstones = asks
        look(a, 3, hosts=hosts)  # folds again: the tombstone that was about to be read is removed
        return asks(wanted)

    store.tombstones = late
    assert reader.total("orders") == 8
    assert retired(a).version == 2


def test_a_host_whose_clock_was_set_back_while_it_was_away_is_not_taken_for_folded(hosts):
    a, b = pair(hosts, ahead=3_600)
    look(a, 3, hosts=hosts)
    heir = succeed(hosts, b)  # it does not know of the greater sequences
    counted(heir, 3)
    heir.step()
    assert a.total("orders") == 5
    heir.step()
    assert a.total("orders") == 8


# -- who is silent ----------------------------------------------------------------------------------------------------


def test_nobody_is_taken_for_gone_because_the_cache_did_not_answer_for_an_hour(hosts):
    a, b = pair(hosts)
    hosts.time.jump(3_600)
    a.step()
    assert a.agent.member.cluster_lease.held
    assert retired(a) is None
    b.step()
    look(a, 1, hosts=hosts)
    assert retired(a) is None


def test_who_publishes_in_the_moment_of_its_fold_is_not_folded(hosts):
    a, b = pair(hosts, stale_after=600.0)
    look(a, 1, hosts=hosts)
    store, fetch = a.agent.store, a.agent.store.fetch

    def late(instances):
        store.fetch = fetch
        b.step()
        return fetch(instances)

    store.fetch = late
    look(a, 1, hosts=hosts)
    assert store.fetch == fetch, "nobody was about to be folded"
    assert retired(a) is None


def test_a_blob_that_cannot_be_read_here_is_never_removed(hosts):
    a, b = pair(hosts)
    held = b.agent.member
    a.agent.store.publish(held.segment_lease.grant, held.instance, b"of a later version", held._sequence + 1, 30.0)
    b.die()
    look(a, 6, hosts=hosts)
    assert a.agent.store.fetch([held.instance]) == {held.instance: b"of a later version"}
    assert list(a.agent.member.damaged) == [held.instance]
    lose(a, "blob", held.instance)
    a.total("orders")
    assert a.agent.member.damaged == {}, "what is not there is not damaged"


def test_thousands_that_end_together_are_folded_some_at_a_time(hosts, monkeypatch):
    monkeypatch.setattr(member, "FOLDED_AT_ONCE", 2)
    a, *others = (hosts.host() for _ in range(6))
    a.step()
    for host in others:
        counted(host, 5)
        host.step()
    a.step()
    for host in others:
        host.die()
    sizes = []
    for _ in range(6):
        look(a, 1, hosts=hosts)
        sizes.append(0 if retired(a) is None else len(retired(a).folded))
        assert hosts.host().total("orders") == 25
    assert sizes == [0, 2, 4, 5, 5, 5]


def test_a_host_whose_clock_is_behind_is_not_stale_for_who_has_watched_it(hosts):
    a, b = hosts.host(), hosts.host()
    b.agent.member._wall = lambda: time.time() - 1_000
    b.backend.gauge("in_flight", multiprocess_mode="livesum").set(2)
    b.step()
    assert a.total("in_flight") == 0, "by its own clock it was published long ago"
    b.step()
    assert a.total("in_flight") == 2
    hosts.time.jump(60)
    assert a.total("in_flight") == 0


# -- who was away for longer than anybody remembers -------------------------------------------------------------------


@pytest.fixture
def days(hosts):
    """A cluster whose record forgets after 600 s: hosts whose calendars jump with their clocks."""

    def host(path=None):
        made = hosts.host(path, return_within=600.0)
        made.agent.member._wall = lambda: time.time() + hosts.time.ahead
        return made

    return host


def until_forgotten(hosts, leader, host):
    """`host` is silent, folded, and forgotten."""
    look(leader, 3, hosts=hosts)
    assert host.agent.member.instance in retired(leader).folded
    look(leader, 21, hosts=hosts)
    assert retired(leader).folded == {}


def test_a_host_that_lives_is_never_forgotten_however_long_ago_it_was_folded_once(hosts, days):
    a, b, c = days(), days(), days()
    for host in (a, b, c):
        counted(host, 5)
        host.step()
    for _ in range(3):  # b is cut off for a while
        hosts.time.jump(30)
        a.step()
        c.step()
    assert b.agent.member.instance in retired(a).folded
    for _ in range(24):
        hosts.time.jump(30)
        for host in (a, b, c):
            host.step()
    c.die()
    for _ in range(26):  # c, which is gone for good, is folded and forgotten
        hosts.time.jump(30)
        a.step()
        b.step()
    assert list(retired(a).folded) == [b.agent.member.instance]
    for reader in (a, b, hosts.host()):
        assert reader.total("orders") == 15


def test_a_leader_that_has_just_begun_to_look_forgets_nobody(hosts, days):
    a, b = days(), days()
    counted(b, 5)
    a.step()
    b.step()
    look(a, 3, hosts=hosts)
    counted(b, 1)
    b.step()
    hosts.time.jump(700)
    lose_everything(a, b)  # and b publishes again only after the new leader has looked
    lose(a, "lease", CLUSTER)
    a.die()
    c = days()
    c.agent.member._retired_store = a.agent.member._retired_store
    c.agent.member._retired_store._store = c.agent.store
    look(c, 2, 1.0, hosts=hosts)
    assert b.agent.member.instance in retired(c).folded
    b.step()
    look(c, 3, hosts=hosts)
    assert hosts.host().total("orders") == 6


@pytest.mark.parametrize("who", ["the same process", "another process"])
def test_a_host_that_comes_back_after_it_was_forgotten_counts_once(hosts, days, who):
    a, b = days(), days()
    for host in (a, b):
        counted(host, 5)
        host.backend.histogram("seconds", buckets=[1, 2]).observe(0.5)
        host.backend.gauge("depth", multiprocess_mode="livesum").set(2)
        host.step()
    counted(b, 1)
    until_forgotten(hosts, a, b)
    assert a.total("orders") == 10, "what b has counted since is not known yet"
    counted(b, 3)
    if who == "another process":
        heir = days(b.path)
        lose(b, "lease", b.agent.member.segment_lease.scope)
        b.die()
        b = heir
    for more in (0, 2):
        counted(b, more)
        b.step()
        for reader in (a, b, hosts.host()):
            assert reader.total("orders") == 14 + more
            assert reader.agent.view().family("seconds").values.tolist() == [[2, 0, 0]]
            assert reader.total("depth") == (4 if who == "the same process" else 2), "what only the living show"
    heir = days(b.path)  # whoever leads it next goes on from the same base
    lose(b, "lease", b.agent.member.segment_lease.scope)
    b.die()
    counted(heir, 4)
    heir.step()
    for reader in (a, heir, hosts.host()):
        assert reader.total("orders") == 20
    until_forgotten(hosts, a, heir)  # and a second time
    counted(heir, 1)
    heir.step()
    for reader in (a, heir, hosts.host()):
        assert reader.total("orders") == 21


def test_a_host_that_nobody_forgot_has_no_base_however_long_it_was_away(hosts, days):
    """The others were cut off as long, so nobody was folded; then the cache came back empty."""
    a, b, c = days(), days(), days()
    for host in (a, b, c):
        counted(host, 5)
        host.step()
    c.die()
    for _ in range(3):
        hosts.time.jump(30)
        a.step()
        b.step()
    assert list(retired(a).folded) == [c.agent.member.instance]
    hosts.time.jump(100_000)
    lose_everything(a, b)
    for host in (a, b):
        counted(host, 1)
        host.step()
    for reader in (a, b, hosts.host()):
        assert reader.total("orders") == 17


def test_a_host_that_had_returned_and_is_forgotten_while_its_blob_is_lost_counts_nothing_twice(hosts, days):
    a, b = days(), days()
    counted(b, 5)
    a.step()
    b.step()
    look(a, 3, hosts=hosts)  # 5 are in the record
    counted(b, 3)
    for _ in range(22):
        b.step()
        look(a, 1, hosts=hosts)
    assert a.total("orders") == 8
    lose(a, "lease", CLUSTER)
    lose(a, "blob", b.agent.member.instance)
    lose(a, "directory")
    a.die()
    c = days()
    look(c, 4, hosts=hosts)
    assert retired(c).folded == {}
    counted(b, 2)
    b.step()
    assert hosts.host().total("orders") == 7, "of the 3 nobody has anything any more"


def test_a_file_of_what_was_sent_that_is_damaged_or_of_another_life_is_as_none(hosts, days):
    b = days()
    counted(b, 5)
    b.step()
    file = Path(b.backend.place.sent)
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_bytes()
    for content in (before[:-3], b"", b"SHMSENT1", before.replace(bytes.fromhex(b.agent.member.instance), bytes(16))):
        file.write_bytes(content)
        assert PublishJournal(str(file), b.agent.member.instance).last is None
    file.write_bytes(before)
    assert PublishJournal(str(file), b.agent.member.instance).last is not None
    b.backend.unlink()
    assert not file.exists()


def test_a_directory_that_cannot_be_written_costs_one_warning(hosts, days, caplog):
    b = days()
    counted(b, 5)
    Path(b.backend.place.sent).mkdir()
    for _ in range(2):
        b.step()
    assert b.total("orders") == 5
    assert sum("cannot be written" in record.getMessage() for record in caplog.records) == 1


# -- who only reads ---------------------------------------------------------------------------------------------------


def test_a_process_that_never_publishes_exports_the_cluster(hosts, server, namespace):
    a = hosts.host()
    counted(a, 5)
    a.step()
    reader = MetricsBackend(path=a.path, read_only=True, cache=server.url, namespace=namespace)
    try:
        told = reader.export_distributed_metrics(include_instances=True)
        assert told["distributed"] is True
        assert told["metrics"]["orders_total"]["value"] == 5
        assert list(told["instances"]) == [a.agent.member.instance]
    finally:
        reader.close()
