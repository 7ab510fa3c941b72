"""Hosts that publish, die, return and are folded, on real caches: the totals stay exact."""

from __future__ import annotations

import json
import os
import threading
import time
from urllib.request import Request, urlopen

import pytest

from shm_metrics import InvalidMetricError, MetricsBackend
from shm_metrics.cluster.agent import SyncAgent
from shm_metrics.cluster.codec import wire
from shm_metrics.cluster.config import SyncConfig
from tests.support.cluster_hosts import Hosts
from tests.support.waiting import until

pytestmark = pytest.mark.slow  # real caches, and a Valkey that there is for Python 3.11 and later


def test_published_three_times_five_is_five(hosts):
    host = hosts.host()
    host.backend.counter("orders").inc(5)
    for _ in range(3):
        host.sync()
    assert host.total("orders") == 5


def test_hosts_add_up(hosts):
    a, b = hosts.host(), hosts.host()
    a.backend.counter("orders", shop="x").inc(7)
    b.backend.counter("orders", shop="x").inc(5)
    a.backend.histogram("seconds", buckets=[1, 2]).observe(0.5)
    b.backend.histogram("seconds", buckets=[1, 2]).observe(1.5)
    a.backend.gauge("depth", multiprocess_mode="livesum").set(3)
    b.backend.gauge("depth", multiprocess_mode="livesum").set(4)
    a.sync()
    b.sync()
    for host in (a, b):
        assert host.total("orders", shop="x") == 12
        assert host.agent.view().family("seconds").values.tolist() == [[1, 1, 0]]
        assert host.total("depth") == 7


def test_a_host_that_restarts_under_the_same_name_begins_anew_and_nothing_is_lost(hosts):
    a, b = hosts.host(), hosts.host()
    a.backend.counter("orders").inc(7)
    b.backend.counter("orders").inc(5)
    a.sync()
    b.sync()
    assert a.total("orders") == 12
    b.die()
    b = hosts.host(b.path)  # the same path, process and host; another incarnation
    b.backend.counter("orders").inc(2)
    b.sync()
    assert a.total("orders") == 14
    for _ in range(3):  # its former blob is silent for longer than the retention, and is folded once
        a.step()
        b.step()
        hosts.time.jump(61)
        assert a.total("orders") == 14
    retired = wire.decode_retired(a.agent.store.retired())
    assert len(retired.folded) == 1
    assert len(a.agent.store.instances()) == 2
    assert a.total("orders") == 14


def test_whoever_was_folded_and_comes_back_counts_what_came_since(hosts):
    a, b = hosts.host(), hosts.host()
    b.backend.counter("orders").inc(5)
    a.step()
    b.step()
    for _ in range(3):  # b is cut off, and counts on
        hosts.time.jump(61)
        a.step()
    assert a.total("orders") == 5
    assert b.agent.member.instance in wire.decode_retired(a.agent.store.retired()).folded
    b.backend.counter("orders").inc(3)
    b.step()
    assert a.total("orders") == 8
    for _ in range(3):  # and is folded a second time
        hosts.time.jump(61)
        a.step()
        assert a.total("orders") == 8


def test_a_leader_that_dies_within_a_fold_leaves_nothing_that_counts_twice(hosts, monkeypatch):
    a, b, c = hosts.host(), hosts.host(), hosts.host()
    b.backend.counter("orders").inc(5)
    for host in (a, b, c):
        host.step()
    b.die()
    store = type(a.agent.store)
    commit = store.commit_fold

    def dies(self, *arguments):
        commit(self, *arguments)
        raise RuntimeError("killed after the cache has it, before it knows")

    monkeypatch.setattr(store, "commit_fold", dies)
    for _ in range(3):
        hosts.time.jump(61)
        a.step()
        c.step()
        assert a.total("orders") == 5
    monkeypatch.setattr(store, "commit_fold", commit)
    a.die()
    for _ in range(3):
        hosts.time.jump(61)
        c.step()
        assert c.total("orders") == 5


def test_only_one_worker_of_a_segment_publishes_and_the_next_takes_over(hosts):
    first = hosts.host()
    second = hosts.host(first.path)
    first.backend.counter("orders").inc()
    first.step()
    second.step()
    assert first.agent.member.segment_lease.held
    assert not second.agent.member.segment_lease.held
    refused = second.agent.sync_now()
    assert refused["success"] is False
    assert "holds the lease" in refused["error"]
    first.agent.stop()
    second.agent.member.segment_lease.ask_now()
    second.step()
    assert second.agent.member.segment_lease.held
    second.backend.counter("orders").inc()
    second.step()
    assert second.total("orders") == 2


def test_a_report_says_what_was_sent(hosts):
    host = hosts.host()
    host.backend.counter("orders", shop="x").inc()
    host.backend.counter("orders", shop="y").inc()
    host.backend.gauge("depth").set(1)
    host.backend.histogram("seconds").observe(1)
    before = time.time()
    report = host.sync()
    assert set(report) == {
        *("success", "strategy", "synced_metrics", "duration", "performance", "timestamp", "instance_id")
    }
    assert {*report["performance"]} == {
        *("counters", "gauges", "histograms", "bytes", "round_trips", "retries", "failed")
    }
    assert before <= report["timestamp"] <= time.time()
    assert 0 < report["duration"] < 10
    assert report["performance"]["round_trips"] >= 1
    assert report["synced_metrics"] == 4
    assert {name: report["performance"][name] for name in ("counters", "gauges", "histograms")} == {
        "counters": 2,
        "gauges": 1,
        "histograms": 1,
    }
    assert report["performance"]["bytes"] > 0
    assert report["strategy"] in ("distributed_atomic", "distributed_basic")
    assert report["instance_id"] == host.backend.instance_id
    assert "error" not in report


def test_a_stale_host_takes_its_live_gauges_along_and_its_counts_stay(hosts):
    a, b = hosts.host(retention=600.0), hosts.host(retention=600.0)
    for host in (a, b):
        host.backend.gauge("in_flight", multiprocess_mode="livesum").set(2)
        host.backend.counter("orders").inc(2)
        host.step()
    a.step()
    assert a.total("in_flight") == 4
    hosts.time.jump(a.agent.config.stale_after)
    a.step()
    view = a.agent.view()
    assert view.value("in_flight") == 2
    assert view.value("orders") == 4
    assert [instance.stale for instance in view.instances if instance.instance == b.backend.instance_id] == [True]


def test_the_leader_serves_its_host_and_the_cluster(hosts):
    a, b = hosts.host(export_port=0), hosts.host()
    for host in (a, b):
        host.backend.counter("orders").inc(2)
        host.step()
    a.step()
    port = a.agent.endpoint.port
    pages = [urlopen(f"http://127.0.0.1:{port}{path}", timeout=10).read() for path in ("/metrics", "/cluster/metrics")]
    assert b"\norders_total 2.0\n" in pages[0]
    assert b"cluster:" not in pages[0]
    assert b"\ncluster:orders_total 4.0\n" in pages[1]
    assert b"\ncluster:shm_metrics_instances 2.0\n" in pages[1]
    assert not any(line.startswith(b"orders_total") for line in pages[1].splitlines())
    a.agent.stop()
    with pytest.raises(OSError):
        urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)


@pytest.mark.parametrize(("path", "prefix", "total"), [("/metrics", "", 2.0), ("/cluster/metrics", "cluster:", 4.0)])
def test_the_leaders_pages_are_text_openmetrics_or_json_as_the_client_accepts(hosts, path, prefix, total):
    a, b = hosts.host(export_port=0), hosts.host()
    for host in (a, b):
        host.backend.counter("orders").inc(2)
        host.step()
    a.step()

    def page(accept):
        url = f"http://127.0.0.1:{a.agent.endpoint.port}{path}"
        return urlopen(Request(url, headers={"Accept": accept}), timeout=10).read()

    assert f"# TYPE {prefix}orders_total counter\n".encode() in page("text/plain")
    assert f"# TYPE {prefix}orders counter\n".encode() in page("application/openmetrics-text")
    families = {family["name"]: family for family in json.loads(page("application/json"))["families"]}
    assert families[f"{prefix}orders"]["series"][0]["value"] == total
    a.agent.stop()


def test_a_port_for_which_there_is_no_thread_is_let_go(hosts, monkeypatch):
    host = hosts.host(export_port=0)

    def refused(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        host.step()
    assert host.agent.failed == 1
    assert host.agent.endpoint.port is None
    host.step()
    assert host.agent.endpoint.port is not None


def test_the_thread_publishes_by_itself(hosts):
    host = hosts.host(interval=0.05, lease_ttl=1.0)
    host.backend.counter("orders").inc()
    published = threading.Event()
    publish = host.agent.member.publish

    def watched():
        result = publish()
        published.set()
        return result

    host.agent.member.publish = watched
    host.agent.start()
    assert published.wait(30)
    host.agent.stop()
    assert not host.agent.running
    assert hosts.host().total("orders") == 1


# -- through the backend ----------------------------------------------------------------------------------------------


def test_a_backend_with_a_cache_exports_the_cluster(server, namespace, tmp_path):
    made = [
        MetricsBackend(path=tmp_path / name, cache=server.url, namespace=namespace, sync_options={"lease_ttl": 5})
        for name in ("a", "b")
    ]
    try:
        for backend in made:
            backend.counter("orders", shop="x").inc(3)
            assert backend.sync_to_cache()["success"]
        told = made[0].export_distributed_metrics(include_instances=True)
        assert told["distributed"] is True
        assert told["metrics"]['orders_total{shop="x"}']["value"] == 6
        own = told["instances"][made[1].instance_id]
        assert own["metrics"]['orders_total{shop="x"}']["value"] == 3
        assert told["stale_instances"] == []
        assert made[0].sync_strategy == told["strategy"] == made[0].cache_strategy.coordination_mode
        assert made[0].cache_capabilities["distributed"] is True
    finally:
        for backend in made:
            backend.close()


def test_the_export_names_who_is_stale_and_what_has_two_definitions(server, namespace, tmp_path):
    options = {"cache": server.url, "namespace": namespace, "sync_options": {"stale_after": 0.05, "lease_ttl": 5}}
    made = [MetricsBackend(path=tmp_path / name, process_metrics=False, **options) for name in ("old", "new")]
    try:
        for backend, buckets in zip(made, ([1, 2], [1, 2, 3]), strict=True):
            backend.histogram("seconds", buckets=buckets).observe(0.5)
            assert backend.sync_to_cache()["success"]
        reader = made[1]
        reader.export_distributed_metrics()

        def stale():
            assert reader.sync_to_cache()["success"]
            return reader.export_distributed_metrics()["stale_instances"]

        until(lambda: stale() == [made[0].instance_id], "only the one that publishes no more is stale")
        told = reader.export_distributed_metrics()
        assert told["conflicts"] == [
            {"name": "seconds", "shown": "histogram", "hidden": "histogram", "instances": 1, "series": 1}
        ]
        assert told["metrics"]["seconds"]["count"] == 1, "the newest definition is shown, and nothing is mixed in"
    finally:
        for backend in made:
            backend.close()


def test_without_a_cache_the_export_is_local_and_says_so(make_backend):
    backend = make_backend()
    backend.counter("orders").inc(3)
    told = backend.export_distributed_metrics()
    assert told["distributed"] is False
    assert "no cache" in told["warning"]
    assert told["metrics"]["orders_total"]["value"] == 3
    assert backend.start_sync() is None
    assert backend.sync_strategy == "local_only"
    report = backend.sync_to_cache()
    assert report["success"], report


def test_a_cache_that_is_down_raises_nothing_and_claims_nothing(tmp_path, caplog):
    backend = MetricsBackend(path=tmp_path / "a", cache="redis://127.0.0.1:1/0")
    try:
        backend.counter("orders").inc(3)
        for _ in range(2):
            report = backend.sync_to_cache()
            assert report["success"] is False
            assert report["error"]
        assert report["performance"]["failed"] == 2
        assert sum("sync:" in record.getMessage() for record in caplog.records) == 1
        told = backend.export_distributed_metrics()
        assert told["distributed"] is False
        assert "did not answer" in told["warning"]
    finally:
        backend.close()


@pytest.mark.parametrize(
    "wrong",
    [{"interval": 0}, {"interval": "15"}, {"namespace": ""}, {"interval": 600}, {"lease_ttl": float("nan")}],
)
def test_options_that_make_no_sense_are_refused_by_name(wrong):
    with pytest.raises(InvalidMetricError, match="|".join(wrong)):
        SyncConfig(**wrong)


def test_an_unknown_option_is_refused_at_once(tmp_path):
    with pytest.raises(InvalidMetricError, match="lease_time"):
        MetricsBackend(path=tmp_path / "a", cache="redis://127.0.0.1:1/0", sync_options={"lease_time": 3})


def test_a_child_of_fork_has_an_agent_of_its_own(hosts):
    host = hosts.host()
    host.backend.counter("orders").inc()
    host.step()
    owner = host.agent.member.segment_lease.owner
    pid = os.fork()
    if pid == 0:
        ours = host.agent.member.segment_lease
        os._exit(0 if ours.owner != owner and not ours.held and host.agent.sync_now()["success"] is False else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert host.agent.member.segment_lease.held
    host.sync()


def test_a_child_of_fork_lets_go_of_its_parents_connection_and_leaves_it_alone(make_proxy, server, namespace, tmp_path):
    """Also where somebody still refers to the store, as the frame of the parent's thread does for good."""
    proxy = make_proxy(server)
    url = server.url.replace(f":{server.port}", f":{proxy.port}")
    hosts = Hosts(lambda: url, namespace, tmp_path)
    try:
        host = hosts.host()
        host.sync()
        held, own = host.agent.store, sockets_to(proxy.port)
        assert len(own) == 1
        pid = os.fork()
        if pid == 0:
            os._exit(0 if held is not host.agent.store and sockets_to(proxy.port) == [] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        host.sync()
        assert sockets_to(proxy.port) == own
    finally:
        hosts.close()


def sockets_to(port):
    """This process' connections to the port: their inodes."""
    found = []
    with open("/proc/self/net/tcp") as file:
        to = {line.split()[9] for line in file if line.split()[2].endswith(f":{port:04X}")}
    for fd in os.listdir("/proc/self/fd"):
        try:
            told = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue  # that of the directory
        if told.removeprefix("socket:[").rstrip("]") in to:
            found.append(told)
    return sorted(found)


def test_an_agent_needs_nothing_but_a_backend(make_backend):
    agent = SyncAgent(make_backend())
    assert agent.sync_now()["success"]
    agent.stop()


def test_a_process_that_ends_in_good_order_has_published_all_it_counted(hosts, server, namespace, python, tmp_path):
    code = """
import sys, time
from shm_metrics import MetricsBackend
path, cache, namespace = sys.argv[1:]
backend = MetricsBackend(path=path, cache=cache, namespace=namespace, sync_interval=100)
backend.counter("orders").inc(2)
agent = backend.start_sync()
while not agent.store.instances():
    time.sleep(0.01)
backend.counter("orders").inc(3)
"""
    python(code, str(tmp_path / "another"), server.url, namespace)
    assert hosts.host().total("orders") == 5


def test_a_blob_that_cannot_be_read_is_left_out_counted_and_told_once(hosts, caplog):
    a, b = hosts.host(), hosts.host()
    for host in (a, b):
        host.backend.counter("orders").inc(2)
        host.sync()
    store, member = b.agent.store, b.agent.member
    store.publish(member.segment_lease.grant, member.instance, b"no blob at all", member._sequence + 1, 30.0)
    for _ in range(2):
        assert a.total("orders") == 2
    assert list(a.agent.member.damaged) == [member.instance]
    assert sum("cannot be read" in record.getMessage() for record in caplog.records) == 1
    shown = {family.name: family for family in a.agent.families() if family.__class__.__name__ == "SampleFamily"}
    assert shown["cluster:shm_metrics_damaged_blobs"].samples[0].value == 1
    member._sequence += 1
    b.sync()
    assert a.total("orders") == 4
    assert not a.agent.member.damaged
