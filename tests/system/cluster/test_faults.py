"""Caches that fail in every way: the application does not notice, and the next good round tells the whole truth."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from contextlib import contextmanager
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from shm_metrics import MetricsBackend
from shm_metrics.cluster.agent import SyncAgent
from shm_metrics.cluster.config import SyncConfig
from tests.support.cluster_hosts import Hosts
from tests.support.waiting import until

pytestmark = pytest.mark.slow

ENGINES = ["valkey", "memcached"]


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


@pytest.fixture
def server(engine, request):
    """Shared with other tests: only the way to it may fail."""
    return request.getfixturevalue(engine)


@pytest.fixture
def proxy(server, make_proxy):
    return make_proxy(server)


@pytest.fixture
def url(server, proxy):
    return server.url.replace(f":{server.port}", f":{proxy.port}")


@pytest.fixture
def make_hosts(namespace, tmp_path):
    made = []

    def make(url):
        made.append(Hosts(lambda: url, namespace, tmp_path))
        return made[-1]

    yield make
    for hosts in made:
        hosts.close()


@pytest.fixture
def make_agent(namespace, tmp_path):
    """make_agent(url, **options): an agent whose thread runs."""
    made = []

    def make(url, **options):
        path = tmp_path / f"agent-{len(made)}"
        backend = MetricsBackend(path=path, rows=4, slots=256, process_metrics=False)
        config = SyncConfig(**{"namespace": namespace, "interval": 0.05, "lease_ttl": 2.0, "timeout": 0.5, **options})
        agent = SyncAgent(backend, url, config)
        made.append((agent, backend))
        agent.start()
        return agent, backend

    yield make
    for agent, backend in made:
        agent.stop()
        backend.close()


SECONDS = 20  # guards against hangs
TIMEOUT = 0.2  # of a single request


def said(caplog):
    """What the sync said to the log."""
    return [record.getMessage() for record in caplog.records if "shm_metrics: sync:" in record.getMessage()]


@contextmanager
def answering(lines):
    """A server that says `lines` to every request, whatever it is."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_ones = []

    def serve(client):
        with client:
            try:
                while client.recv(1 << 16):
                    client.sendall(lines)
            except OSError:
                pass

    def accept():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            open_ones.append(client)
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(10)
        listener.close()
        for client in open_ones:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


# -- replies that are lost --------------------------------------------------------------------------------------------


def test_a_lost_reply_is_made_good_for_within_the_round(make_hosts, proxy, url):
    host = make_hosts(url).host()
    host.backend.counter("orders").inc(5)
    host.sync()
    host.backend.counter("orders").inc(5)
    proxy.lose_replies(1)
    assert host.sync()["success"]
    assert host.total("orders") == 10


@pytest.mark.parametrize("lost", [1, 2, 3, 5, 12])
def test_five_is_five_however_many_replies_are_lost(make_hosts, server, proxy, url, lost):
    hosts = make_hosts(url)
    host, other = hosts.host(), make_hosts(server.url).host()
    host.backend.counter("orders").inc(5)
    proxy.lose_replies(lost)
    rounds = 0
    while True:
        report = host.agent.sync_now()
        rounds += 1
        # What is in the cache is right at any moment, whether or not its publisher knows that it is there.
        assert other.total("orders") in ((5,) if report["success"] else (None, 5))
        assert report["success"] is ("error" not in report)
        if report["success"]:
            break
        assert rounds <= lost
        host.agent.member.segment_lease.ask_now()
    host.sync()
    assert other.total("orders") == 5


def test_a_round_whose_reply_never_came_claims_no_success(make_hosts, server, proxy, url):
    host, other = make_hosts(url).host(), make_hosts(server.url).host()
    host.backend.counter("orders").inc(2)
    host.sync()
    host.backend.counter("orders").inc(3)
    proxy.lose_replies(1_000)
    report = host.agent.sync_now()
    assert report["success"] is False
    assert report["error"]
    assert other.total("orders") in (2, 5), "it may have arrived"
    proxy.pass_on()
    assert host.sync()["success"]
    assert other.total("orders") == 5


def test_a_fold_whose_reply_is_lost_is_folded_once(make_hosts, server, proxy, url):
    hosts = make_hosts(url)
    a, b = hosts.host(), hosts.host()
    b.backend.counter("orders").inc(5)
    a.step()
    b.step()
    b.die()
    hosts.time.jump(61)
    store = a.agent.store
    commit = store.commit_fold

    def losing(*arguments):
        proxy.lose_replies(2)
        return commit(*arguments)

    store.commit_fold = losing
    for _ in range(3):
        a.step()
        assert a.total("orders") == 5
        hosts.time.jump(61)
    store.commit_fold = commit
    for _ in range(2):
        a.step()
        hosts.time.jump(61)
        assert a.total("orders") == 5


# -- down, slow, hung, answering with errors --------------------------------------------------------------------------


WAYS = ["refuses", "slow", "hangs", "errors"]


@contextmanager
def failing(way, engine, proxy):
    """The way to the cache fails like this within the block."""
    target = proxy.target
    if way == "refuses":
        proxy.refuse()
        yield
    elif way == "slow":
        proxy.delay = 2.0
        yield
    elif way == "hangs":
        proxy.hold()
        yield
    else:
        lines = b"-ERR out of order\r\n" if engine == "valkey" else b"SERVER_ERROR out of order\r\n"
        with answering(lines) as port:
            proxy.target = ("127.0.0.1", port)
            proxy.cut()
            yield
            proxy.target = target
            proxy.cut()
    proxy.pass_on()


@pytest.mark.parametrize("way", WAYS)
def test_a_cache_that_fails_costs_the_application_nothing_and_the_truth_comes_back(
    make_agent, make_hosts, server, engine, proxy, url, caplog, way
):
    other = make_hosts(server.url).host()
    agent, backend = make_agent(url)
    counter = backend.counter("orders")
    counter.inc()
    until(lambda: other.total("orders") == 1, seconds=SECONDS)
    counted = 1

    def costs():
        """Median seconds of 100 updates."""
        nonlocal counted
        took = []
        for _ in range(200):
            began = time.perf_counter()
            for _ in range(100):
                counter.inc()
            took.append(time.perf_counter() - began)
        counted += 20_000
        return statistics.median(took)

    usual = costs()
    with failing(way, engine, proxy):
        until(lambda: agent.failed >= 1, seconds=SECONDS)
        assert costs() < 5 * usual + 0.0005
        failed = agent.failed
        until(lambda: agent.failed > failed, seconds=SECONDS)
        assert [line for line in said(caplog) if "it is tried again" in line] == said(caplog)
        assert len(said(caplog)) == 1
        assert other.total("orders") <= counted
    counter.inc()
    counted += 1
    until(lambda: other.total("orders") == counted, seconds=SECONDS)
    until(lambda: len(said(caplog)) == 2, seconds=SECONDS)
    assert "works again" in said(caplog)[1]


@pytest.mark.parametrize("way", WAYS)
def test_nothing_that_the_application_calls_raises_or_hangs(make_agent, engine, proxy, url, namespace, tmp_path, way):
    backend = MetricsBackend(
        path=tmp_path / "application",
        cache=url,
        namespace=namespace,
        sync_interval=0.05,
        sync_options={"lease_ttl": 1.0, "timeout": TIMEOUT},
    )
    try:
        backend.counter("orders").inc(3)
        backend.start_sync()
        assert backend.sync_to_cache()["success"]
        with failing(way, engine, proxy):
            until(lambda: backend.sync_agent.failed >= 1, seconds=SECONDS)
            began = time.monotonic()
            report = backend.sync_to_cache()
            assert report["success"] is False
            assert report["error"]
            told = backend.export_distributed_metrics()
            assert told["distributed"] is False
            assert "did not answer" in told["warning"]
            assert told["metrics"]["orders_total"]["value"] == 3
            assert time.monotonic() - began < 6 * TIMEOUT + 1.0, "each waits for a request or two"
            began = time.monotonic()
            backend.close()
            assert time.monotonic() - began < 2 * TIMEOUT + 1.0
    finally:
        backend.close()


def test_a_contender_tells_of_the_recovery_too(make_hosts, server, proxy, url, caplog):
    """It has no lease and publishes nothing; were it silent, the next outage would go unlogged as well."""
    leader = make_hosts(server.url).host()
    leader.sync()
    contender = make_hosts(url).host(leader.path)
    lease = contender.agent.member.segment_lease
    for outage in (1, 2):
        proxy.refuse()
        for _ in range(3):
            lease.ask_now()
            contender.step()
        assert len(said(caplog)) == 2 * outage - 1
        proxy.pass_on()
        lease._due = 0.0
        contender.step()
        assert len(said(caplog)) == 2 * outage
    assert contender.agent.failed == 6


def test_a_round_asked_for_tells_of_the_recovery_too(make_hosts, proxy, url, caplog):
    host = make_hosts(url).host()
    for outage in (1, 2):
        proxy.refuse()
        for _ in range(2):
            assert host.agent.sync_now()["success"] is False
        assert len(said(caplog)) == 2 * outage - 1
        proxy.pass_on()
        host.sync()
        assert len(said(caplog)) == 2 * outage


# -- empty ------------------------------------------------------------------------------------------------------------


def flush(server):
    word = b"flush_all\r\n" if server.url.startswith("memcached") else b"FLUSHALL\r\n"
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(word)
        assert b"OK" in connection.recv(100)


@pytest.mark.parametrize("how", ["flushed", "restarted"])
def test_an_emptied_cache_has_the_whole_truth_again_after_a_round_of_each(own_server, make_hosts, engine, how):
    """Living hosts, one that is gone for good, one that was folded and has returned."""
    server = own_server(engine)
    hosts = make_hosts(server.url)
    a, b, gone, returns = (hosts.host() for _ in range(4))
    for number, host in enumerate((a, b, gone, returns)):
        host.backend.counter("orders").inc(10**number)
        host.backend.histogram("seconds", buckets=[1, 2]).observe(0.5)
        host.step()
    gone.die()
    for _ in range(3):
        hosts.time.jump(61)
        a.step()
        b.step()
    returns.backend.counter("orders").inc(5_000)
    for _ in range(2):
        for host in (returns, a, b):
            host.step()
    assert a.total("orders") == 6_111
    for _ in range(2):  # a second time as well: what was put back is kept
        flush(server) if how == "flushed" else server.restart()
        for host in (a, b, returns):
            assert any(host.agent.sync_now()["success"] for _ in range(2)), "the first may find its lease gone"
            host.step()
        for host in (a, b, returns):
            assert host.total("orders") == 6_111
            assert host.agent.view().family("seconds").values.tolist() == [[4, 0, 0]]


def test_the_threads_alone_bring_everything_back_after_a_flush(own_server, make_agent, make_hosts, engine):
    server = own_server(engine)
    watch = make_hosts(server.url).host()
    for _ in range(3):
        make_agent(server.url)[1].counter("orders").inc(2)
    until(lambda: watch.total("orders") == 6, seconds=SECONDS)
    for _ in range(3):
        flush(server)
        until(lambda: watch.total("orders") == 6, seconds=SECONDS)
    server.restart()
    until(lambda: watch.total("orders") == 6, seconds=SECONDS)


# -- full -------------------------------------------------------------------------------------------------------------


def test_a_memcached_that_evicts_ends_in_the_truth(own_server, make_hosts):
    """Blobs, leases, directory and the retired record are pushed out again and again by somebody else's items."""
    server = own_server("memcached", "-m", "2", "-I", "512k")
    hosts = make_hosts(server.url)
    a, b, gone = (hosts.host() for _ in range(3))
    for host in (a, b, gone):
        host.backend.counter("orders").inc(3)
        host.step()
    gone.die()
    for _ in range(3):
        hosts.time.jump(61)
        a.step()
        b.step()
    assert a.total("orders") == 9
    for _ in range(3):
        _push_out(server)
        for host in (a, b):
            host.agent.member.segment_lease.ask_now()
            host.step()
            host.step()
            host.agent.member.segment_lease.ask_now()
            host.sync()
        for host in (a, b):
            host.step()
        for host in (a, b):
            assert host.total("orders") == 9


def _push_out(server):
    import pymemcache

    client = pymemcache.Client(server.address, default_noreply=False, timeout=10)
    sizes = [32, 64, 100, 150, 200, 300, 400, 500, 700, 900, 1_200, 2_000, 4_000]
    for size in sizes:
        for number in range(4_000_000 // (size + 60)):
            client.set(f"other-{size}-{number}", b"x" * size, noreply=True)
    assert int(client.stats()[b"evictions"]) > 0
    client.close()


@pytest.mark.parametrize("engine", ["valkey", "redis"])
def test_a_redis_without_memory_refuses_and_goes_on_when_it_has_some(own_server, make_hosts, caplog, engine):
    import redis

    server = own_server(engine, "--maxmemory-policy", "noeviction")
    hosts = make_hosts(server.url)
    host, other = hosts.host(), hosts.host()
    host.backend.counter("orders").inc(2)
    host.sync()
    client = redis.Redis(port=server.port)
    try:
        client.set("other", b"x" * 1_000_000)
        client.config_set("maxmemory", 1_000_000)
        host.backend.counter("orders").inc(3)
        for _ in range(2):
            report = host.agent.sync_now()
            assert report["success"] is False
            assert "OutOfMemory" in report["error"]
        host.step()
        assert len(said(caplog)) == 1
        assert other.total("orders") == 2, "what is there stays readable, and right"
        client.config_set("maxmemory", 100_000_000)
        host.sync()
        assert other.total("orders") == 5
    finally:
        client.close()


# -- ending -----------------------------------------------------------------------------------------------------------


def test_closing_is_quick_while_the_cache_hangs_in_the_middle_of_a_request(make_agent, proxy, url):
    agent, _ = make_agent(url, timeout=0.5, lease_ttl=60.0)
    until(lambda: agent.member.segment_lease.held, seconds=SECONDS)
    proxy.hold()
    until(lambda: not agent._lock.acquire(timeout=0.2) or agent._lock.release(), seconds=SECONDS)
    began = time.monotonic()
    agent.stop()
    took = time.monotonic() - began
    assert took < 0.5 + 0.5, "the time-out of the request that hangs"
    until(
        lambda: not any(t.name == "shm_metrics-sync" and t.is_alive() for t in threading.enumerate()), seconds=SECONDS
    )


def test_the_port_is_let_go_at_once_also_while_the_cache_hangs(make_agent, proxy, url):
    agent, _ = make_agent(url, timeout=1.5, export_port=0, lease_ttl=60.0)
    until(lambda: agent.endpoint.port is not None, seconds=SECONDS)
    port = agent.endpoint.port
    proxy.hold()
    until(lambda: not agent._lock.acquire(timeout=0.2) or agent._lock.release(), seconds=SECONDS)
    ending = threading.Thread(target=agent.stop)
    began = time.monotonic()
    ending.start()

    def free():
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            return False
        return True

    until(free, seconds=SECONDS)
    assert time.monotonic() - began < 1.0
    ending.join()


def test_a_scrape_of_the_cluster_does_not_stop_the_port_from_being_let_go(make_agent, proxy, url):
    """The scrape waits for the agent, which waits for the cache, and ending waits for neither forever."""
    agent, _ = make_agent(url, timeout=0.5, export_port=0, lease_ttl=1.0)
    until(lambda: agent.endpoint.port is not None, seconds=SECONDS)
    address = f"http://127.0.0.1:{agent.endpoint.port}/cluster/metrics"
    proxy.hold()
    scraped = []

    def scrape():
        try:
            with urlopen(address, timeout=20) as page:
                scraped.append(page.status)
        except HTTPError as error:
            scraped.append(error.code)
            error.close()
        except OSError as error:  # cut off, as its server ended
            scraped.append(error)

    scraping = threading.Thread(target=scrape)
    scraping.start()
    until(lambda: agent.endpoint.port is None, seconds=1.0 + 0.5 + 2.0)
    scraping.join(10)
    assert scraped


def test_a_closed_store_has_no_connection_left(make_hosts, proxy, url):
    host = make_hosts(url).host()
    host.sync()
    assert proxy._open
    host.agent.stop()
    until(lambda: not proxy._open, seconds=5)
