"""The Redis store on real servers, and on broken ways to them: one round trip, lost replies, time-outs, full memory,
cluster, sentinel, and whatever client an application has."""

from __future__ import annotations

import subprocess
import time

import pytest
import redis as redis_py
import valkey as valkey_py

from shm_metrics.cluster.store_factory import open_store
from shm_metrics.cluster.stores.protocol import CLUSTER, Grant
from shm_metrics.errors import LockLostError, SyncError
from tests.support.cache_kinds import INSTANCE, OTHER, SCOPE, TTL, exercise, opened
from tests.support.cache_servers import HOST, Server, free_port, program
from tests.support.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture
def make_store(namespace):
    made = []

    def make(cache, **options):
        made.append(open_store(cache, namespace=namespace, segment=None, **options))
        return made[-1]

    yield make
    for store in made:
        store.close()


def through(proxy):
    return f"redis://{HOST}:{proxy.port}/0"


# -- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["valkey", "redis"])
def test_each_call_is_one_round_trip(engine, request, make_proxy, make_store):
    proxy = make_proxy(request.getfixturevalue(engine))
    store = make_store(through(proxy))
    exercise(store)  # connects, and brings the scripts
    trips = store.round_trips
    with proxy.counting(1):
        grant = store.acquire(SCOPE, "one", TTL)
    with proxy.counting(1):
        store.publish(grant, INSTANCE, b"x" * 200_000, 2, TTL)
    with proxy.counting(1):
        assert store.renew(grant, TTL)
    with proxy.counting(1):
        assert store.instances() == {INSTANCE: 2}
    with proxy.counting(1):
        assert len(store.fetch([INSTANCE, OTHER])) == 1
    fold = store.acquire(CLUSTER, "one", TTL)
    with proxy.counting(1):
        assert store.commit_fold(fold, 1, b"record", 2, {INSTANCE: b"tomb"}, {INSTANCE: 2}, {INSTANCE: 1})
    assert store.round_trips - trips == 7


def test_a_publish_is_one_command_of_the_client(own_server, make_store):
    server = own_server("redis")
    store = make_store(server.url)
    exercise(store)
    with redis_py.Redis(port=server.port) as watcher:
        grant = store.acquire(SCOPE, "one", TTL)
        watcher.config_resetstat()
        for sequence in range(2, 12):
            store.publish(grant, INSTANCE, b"blob", sequence, TTL)
        stats = watcher.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 10
    assert "cmdstat_eval" not in stats


def test_scripts_that_the_server_forgot_are_sent_again(own_server, make_store):
    server = own_server("valkey")
    store = make_store(server.url)
    grant = store.acquire(SCOPE, "one", TTL)
    with redis_py.Redis(port=server.port) as other:
        other.script_flush()
    store.publish(grant, INSTANCE, b"blob", 1, TTL)
    assert store.fetch([INSTANCE]) == {INSTANCE: b"blob"}


# -- failures ---------------------------------------------------------------------------------------------------------


def test_a_publish_whose_reply_was_lost_is_done_once(valkey, make_proxy, make_store):
    proxy = make_proxy(valkey)
    store = make_store(through(proxy))
    grant = store.acquire(SCOPE, "one", TTL)
    store.publish(grant, INSTANCE, b"first", 1, TTL)
    proxy.lose_replies(1)
    store.publish(grant, INSTANCE, b"second", 2, TTL)
    assert store.fetch([INSTANCE]) == {INSTANCE: b"second"}
    proxy.lose_replies(2)
    with pytest.raises(SyncError):
        store.publish(grant, INSTANCE, b"third", 3, TTL)
    store.publish(grant, INSTANCE, b"third", 3, TTL)
    assert store.instances() == {INSTANCE: 3}


def test_a_grant_whose_reply_was_lost_is_got_by_asking_again(valkey, make_proxy, make_store):
    proxy = make_proxy(valkey)
    store = make_store(through(proxy))
    assert store.instances() == {}
    proxy.lose_replies(2)
    with pytest.raises(SyncError):
        store.acquire(SCOPE, "one", TTL)
    grant = store.acquire(SCOPE, "one", TTL)
    assert isinstance(grant, Grant)
    assert store.renew(grant, TTL)


def test_a_fold_whose_reply_was_lost_is_done_once(valkey, make_proxy, make_store):
    proxy = make_proxy(valkey)
    store = make_store(through(proxy))
    grant = store.acquire(CLUSTER, "one", TTL)
    proxy.lose_replies(1)
    assert store.commit_fold(grant, 0, b"record", 1, {}, {})
    proxy.lose_replies(2)
    with pytest.raises(SyncError):
        store.commit_fold(grant, 1, b"record 2", 2, {}, {})
    assert store.retired() == b"record 2"
    assert store.commit_fold(grant, 1, b"record 2", 2, {}, {})


def test_a_cache_that_is_down_is_a_sync_error_that_names_it_and_then_works_again(own_server, make_store):
    server = own_server("valkey")
    store = make_store(server.url)
    exercise(store)
    server.stop()
    with pytest.raises(SyncError, match=f"{HOST}:{server.port}"):
        store.acquire(SCOPE, "one", TTL)
    server.restart()
    exercise(store)


def test_a_restart_between_two_calls_is_not_noticed(own_server, make_store):
    server = own_server("redis")
    store = make_store(server.url)
    exercise(store)
    server.restart()
    exercise(store)


def test_the_token_grows_over_a_flush_and_a_restart(own_server, make_store):
    server = own_server("redis")
    store = make_store(server.url)
    first = store.acquire(SCOPE, "one", TTL)
    with redis_py.Redis(port=server.port) as other:
        other.flushall()
    with pytest.raises(LockLostError):
        store.publish(first, INSTANCE, b"blob", 1, TTL)
    second = store.acquire(SCOPE, "one", TTL)
    server.restart()
    third = store.acquire(SCOPE, "one", TTL)
    assert first.token < second.token < third.token


@pytest.mark.parametrize("engine", ["valkey", "redis"])
def test_a_server_that_stands_still_is_a_sync_error_within_the_time_out(engine, own_server, make_store):
    server = own_server(engine)
    store = make_store(server.url, timeout=0.3)
    exercise(store)
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


def test_late_replies_are_never_taken_for_others(valkey, make_proxy, make_store):
    proxy = make_proxy(valkey)
    store = make_store(through(proxy), timeout=0.2)
    grant = store.acquire(SCOPE, "one", TTL)
    store.publish(grant, INSTANCE, b"blob", 1, TTL)
    proxy.delay = 0.5
    with pytest.raises(SyncError):
        store.publish(grant, INSTANCE, b"late", 2, TTL)
    proxy.pass_on()
    assert store.fetch([INSTANCE]) == {INSTANCE: b"late"}, "it was carried out"
    assert store.instances() == {INSTANCE: 2}


def test_full_memory_is_a_sync_error_and_the_next_success_has_the_whole_truth(own_server, make_store):
    server = own_server("redis", "--maxmemory-policy", "noeviction")
    store = make_store(server.url)
    grant = store.acquire(SCOPE, "one", TTL)
    store.publish(grant, INSTANCE, b"before", 1, TTL)
    with redis_py.Redis(port=server.port) as other:
        other.config_set("maxmemory", 1000)
        with pytest.raises(SyncError, match="maxmemory"):
            store.publish(grant, INSTANCE, b"full", 2, TTL)
        fold = Grant(CLUSTER, "one", grant.token)
        with pytest.raises(SyncError):
            store.commit_fold(fold, 0, b"record", 1, {}, {})
        assert store.renew(grant, TTL), "a lease can be kept all the same"
        assert store.fetch([INSTANCE]) == {INSTANCE: b"before"}
        other.config_set("maxmemory", 0)
    store.publish(grant, INSTANCE, b"after", 3, TTL)
    assert store.fetch([INSTANCE]) == {INSTANCE: b"after"}


def test_an_evicted_lease_is_lost(own_server, make_store):
    server = own_server("valkey")
    store = make_store(server.url)
    grant = store.acquire(SCOPE, "one", TTL)
    with redis_py.Redis(port=server.port) as other:
        other.delete(store.key("lease", SCOPE))
    with pytest.raises(LockLostError):
        store.publish(grant, INSTANCE, b"blob", 1, TTL)


def test_an_evicted_blob_is_left_out_and_published_again(valkey, make_store):
    store = make_store(valkey.url)
    grant = store.acquire(SCOPE, "one", TTL)
    store.publish(grant, INSTANCE, b"blob", 1, TTL)
    store._client.delete(store.key("blob", INSTANCE))
    assert store.fetch(store.instances()) == {}
    store.publish(grant, INSTANCE, b"blob", 2, TTL)
    assert store.fetch(store.instances()) == {INSTANCE: b"blob"}


def test_an_evicted_directory_is_written_again_by_each_publisher(valkey, make_store):
    store = make_store(valkey.url)
    grant = store.acquire(SCOPE, "one", TTL)
    store.publish(grant, INSTANCE, b"blob", 1, TTL)
    store._client.delete(store.key("instances"))
    assert store.instances() == {}
    store.publish(grant, INSTANCE, b"blob", 1, TTL)
    assert store.instances() == {INSTANCE: 1}


def test_a_key_of_another_kind_is_a_sync_error(valkey, make_store):
    store = make_store(valkey.url)
    grant = store.acquire(SCOPE, "one", TTL)
    store._client.rpush(store.key("blob", INSTANCE), b"a list")
    with pytest.raises(SyncError, match="WRONGTYPE"):
        store.publish(grant, INSTANCE, b"blob", 1, TTL)


def test_a_wrong_password_is_a_sync_error_that_does_not_tell_it(own_server, make_store):
    server = own_server("redis", "--requirepass", "s3cret")
    exercise(make_store(f"redis://:s3cret@{HOST}:{server.port}/0"))
    store = make_store(f"redis://:wr0ng@{HOST}:{server.port}/0")
    with pytest.raises(SyncError) as caught:
        store.instances()
    assert "wr0ng" not in str(caught.value)


def test_blobs_expire_and_the_record_does_not(valkey, namespace):
    from shm_metrics.cluster.stores.redis_client import from_url
    from shm_metrics.cluster.stores.redis_store import RedisStore

    store = RedisStore(from_url(valkey.url, 2.0), namespace, blob_ttl=0.1)
    grant = store.acquire(SCOPE, "one", TTL)
    fold = store.acquire(CLUSTER, "one", TTL)
    assert store.commit_fold(fold, 0, b"record", 1, {OTHER: b"tomb"}, {OTHER: 1})
    store.publish(grant, INSTANCE, b"blob", 1, TTL)
    until(lambda: not store.fetch([INSTANCE]) and not store.instances(), seconds=5)
    assert store.retired() == b"record"
    assert store.tombstones({OTHER: 1}) == {OTHER: b"tomb"}
    store.close()


# -- clients ----------------------------------------------------------------------------------------------------------

CLIENTS = {
    "redis": lambda port: redis_py.Redis(port=port),
    "redis, text": lambda port: redis_py.Redis(port=port, decode_responses=True),
    "redis, RESP3": lambda port: redis_py.Redis(port=port, protocol=3, decode_responses=True),
    "redis, blocking pool": lambda port: redis_py.Redis(
        connection_pool=redis_py.BlockingConnectionPool(port=port, max_connections=1)
    ),
    "redis, from_url": lambda port: redis_py.Redis.from_url(f"redis://{HOST}:{port}/3?health_check_interval=1"),
    "valkey": lambda port: valkey_py.Valkey(port=port),
    "valkey, text": lambda port: valkey_py.Valkey(port=port, decode_responses=True),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_an_applications_client_is_understood_and_not_used(name, valkey, make_store):
    with CLIENTS[name](valkey.port) as client:
        store = make_store(client, timeout=1.5)
        exercise(store)
        assert store._client.connection_pool is not client.connection_pool
        kwargs = store._client.connection_pool.connection_kwargs
        assert kwargs["socket_timeout"] == kwargs["socket_connect_timeout"] == 1.5
        assert kwargs.get("db", 0) == client.connection_pool.connection_kwargs.get("db", 0)


def test_a_clients_password_and_database_are_taken_over(own_server, make_store):
    server = own_server("redis", "--requirepass", "s3cret")
    with redis_py.Redis(port=server.port, password="s3cret", db=5) as client:
        exercise(make_store(client))
        assert client.dbsize() > 0


def test_a_socket_can_be_used(own_server, tmp_path, make_store):
    path = tmp_path / "socket"
    own_server("redis", "--unixsocket", str(path))
    exercise(make_store(f"unix://{path}"))
    with redis_py.Redis(unix_socket_path=str(path)) as client:
        store = make_store(client)
        assert store.retired() is not None


def test_an_encrypted_connection(own_server, tmp_path, make_store):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [
            program("openssl"),
            *made.split(),
            "-addext",
            f"subjectAltName=IP:{HOST}",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    port = free_port()
    tls = f"--tls-port {port} --tls-cert-file {certificate} --tls-key-file {key} --tls-auth-clients no"
    own_server("redis", *tls.split())
    exercise(make_store(f"rediss://{HOST}:{port}/0?ssl_ca_certs={certificate}"))
    with redis_py.Redis(port=port, ssl=True, ssl_ca_certs=str(certificate)) as client:
        assert make_store(client).retired() is not None
    with pytest.raises(SyncError, match="certificate"):
        make_store(f"rediss://{HOST}:{port}/0").instances()


@pytest.mark.parametrize("namespace", ["shop", "a b/c:d", "{}", "}x{", "{a}b", "é\U0001f600" * 100, "%7B", "x" * 300])
def test_all_keys_of_a_namespace_are_in_one_slot(namespace, redis):
    store = opened(redis.url, namespace)
    exercise(store)
    grant = store.acquire(SCOPE, "one", TTL)
    store.publish(grant, INSTANCE, b"blob", 99, TTL)
    with redis_py.Redis(port=redis.port) as other:
        keys = [key for key in other.scan_iter() if key.startswith(store.key("")[:-1])]
        assert len(keys) >= 6
        slots = {redis_py.cluster.key_slot(key) for key in keys}
        other.delete(*keys)
    assert len(slots) == 1
    store.close()


def test_different_namespaces_have_different_keys():
    from shm_metrics.cluster.stores.redis_store import RedisStore

    names = ["a", "{a", "a}", "%7Ba", "a%7D", "A"]
    keys = {RedisStore(None, name).key("retired") for name in names}  # type: ignore[arg-type]
    assert len(keys) == len(names)


@pytest.fixture
def redis_cluster(own_server):
    """A Redis Cluster of two nodes, each with half of the slots."""
    nodes = [own_server("redis", "--cluster-enabled", "yes", "--cluster-config-file", f"nodes-{n}") for n in range(2)]
    clients = [redis_py.Redis(port=node.port, decode_responses=True) for node in nodes]
    clients[0].execute_command("CLUSTER ADDSLOTSRANGE", 0, 8191)
    clients[1].execute_command("CLUSTER ADDSLOTSRANGE", 8192, 16383)
    clients[1].execute_command("CLUSTER SET-CONFIG-EPOCH", 2)
    clients[0].execute_command("CLUSTER MEET", HOST, nodes[1].port)
    for client in clients:
        until(lambda client=client: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok", seconds=30)
        until(lambda client=client: len(client.execute_command("CLUSTER SLOTS")) == 2, seconds=30)
    for client in clients:
        client.close()
    return nodes


@pytest.mark.parametrize("library", ["redis", "valkey"])
def test_a_cluster_client_works_wherever_the_slot_is(library, redis_cluster, make_proxy):
    kind = redis_py.RedisCluster if library == "redis" else valkey_py.ValkeyCluster
    client = kind(host=HOST, port=redis_cluster[0].port, decode_responses=True)
    used = set()
    for n in range(8):
        store = opened(client, f"cluster-{library}-{n}")
        exercise(store)
        used.add(store._client.get_node_from_key(store.key("retired")).port)
        trips = store.round_trips
        store.acquire(SCOPE, "one", TTL)
        assert store.round_trips - trips == 1
        store.close()
    assert used == {node.port for node in redis_cluster}
    client.close()


def test_a_cluster_that_is_down_is_a_sync_error(redis_cluster):
    client = redis_py.RedisCluster(host=HOST, port=redis_cluster[0].port)
    store = opened(client, "cluster", timeout=0.5)
    exercise(store)
    for node in redis_cluster:
        node.stop()
    with pytest.raises(SyncError):
        store.instances()
    store.close()
    fresh = opened(client, "cluster", timeout=0.5)
    with pytest.raises(SyncError):
        fresh.instances()
    fresh.close()
    client.close()


class Sentinel(Server):
    ready = b"PING\r\n"


def test_the_master_that_a_sentinel_names_is_used(own_server, tmp_path, make_store):
    server = own_server("redis")
    config = tmp_path / "sentinel.conf"

    def command(port):
        config.write_text(f"port {port}\nbind {HOST}\nsentinel monitor shop {HOST} {server.port} 1\n")
        return [program("redis-sentinel"), str(config)]

    sentinel = Sentinel(command, tmp_path)
    try:
        manager = redis_py.sentinel.Sentinel([sentinel.address], socket_timeout=1)
        with manager.master_for("shop", decode_responses=True) as client:
            store = make_store(client)
            exercise(store)
            server.restart()
            exercise(store)
            assert store._client.connection_pool.sentinel_manager is not manager
            server.stop()
            with pytest.raises(SyncError):
                store.instances()
            sentinel.freeze()
            slow = make_store(client, timeout=0.3)
            began = time.monotonic()
            with pytest.raises(SyncError):
                slow.instances()
            assert time.monotonic() - began < 1.5
        for each in manager.sentinels:
            each.close()
    finally:
        sentinel.stop()


def test_an_operator_sees_keys_that_say_what_they_are(redis, make_store, namespace):
    store = make_store(redis.url)
    grant = store.acquire(SCOPE, "one", TTL)
    store.publish(grant, INSTANCE, b"blob", 1, TTL)
    told = subprocess.run(
        [program("redis-cli"), "-p", str(redis.port), "--scan", "--pattern", f"{{{namespace}}}*"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert sorted(told.stdout.split()) == sorted(
        f"{{{namespace}}}:{rest}" for rest in (f"lease:{SCOPE}", f"fence:{SCOPE}", f"blob:{INSTANCE}", "instances")
    )
