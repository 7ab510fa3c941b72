"""The Memcached store on real servers, and on broken ways to them: keys, chunks, eviction, fences, several servers."""

from __future__ import annotations

import gc
import os
import subprocess
import time
from contextlib import closing

import pytest
from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient
from pymemcache.client.retrying import RetryingClient

from shm_metrics.cluster.store_factory import open_store
from shm_metrics.cluster.stores.memcached_records import DIRECTORY_SHARDS, Head, LeaseRecord, Names, shard_of
from shm_metrics.cluster.stores.protocol import CLUSTER, Grant, LeaseRefused, segment_scope
from shm_metrics.errors import InvalidMetricError, LockLostError, SyncError
from tests.support.cache_kinds import INSTANCE, OTHER, SCOPE, TTL, Clock, exercise
from tests.support.cache_servers import HOST, program
from tests.support.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture
def make_store(namespace):
    made = []

    def make(cache, *, clock=None, **options):
        store = open_store(cache, **{"namespace": namespace, "segment": None, **options})
        if clock is not None:
            store._clock = clock
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


def through(*proxies):
    return "memcached://" + ",".join(f"{HOST}:{proxy.port}" for proxy in proxies)


# -- keys -------------------------------------------------------------------------------------------------------------

NAMESPACES = ["shop", "a b\r\nc", "é\U0001f600" * 100, "x" * 300, "\0", "~" + "0" * 32, "a" * 80, "a" * 81]


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_any_namespace_makes_keys_that_memcached_takes(namespace, memcached, make_store):
    store = make_store(memcached.url, namespace=namespace)
    grant = store.acquire(SCOPE, "one", TTL)
    store.publish(grant, INSTANCE, b"blob", time.time_ns(), TTL)
    assert store.fetch([INSTANCE]) == {INSTANCE: b"blob"}
    assert store.release(grant)


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("item", [INSTANCE, SCOPE, "é" * 500, f"{INSTANCE}:{2**64 - 1}", "a b"])
def test_keys_are_short_and_printable(namespace, item):
    for kind in ("lease", "fence", "blob", "directory", "chunk", "retired", "tomb"):
        key = Names(namespace).key(kind, item)
        assert len(key) <= 191
        assert key.isascii()
        assert key.isprintable()
        assert " " not in key


def test_different_namespaces_have_different_keys():
    assert len({Names(name).space for name in NAMESPACES}) == len(NAMESPACES)


# -- chunks and eviction ----------------------------------------------------------------------------------------------


def stored_chunks(store):
    head = Head.decode(store._gets(store.key("blob", INSTANCE))[0])
    return [store.key("chunk", part) for part in head.parts()]


def test_a_large_blob_is_stored_in_chunks_and_the_last_ones_are_deleted(memcached, make_store):
    store = make_store(memcached.url)
    grant = store.acquire(SCOPE, "one", TTL)
    blob = bytes(range(256)) * (5 * 4096)
    store.publish(grant, INSTANCE, blob, 1, TTL)
    first = stored_chunks(store)
    assert len(first) == 6
    assert store.fetch([INSTANCE]) == {INSTANCE: blob}
    store.publish(grant, INSTANCE, blob[::-1], 2, TTL)
    assert store.fetch([INSTANCE]) == {INSTANCE: blob[::-1]}
    assert store._ring.get(first) == {}


@pytest.mark.parametrize("lost", range(3))
def test_a_blob_of_which_a_chunk_is_missing_is_missing(lost, memcached, make_store):
    store = make_store(memcached.url)
    grant = store.acquire(SCOPE, "one", TTL)
    store.publish(grant, INSTANCE, b"x" * 2_500_000, 1, TTL)
    store._ring.delete([stored_chunks(store)[lost]])
    assert store.fetch([INSTANCE]) == {}
    store.publish(grant, INSTANCE, b"whole", 2, TTL)
    assert store.fetch([INSTANCE]) == {INSTANCE: b"whole"}


def test_a_chunk_of_another_blob_makes_none(memcached, make_store):
    store = make_store(memcached.url)
    grant = store.acquire(SCOPE, "one", TTL)
    store.publish(grant, INSTANCE, b"x" * 2_500_000, 1, TTL)
    first = stored_chunks(store)
    taken = store._ring.get(first)
    store.publish(grant, INSTANCE, b"y" * 2_500_000, 2, TTL)
    second = stored_chunks(store)
    store._ring.set({second[1]: taken[first[1]]} if first[1] in taken else {second[1]: b"damaged"}, 0)
    assert store.fetch([INSTANCE]) == {}


def test_an_evicted_head_is_published_again(memcached, make_store):
    store = make_store(memcached.url)
    grant = store.acquire(SCOPE, "one", TTL)
    store.publish(grant, INSTANCE, b"blob", 1, TTL)
    store._ring.delete([store.key("blob", INSTANCE)])
    assert store.instances() == {}
    store.publish(grant, INSTANCE, b"blob", 2, TTL)
    assert store.fetch(store.instances()) == {INSTANCE: b"blob"}


def test_an_evicted_directory_is_written_again_by_each_publisher(memcached, make_store):
    store = make_store(memcached.url)
    names = [f"{n:032x}" for n in range(40)]
    grants = {name: store.acquire(segment_scope(name), "one", TTL) for name in names}
    for name, grant in grants.items():
        store.publish(grant, name, b"blob", 1, TTL)
    assert store.instances() == dict.fromkeys(names, 1)
    store._ring.delete([store.key("directory", str(n)) for n in range(DIRECTORY_SHARDS)])
    assert store.instances() == {}
    for n, (name, grant) in enumerate(grants.items()):
        store.publish(grant, name, b"blob", 1 + n % 2, TTL)
    assert {*store.instances()} == {*names}


def test_the_directory_does_not_keep_instances_that_are_gone(memcached, make_store):
    store = make_store(memcached.url)
    together = [name for name in (f"{n:032x}" for n in range(500)) if shard_of(name) == "0"]
    for name in together[:-1]:
        store.publish(store.acquire(segment_scope(name), "one", TTL), name, b"blob", 1, TTL)
        store._ring.delete([store.key("blob", name)])
    last = together[-1]
    store.publish(store.acquire(segment_scope(last), "one", TTL), last, b"blob", 1, TTL)
    assert store._ring.get([store.key("directory", "0")]) == {store.key("directory", "0"): last.encode()}


def test_a_record_that_was_evicted_can_be_put_back_and_replaced(memcached, make_store):
    store = make_store(memcached.url)
    grant = store.acquire(CLUSTER, "one", TTL)
    assert store.commit_fold(grant, 0, b"record 1", 1, {}, {})
    head = Head.decode(store._gets(store.key("retired"))[0])
    store._ring.delete(store.key("chunk", part) for part in head.parts())
    assert store.retired() is None
    store.restore_retired(b"record 1", 1)
    assert store.retired() == b"record 1"
    head = Head.decode(store._gets(store.key("retired"))[0])
    store._ring.delete(store.key("chunk", part) for part in head.parts())
    assert store.commit_fold(grant, 0, b"anew", 1_000, {}, {}), "nobody has a copy: it begins anew"
    assert store.retired() == b"anew"


@pytest.mark.parametrize("kind", ["lease", "fence", "blob", "retired", "directory"])
def test_garbage_under_a_key_is_replaced(kind, memcached, make_store):
    store = make_store(memcached.url, clock=Clock())
    item = {"lease": SCOPE, "fence": SCOPE, "blob": INSTANCE, "retired": "", "directory": shard_of(INSTANCE)}[kind]
    store._ring.set({store.key(kind, item): b"\xff \0 garbage 1 2 3"}, 0)
    grant = store.acquire(SCOPE, "one", TTL)
    assert isinstance(grant, Grant)
    store.publish(grant, INSTANCE, b"blob", 1, TTL)
    assert store.fetch([INSTANCE]) == {INSTANCE: b"blob"}
    assert store.instances() == {INSTANCE: 1}
    assert store.commit_fold(store.acquire(CLUSTER, "one", TTL), 0, b"record", 1, {}, {})


def test_a_memory_that_is_full_keeps_whole_blobs_or_none(own_server, make_store):
    server = own_server("memcached", "-m", "8")
    store = make_store(server.url)
    last = {}
    for n in range(60):
        name = f"{n % 30:032x}"
        blob = bytes([n]) * 700_000
        try:
            store.publish(store.acquire(segment_scope(name), "one", TTL), name, blob, n + 1, TTL)
            last[name] = blob
        except SyncError:
            pass
    found = store.fetch(last)
    assert 0 < len(found) < 30
    for name, blob in found.items():
        assert blob == last[name]


def test_a_server_that_evicts_nothing_answers_with_a_sync_error(own_server, make_store):
    server = own_server("memcached", "-m", "8", "-M")
    store = make_store(server.url)

    def fill():
        for n in range(60):
            name = f"{n:032x}"
            store.publish(store.acquire(segment_scope(name), "one", TTL), name, b"x" * 700_000, 1, TTL)

    with pytest.raises(SyncError, match=r"[Oo]ut of memory"):
        fill()


def test_a_limit_under_our_chunks_is_a_sync_error(own_server, make_store):
    server = own_server("memcached", "-I", "512k")
    store = make_store(server.url)
    grant = store.acquire(SCOPE, "one", TTL)
    with pytest.raises(SyncError, match="too large"):
        store.publish(grant, INSTANCE, b"x" * 600_000, 1, TTL)
    store.publish(grant, INSTANCE, b"x" * 400_000, 2, TTL)
    assert store.instances() == {INSTANCE: 2}


# -- the lease and the fence ------------------------------------------------------------------------------------------


def test_whoever_watched_a_lease_for_its_term_takes_it_over(memcached, make_store):
    clock = Clock()
    one, other = make_store(memcached.url), make_store(memcached.url, clock=clock)
    old = one.acquire(SCOPE, "one", TTL)
    refused = other.acquire(SCOPE, "other", 5)
    assert refused == LeaseRefused(TTL), "seen for the first time: its term counts from now"
    clock.now += 20
    assert other.acquire(SCOPE, "other", 5) == LeaseRefused(10)
    assert one.renew(old, 8)
    assert other.acquire(SCOPE, "other", 5) == LeaseRefused(8), "renewed: another term"
    clock.now += 8
    new = other.acquire(SCOPE, "other", 5)
    assert isinstance(new, Grant)
    assert new.token > old.token
    assert not one.renew(old, TTL)
    assert not one.release(old)


def test_a_lease_that_nobody_watched_runs_out_by_itself(memcached, make_store):
    one, other = make_store(memcached.url), make_store(memcached.url)
    one.acquire(SCOPE, "one", 1)
    took = until(lambda: other._gets(other.key("lease", SCOPE))[0] is None, seconds=5)
    assert took > 0.9, "not before its term"
    assert isinstance(other.acquire(SCOPE, "other", 1), Grant)


def test_a_watcher_takes_over_within_the_term_and_a_moment(memcached, make_store):
    one, other = make_store(memcached.url), make_store(memcached.url)
    one.acquire(SCOPE, "one", 0.5)
    assert 0.45 < until(lambda: isinstance(other.acquire(SCOPE, "other", 0.5), Grant), seconds=5) < 1.5


def test_a_write_that_was_under_way_when_the_next_one_was_granted_is_refused(memcached, make_store):
    """The old holder has looked at its lease, found it good, and is stopped there; the new one has written nothing."""
    clock = Clock()
    one, other = make_store(memcached.url), make_store(memcached.url, clock=clock)
    old = one.acquire(SCOPE, "one", TTL)
    one.publish(old, INSTANCE, b"old", 1, TTL)
    write = one._write
    taken = []

    def stopped(*arguments):
        write(*arguments)
        other.acquire(SCOPE, "other", TTL)
        clock.now += TTL
        taken.append(other.acquire(SCOPE, "other", TTL))

    one._write = stopped
    with pytest.raises(LockLostError):
        one.publish(old, INSTANCE, b"late", 2, TTL)
    assert isinstance(taken[0], Grant)
    assert other.fetch([INSTANCE]) == {INSTANCE: b"old"}
    other.publish(taken[0], INSTANCE, b"new", 3, TTL)
    assert other.fetch([INSTANCE]) == {INSTANCE: b"new"}


def test_a_fold_that_was_under_way_when_the_next_one_was_granted_is_refused(memcached, make_store):
    clock = Clock()
    one, other = make_store(memcached.url), make_store(memcached.url, clock=clock)
    old = one.acquire(CLUSTER, "one", TTL)
    write = one._write
    taken = []

    def stopped(*arguments):
        write(*arguments)
        other.acquire(CLUSTER, "other", TTL)
        clock.now += TTL
        taken.append(other.acquire(CLUSTER, "other", TTL))

    one._write = stopped
    with pytest.raises(LockLostError):
        one.commit_fold(old, 0, b"late", 1, {}, {})
    assert other.retired() is None
    assert other.commit_fold(taken[0], 0, b"new", 1, {}, {})
    assert other.retired() == b"new"


def test_who_died_before_it_had_its_token_blocks_nobody_for_longer_than_a_term(memcached, make_store):
    clock = Clock()
    store = make_store(memcached.url, clock=clock)
    store._ring.add(store.key("lease", SCOPE), LeaseRecord(0, 0, TTL, "dead").encode(), 100)
    assert store.acquire(SCOPE, "one", TTL) == LeaseRefused(TTL)
    clock.now += TTL
    assert isinstance(store.acquire(SCOPE, "one", TTL), Grant)


def test_the_token_grows_over_a_flush_and_a_restart(own_server, make_store):
    server = own_server("memcached")
    store = make_store(server.url)
    first = store.acquire(SCOPE, "one", TTL)
    store.publish(first, INSTANCE, b"blob", 1, TTL)
    with closing(Client(server.address, default_noreply=False)) as other:
        other.flush_all()
    until(lambda: store._gets(store.key("lease", SCOPE))[0] is None, seconds=5)
    with pytest.raises(LockLostError):
        store.publish(first, INSTANCE, b"blob", 2, TTL)
    second = store.acquire(SCOPE, "one", TTL)
    server.restart()
    third = store.acquire(SCOPE, "one", TTL)
    assert first.token < second.token < third.token
    store.publish(third, INSTANCE, b"blob", 3, TTL)
    assert store.fetch(store.instances()) == {INSTANCE: b"blob"}


# -- failures ---------------------------------------------------------------------------------------------------------


def test_whatever_reply_of_a_publish_is_lost_it_is_done_once(memcached, make_proxy, make_store):
    proxy = make_proxy(memcached)
    store = make_store(through(proxy))
    reader = make_store(memcached.url)
    grant = store.acquire(SCOPE, "one", TTL)
    store.publish(grant, INSTANCE, b"blob 0", 1, TTL)
    before = store.round_trips
    store.publish(grant, INSTANCE, b"blob 1", 2, TTL)
    replies = store.round_trips - before
    for n in range(replies):
        passed = 0

        def loses(n=n):
            nonlocal passed
            passed += 1
            return passed == n + 1

        proxy._loses = loses
        store.publish(grant, INSTANCE, b"blob %d" % (n + 2), n + 3, TTL)
        assert passed > n
        assert reader.fetch([INSTANCE]) == {INSTANCE: b"blob %d" % (n + 2)}
        assert reader.instances() == {INSTANCE: n + 3}


def test_whatever_reply_of_a_fold_is_lost_it_is_done_once(memcached, make_proxy, make_store):
    proxy = make_proxy(memcached)
    store = make_store(through(proxy))
    grant = store.acquire(CLUSTER, "one", TTL)
    publisher = store.acquire(SCOPE, "one", TTL)

    def fold(version):
        store.publish(publisher, INSTANCE, b"blob", version, TTL)
        proxy._loses = losing
        try:
            return store.commit_fold(
                grant, version - 1, b"record %d" % version, version, {INSTANCE: b"blob"}, {INSTANCE: version}
            )
        finally:
            proxy._loses = lambda: False

    passed, at = 0, -1

    def losing():
        nonlocal passed
        passed += 1
        return passed == at + 1

    assert fold(1)
    for version in range(2, passed + 2):
        passed, at = 0, version - 2
        assert fold(version)
        assert store.retired() == b"record %d" % version
        assert store.tombstones({INSTANCE: version}) == {INSTANCE: b"blob"}
        assert store.instances() == {}


def test_whatever_reply_of_an_acquire_is_lost_the_lease_is_had_in_the_end(memcached, make_proxy, make_store):
    proxy = make_proxy(memcached)
    store = make_store(through(proxy))
    before = store.round_trips
    grant = store.acquire(SCOPE, "one", TTL)
    for n in range(store.round_trips - before):
        assert store.release(grant)
        passed = 0

        def loses(n=n):
            nonlocal passed
            passed += 1
            return passed in (n + 1, n + 2)  # the repeated one, too

        proxy._loses = loses
        with pytest.raises(SyncError):
            store.acquire(SCOPE, "one", TTL)
        proxy._loses = lambda: False
        again = store.acquire(SCOPE, "one", TTL)
        assert isinstance(again, Grant)
        assert again.token > grant.token
        grant = again


def test_a_cache_that_is_down_is_a_sync_error_that_names_it_and_then_works_again(own_server, make_store):
    server = own_server("memcached")
    store = make_store(server.url)
    exercise(store)
    server.stop()
    with pytest.raises(SyncError, match=f"{HOST}:{server.port}"):
        store.acquire(SCOPE, "one", TTL)
    server.restart()
    exercise(store)
    server.restart()
    exercise(store)


def test_a_server_that_stands_still_is_a_sync_error_within_the_time_out(own_server, make_store):
    server = own_server("memcached")
    store = make_store(server.url, timeout=0.3)
    grant = store.acquire(SCOPE, "one", TTL)
    server.freeze()
    try:
        for call in (lambda: store.publish(grant, INSTANCE, b"blob", 1, TTL), store.instances):
            began = time.monotonic()
            with pytest.raises(SyncError):
                call()
            assert time.monotonic() - began < 1.0
    finally:
        server.thaw()
    store.publish(grant, INSTANCE, b"blob", 2, TTL)
    assert store.fetch([INSTANCE]) == {INSTANCE: b"blob"}


def test_late_replies_are_never_taken_for_others(memcached, make_proxy, make_store):
    proxy = make_proxy(memcached)
    store = make_store(through(proxy), timeout=0.2)
    grant = store.acquire(SCOPE, "one", TTL)
    store.publish(grant, INSTANCE, b"blob", 1, TTL)
    proxy.delay = 0.5
    with pytest.raises(SyncError):
        store.fetch([INSTANCE])
    proxy.pass_on()
    assert store.instances() == {INSTANCE: 1}
    assert store.fetch([INSTANCE, OTHER]) == {INSTANCE: b"blob"}


def test_a_reply_that_an_interruption_left_unread_answers_no_other_call(memcached, make_store):
    store = make_store(memcached.url)
    ring = store._ring
    ring.set({store.key("blob", INSTANCE): b"value"}, 0)

    def interrupted(client):
        client.sock.sendall(b"version\r\n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ring._ask(ring._server_of(""), interrupted)
    assert ring.get([store.key("blob", INSTANCE)]) == {store.key("blob", INSTANCE): b"value"}


def test_a_call_on_top_of_another_one_is_an_error_and_does_not_wait_for_ever(memcached, make_store):
    store = make_store(memcached.url, timeout=0.1)
    ring = store._ring

    def asks_again(client):
        return ring.get(["another"])

    with pytest.raises(SyncError, match="another call"):
        ring._ask(ring._server_of(""), asks_again)
    assert ring.get(["another"]) == {}


def test_a_store_that_was_forgotten_and_not_closed_leaves_no_open_socket(memcached, namespace):
    store = open_store(memcached.url, namespace=namespace, segment=None)
    assert store.instances() == {}
    (client,) = store._ring._clients.values()
    connection = client.sock
    del store, client
    gc.collect()
    assert connection.fileno() == -1


def test_a_blob_that_is_replaced_again_and_again_while_it_is_read_is_read(memcached, make_store):
    store, reader = make_store(memcached.url), make_store(memcached.url)
    grant = store.acquire(SCOPE, "one", TTL)
    store.publish(grant, INSTANCE, b"blob 0", 1, TTL)
    heads, times = reader._heads, iter(range(1, 6))

    def replaced(instances):
        found = heads(instances)
        for n in times:
            store.publish(grant, INSTANCE, b"blob %d" % n, n + 1, TTL)
            break
        return found

    reader._heads = replaced
    assert reader.fetch([INSTANCE]) == {INSTANCE: b"blob 5"}


def test_a_publish_takes_few_round_trips(memcached, make_proxy, make_store):
    proxy = make_proxy(memcached)
    store = make_store(through(proxy))
    grant = store.acquire(SCOPE, "one", TTL)
    store.publish(grant, INSTANCE, b"blob", 1, TTL)
    before = store.round_trips
    with proxy.counting(6):  # look, chunk, head, the old chunk; and the lease: look, renew
        store.publish(grant, INSTANCE, b"blob", 2, TTL)
    assert store.round_trips - before == 6


# -- several servers --------------------------------------------------------------------------------------------------


@pytest.fixture
def three(own_server):
    return [own_server("memcached") for _ in range(3)]


def url_of(servers):
    return "memcached://" + ",".join(f"{HOST}:{server.port}" for server in servers)


def test_keys_are_spread_over_the_servers_in_whatever_order_they_are_told(three, make_store):
    store, reader = make_store(url_of(three)), make_store(url_of(three[::-1]))
    names = [f"{n:032x}" for n in range(60)]
    for name in names:
        store.publish(store.acquire(segment_scope(name), "one", TTL), name, name.encode(), 1, TTL)
    assert reader.instances() == dict.fromkeys(names, 1)
    assert reader.fetch(names) == {name: name.encode() for name in names}
    for server in three:
        with closing(Client(server.address)) as asked:
            assert asked.stats()[b"curr_items"] > 30


def test_the_keys_of_a_server_that_is_down_go_nowhere_else(three, make_store):
    store = make_store(url_of(three))
    names = [f"{n:032x}" for n in range(30)]
    grants = {name: store.acquire(segment_scope(name), "one", TTL) for name in names}
    three[1].stop()
    other = make_store(url_of(three))
    outcomes = set()
    for name in names:
        try:
            assert isinstance(other.acquire(segment_scope(name), "other", TTL), LeaseRefused), "never two holders"
            outcomes.add("refused")
        except SyncError:
            outcomes.add("error")
    assert outcomes == {"refused", "error"}
    three[1].restart()
    for name, grant in grants.items():
        if not store.renew(grant, TTL):
            grant = store.acquire(segment_scope(name), "one", TTL)
        store.publish(grant, name, b"blob", 1, TTL)
    assert {*other.instances()} == {*names}


# -- clients ----------------------------------------------------------------------------------------------------------

CLIENTS = {
    "Client": lambda address: Client(address),
    "Client with a prefix": lambda address: Client(address, key_prefix=b"app:", ignore_exc=True),
    "PooledClient": lambda address: PooledClient(address, max_pool_size=2),
    "HashClient": lambda address: HashClient([address]),
    "HashClient, pooled": lambda address: HashClient([address], use_pooling=True, ignore_exc=True),
    "RetryingClient": lambda address: RetryingClient(Client(address), attempts=2),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_an_applications_client_is_understood_and_not_used(name, memcached, make_store):
    client = CLIENTS[name](memcached.address)
    store = make_store(client, timeout=1.5)
    exercise(store)
    for own in store._ring._clients.values():
        assert own.timeout == own.connect_timeout == 1.5
        assert not own.ignore_exc
    with closing(Client(memcached.address)) as asked:
        prefix = b"app:" if "prefix" in name else b""
        assert asked.get(prefix + store.key("retired").encode()) is not None
    client.close()


def test_a_prefix_that_leaves_no_room_for_keys_is_refused(memcached, make_store):
    with pytest.raises(InvalidMetricError, match="key_prefix of 60 bytes"):
        make_store(Client(memcached.address, key_prefix=b"x" * 60))


def test_a_socket_can_be_used(tmp_path, make_store):
    path = tmp_path / "socket"
    user = ["-u", "root"] if os.geteuid() == 0 else []
    process = subprocess.Popen([program("memcached"), "-s", str(path), *user])  # it has no port
    try:
        until(path.exists, seconds=10)
        exercise(make_store(f"memcached://{path}"))
        assert make_store(Client(str(path))).retired() is not None
    finally:
        process.kill()
        process.wait(10)
