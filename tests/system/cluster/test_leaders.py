"""Leaders that are killed, stopped, cut off, released: the next one is there in time, and the old one does no harm."""

from __future__ import annotations

import itertools
import os
import signal
import time
from urllib.request import urlopen

import pytest

from shm_metrics import MetricsBackend
from shm_metrics.cluster.agent import SyncAgent
from shm_metrics.cluster.config import SyncConfig
from tests.support.cache_servers import free_port
from tests.support.cluster_worker import Worker

pytestmark = pytest.mark.slow

TTL = 1.5
GRACE = 1.0


@pytest.fixture
def make_worker(server, namespace, tmp_path):
    """make_worker(cache=the server's, **options): one more worker of the test's segment, not started yet."""
    made = []

    def make(cache=None, **options):
        told = {"namespace": namespace, "lease_ttl": TTL, "interval": 0.1, "timeout": 1.0, **options}
        made.append(Worker(tmp_path / "segment", cache or server.url, **told))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


@pytest.fixture
def looks_on(server, namespace, tmp_path):
    """The cluster's total of `orders`, seen by another host, which never publishes."""
    backend = MetricsBackend(path=tmp_path / "looks-on", rows=2, slots=256, process_metrics=False)
    agent = SyncAgent(backend, server.url, SyncConfig(namespace=namespace))
    yield agent
    agent.stop()
    backend.close()


def lead(*workers):
    """Start them in this order: the first is the leader, and has published."""
    for worker in workers:
        worker.tell("start")
        if worker is workers[0]:
            worker.wait("published")
        else:
            worker.wait("done", command="start")


def through(proxy, server):
    return server.url.replace(f":{server.port}", f":{proxy.port}")


def assert_took_over(new, since, seconds=TTL + GRACE):
    """The new leader's first accepted blob, in time."""
    published = new.wait("published")
    assert published["at"] - since <= seconds, f"{published['at'] - since:.2f} s after the old one's last sign of life"
    return published


def test_a_killed_leader_is_replaced_in_time(make_worker, looks_on):
    first, second = make_worker(), make_worker()
    first.ask("inc", 5)
    lead(first, second)
    dead = first.kill()
    published = assert_took_over(second, dead)
    assert published["token"] > max(event["token"] for event in first.events if "token" in event)
    second.ask("inc", 2)
    assert second.ask("sync")["success"]
    assert looks_on.view().value("orders") == 7


def test_a_leader_that_was_stopped_in_the_middle_of_a_publish_is_refused(make_worker, looks_on):
    first, second = make_worker(), make_worker()
    first.ask("inc", 5)
    lead(first, second)
    first.tell("stop_at_next_publish")
    stopped = first.wait_stopped()
    assert_took_over(second, stopped)
    second.ask("inc", 2)
    assert second.ask("sync")["success"]
    newest = second.wait("published")
    first.resume()
    refused = first.wait("refused")  # it had looked at its lease, and sent its blob of 5 now
    assert refused["token"] < newest["token"]
    assert looks_on.view().value("orders") == 7
    assert second.wait("published")["token"] == newest["token"], "the new leader has not noticed"
    assert first.since(refused["at"], "published") == []
    told = first.ask("told")
    assert told["failed"] == 1
    assert "LockLostError" in told["error"]


def test_what_an_old_leader_sends_is_refused_and_its_release_leaves_the_new_lease_alone(make_worker, looks_on):
    first, second = make_worker(), make_worker()
    first.ask("inc", 5)
    lead(first, second)
    stopped = first.pause()
    newest = assert_took_over(second, stopped)
    first.resume()
    assert first.ask("publish_with_last_grant").startswith("refused")
    assert first.ask("release_last_grant") is False
    asked = time.monotonic()
    for _ in range(4):
        assert second.wait("published")["token"] == newest["token"]
    assert second.since(asked, "lost") == second.since(asked, "refused") == []
    assert first.since(asked, "held") == []
    assert looks_on.view().value("orders") == 5


@pytest.mark.parametrize("how", ["hold", "refuse"])
def test_a_leader_that_is_cut_off_from_the_cache_is_replaced_in_time(server, make_worker, make_proxy, looks_on, how):
    proxy = make_proxy(server)
    first, second = make_worker(through(proxy, server)), make_worker()
    first.ask("inc", 5)
    lead(first, second)
    getattr(proxy, how)()
    cut = time.monotonic()
    newest = assert_took_over(second, cut)
    second.ask("inc", 2)
    assert second.ask("sync")["success"]
    proxy.pass_on()  # what was held back reaches the cache now
    back = time.monotonic()
    for _ in range(6):
        assert second.wait("published")["token"] == newest["token"]
    assert first.since(back, "published") == []
    assert looks_on.view().value("orders") == 7
    second.kill()
    assert_took_over(first, time.monotonic())  # it is a contender like any other again
    assert looks_on.view().value("orders") == 7


def test_a_leader_that_is_cut_off_stops_before_the_next_one_begins(server, make_worker, make_proxy):
    proxy = make_proxy(server)
    first, second = make_worker(through(proxy, server)), make_worker()
    lead(first, second)
    proxy.hold()
    began = second.wait("held")["at"]
    accepted = [event["at"] for event in first.drain() if event["event"] == "published"]
    assert max(accepted) < began


def test_a_leader_that_ends_gives_the_lease_back(make_worker):
    first, second = make_worker(lease_ttl=60.0), make_worker(lease_ttl=60.0)
    lead(first)
    took = first.ask("stop")
    assert took < 1.0
    second.tell("start")
    began = time.monotonic()
    assert second.wait("published")["at"] - began < 5.0, "it did not wait for the lease of 60 s to run out"


def test_a_program_that_ends_without_closing_anything_gives_the_lease_back(make_worker):
    first, second = make_worker(lease_ttl=60.0), make_worker(lease_ttl=60.0)
    lead(first)
    assert first.exit() == 0
    began = time.monotonic()
    second.tell("start")
    assert second.wait("published")["at"] - began < 5.0


# -- the port ---------------------------------------------------------------------------------------------------------


def served_by(port):
    """Whether somebody serves the port now."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            return b"orders_total" in page.read()
    except OSError:
        return False


def assert_soon(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def test_the_next_leader_serves_the_same_port_after_one_that_was_stopped(make_worker):
    port = free_port()
    first, second = make_worker(export_port=port), make_worker(export_port=port)
    lead(first, second)
    assert first.ask("port") == port
    stopped = first.pause()
    assert_took_over(second, stopped)
    assert second.ask("port") is None, "the port is still the stopped one's"
    first.resume()
    assert_soon(lambda: second.ask("port") == port, TTL)
    assert first.ask("port") is None
    assert served_by(port)


@pytest.mark.parametrize("how", ["hold", "refuse"])
def test_the_next_leader_serves_the_same_port_after_one_that_was_cut_off(server, make_worker, make_proxy, how):
    port = free_port()
    proxy = make_proxy(server)
    first, second = make_worker(through(proxy, server), export_port=port), make_worker(export_port=port)
    lead(first, second)
    getattr(proxy, how)()
    cut = time.monotonic()
    assert_took_over(second, cut)
    # One more request of the old one may hang for its time-out, and the new one tries once a second.
    assert_soon(lambda: second.ask("port") == port, 1.0 + 1.0 + GRACE)
    assert first.ask("port") is None
    assert served_by(port)


# -- many -------------------------------------------------------------------------------------------------------------


def contend(make_worker, looks_on, workers, seconds, spare):
    """`workers` processes count and contend; each second the leader is killed and another process begins."""
    team = [make_worker(lease_ttl=1.0, interval=0.1) for _ in range(workers)]
    everyone = list(team)
    waiting = [make_worker(lease_ttl=1.0, interval=0.1) for _ in range(spare)]
    for worker in team:
        worker.tell("start")
    expected = killed = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        round_ends = time.monotonic() + 1.0
        amount = 1 + killed % 3
        for worker in team:
            worker.tell("inc", amount)
        for worker in team:
            worker.wait("done", command="inc")
            expected += amount
        leader = leading(team)
        while leader is None or time.monotonic() < round_ends:
            time.sleep(0.02)
            leader = leading(team)
            assert time.monotonic() < round_ends + 30, "nobody leads"
        leader.kill()
        killed += 1
        team.remove(leader)
        if not waiting:
            waiting.append(make_worker(lease_ttl=1.0, interval=0.1))
        team.append(waiting.pop())
        everyone.append(team[-1])
        team[-1].tell("start")
    assert killed >= seconds / 4
    last = time.monotonic()
    assert_soon(lambda: any(len(worker.since(last, "published")) > 1 for worker in team), 10)
    assert looks_on.view().value("orders") == expected
    assert_one_holder_at_a_time(everyone)
    return killed


def leading(team):
    """Who has told of an accepted blob with the newest token, if it lives."""
    last = [(worker.drain()[-1], worker) for worker in team if worker.drain()]
    told = [(event["token"], worker) for event, worker in last if event["event"] == "published"]
    return max(told, key=lambda pair: pair[0])[1] if told else None


def assert_one_holder_at_a_time(workers):
    """In the order in which the cache accepted them, blobs come from one holder, then from the next, never back."""
    accepted = sorted(
        (event["sequence"], event["token"], event["pid"])
        for worker in workers
        for event in worker.drain()
        if event["event"] == "published"
    )
    assert len({sequence for sequence, _, _ in accepted}) == len(accepted)
    tokens = [token for _, token, _ in accepted]
    assert tokens == sorted(tokens)
    holders = [{pid for _, t, pid in accepted if t == token} for token, _ in itertools.groupby(tokens)]
    assert all(len(pids) == 1 for pids in holders)


def test_eight_processes_contend_and_leaders_die(make_worker, looks_on):
    contend(make_worker, looks_on, workers=8, seconds=3, spare=3)


@pytest.mark.torture
@pytest.mark.timeout(240)
def test_twenty_processes_contend_for_a_minute_and_leaders_die_each_second(make_worker, looks_on):
    contend(make_worker, looks_on, workers=20, seconds=60, spare=10)


# -- fork -------------------------------------------------------------------------------------------------------------


def test_a_child_of_fork_goes_on_with_an_agent_of_its_own(server, namespace, tmp_path, looks_on):
    """Forked while the parent's thread is at work; then the parent ends, and the child leads."""
    config = SyncConfig(namespace=namespace, interval=0.05, lease_ttl=TTL, timeout=1.0)
    backend = MetricsBackend(path=tmp_path / "segment", rows=8, slots=256, process_metrics=False)
    agent = SyncAgent(backend, server.url, config)
    counter = backend.counter("orders")
    counter.inc()
    agent.start()
    assert_soon(lambda: agent.member.segment_lease.held, 10)
    reading, writing = os.pipe()
    children = []
    try:
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                signal.alarm(30)  # a child that hangs ends, and fails the test
                counter.inc()
                ours = agent.running and not agent.sync_now()["success"]  # it is the parent that leads
                os.write(writing, b"y" if ours else b"n")
                os._exit(0)
            children.append(pid)
        for pid in children:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert os.read(reading, 5) == b"yyyyy"
        agent.stop()
        agent = SyncAgent(backend, server.url, config)
        assert agent.sync_now()["success"]
        assert looks_on.view().value("orders") == 6
    finally:
        os.close(reading)
        os.close(writing)
        agent.stop()
        backend.close()


def test_a_child_of_fork_takes_over_when_its_parent_has_died(server, namespace, tmp_path, looks_on):
    """A master that loaded the application, forked a worker, and ends: fork, then fork again within."""
    path = tmp_path / "segment"
    reading, writing = os.pipe()
    master = os.fork()
    if master == 0:
        try:
            signal.alarm(30)
            backend = MetricsBackend(path=path, rows=8, slots=256, process_metrics=False)
            config = SyncConfig(namespace=namespace, interval=0.05, lease_ttl=TTL, timeout=1.0)
            agent = SyncAgent(backend, server.url, config)
            backend.counter("orders").inc()
            agent.start()
            while not agent.member.segment_lease.held:
                time.sleep(0.01)
            if os.fork() == 0:
                signal.alarm(30)
                backend.counter("orders").inc()
                while not (agent.member.segment_lease.held and agent.sync_now()["success"]):
                    time.sleep(0.01)
                agent.stop()
                os.write(writing, b"y")
        finally:
            os._exit(0)
    os.close(writing)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(master, 0)[1]) == 0
        assert os.read(reading, 1) == b"y"
        assert looks_on.view().value("orders") == 2
    finally:
        os.close(reading)


# -- two hosts, for real ----------------------------------------------------------------------------------------------


def test_two_hosts_converge_by_their_threads(server, namespace, tmp_path, looks_on):
    config = SyncConfig(namespace=namespace, interval=0.1, lease_ttl=TTL, timeout=1.0)
    hosts = [MetricsBackend(path=tmp_path / name, rows=4, slots=256, process_metrics=False) for name in ("a", "b")]
    agents = [SyncAgent(backend, server.url, config) for backend in hosts]
    try:
        for agent in agents:
            agent.start()
        for _ in range(100):
            for backend in hosts:
                backend.counter("orders").inc()
        assert_soon(lambda: looks_on.view().value("orders") == 200, 10)
        for agent in agents:
            assert (agent.failed, agent.retries) == (0, 0)
    finally:
        for agent in agents:
            agent.stop()
        for backend in hosts:
            backend.close()
