"""Several gunicorns, a segment each: the hosts of one cluster, on a real cache. The cluster's totals are exact."""

from __future__ import annotations

import http.client
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.load import get
from demo.server import Gunicorn
from shm_metrics import MetricsBackend
from tests.support.cache_servers import MemcachedServer, RedisServer, Server, free_port
from tests.support.running import Service
from tests.support.waiting import until

pytestmark = pytest.mark.slow

HOOKS = """
from shm_metrics.integrations import gunicorn as metrics
metrics.setup(globals(), {segment!r}, cache={cache!r}, namespace={namespace!r}, sync_interval={interval},
    sync_options={{"lease_ttl": 2, "retention": 600, "export_port": {port}}})
"""
TOTAL = re.compile(r"^cluster:requests_total\{.*\} (.+)$", re.MULTILINE)
LOOK = """
import sys
from shm_metrics import MetricsBackend
cache, namespace, path = sys.argv[1:]
backend = MetricsBackend(path=path, cache=cache, namespace=namespace)
told = backend.export_distributed_metrics()
assert told["distributed"], told
print(sum(series["value"] for key, series in told["metrics"].items() if key.startswith("requests_total")))
"""


@pytest.fixture(params=["valkey", "memcached"])
def cache(request, tmp_path_factory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("cache")
    made = MemcachedServer(directory) if request.param == "memcached" else RedisServer(request.param, directory)
    yield made
    made.stop()


class Host(Service):
    """One gunicorn. port: which its leader serves."""

    def __init__(self, server: Gunicorn, segment: Path, witness: Path, port: int) -> None:
        super().__init__(server, str(segment), witness)
        self.port = port

    def backend(self, **options: bool) -> MetricsBackend:
        return MetricsBackend(path=self.segment_name, read_only=True, **options)

    def instance(self) -> str:
        backend = self.backend()
        try:
            return backend.instance_id
        finally:
            backend.close()

    def page(self, path: str) -> str:
        """What the leader's port says; nothing while there is no leader."""
        try:
            status, body = get(self.port, path)
        except (OSError, http.client.HTTPException):
            return ""
        return body.decode() if status == 200 else ""

    def cluster_total(self) -> float:
        return sum(float(value) for value in TOTAL.findall(self.page("/cluster/metrics")))


class Cluster:
    def __init__(self, cache: Server, namespace: str, directory: Path, environ: dict[str, str]) -> None:
        self.cache = cache
        self.namespace = namespace
        self.directory = directory
        self.environ = environ
        self.running: list[Gunicorn] = []

    def host(
        self, *, interval: float = 0.2, app: str = "tests.system.servers.wsgi_app:app", **settings: object
    ) -> Host:
        directory = self.directory / f"host-{len(self.running)}"
        witness = directory / "witness"
        witness.mkdir(parents=True)
        segment, port = directory / "segment", free_port()
        told = {"workers": 3, "graceful_timeout": 5, "control_socket_disable": True, **settings}
        conf = directory / "gunicorn.conf.py"
        conf.write_text(
            "".join(f"{name} = {value!r}\n" for name, value in told.items())
            + HOOKS.format(
                segment=str(segment), cache=self.cache.url, namespace=self.namespace, interval=interval, port=port
            )
        )
        server = Gunicorn(app, str(segment), directory, conf=conf, environ={**self.environ, "WITNESS": str(witness)})
        self.running.append(server)
        return Host(server, segment, witness, port)

    def look(self) -> MetricsBackend:
        """What nobody counts in, and anybody may ask."""
        return MetricsBackend(path=self.directory / "looker", cache=self.cache.url, namespace=self.namespace)

    def publishers(self) -> dict[str, int]:
        """instance -> pid of the worker that published it last."""
        backend = self.look()
        try:
            told = backend.export_distributed_metrics()
            assert told["distributed"], told
            return {instance: found["pid"] for instance, found in told["instances"].items()}
        finally:
            backend.close()


@pytest.fixture
def cluster(cache: Server, segment_name: str, tmp_path: Path, environ: dict[str, str]) -> Iterator[Cluster]:
    made = Cluster(cache, segment_name, tmp_path, environ)
    yield made
    for server in made.running:
        server.kill()


@pytest.mark.parametrize(
    "settings",
    [{}, {"preload_app": True}, {"worker_class": "gevent"}],
    ids=["loaded by each worker", "preloaded", "gevent"],
)
def test_the_total_of_two_hosts_is_exact_though_a_leader_is_killed(
    cluster: Cluster, python: Callable[..., str], settings: dict[str, object]
):
    a, b = cluster.host(**settings), cluster.host(**settings)
    a.load(120)
    b.load(80)
    until(lambda: a.cluster_total() == b.cluster_total() == a.marks() + b.marks(), "both leaders serve the total")
    page = a.page("/metrics")
    assert "\nrequests_total{" in page
    assert "cluster:" not in page

    leader = cluster.publishers()[a.instance()]
    assert leader in a.server.workers()
    os.kill(leader, signal.SIGKILL)
    a.load(120)
    b.load(80)
    until(
        lambda: a.cluster_total() == b.cluster_total() == a.marks() + b.marks(), "another leads, and serves the total"
    )
    assert cluster.publishers()[a.instance()] not in (leader, cluster.publishers()[b.instance()])
    assert a.marks() + b.marks() >= 390
    total = python(LOOK, cluster.cache.url, cluster.namespace, str(cluster.directory / "another"))
    assert float(total) == a.marks() + b.marks()


def test_a_host_that_is_stopped_in_good_order_leaves_everything_it_counted(cluster: Cluster, python):
    a = cluster.host(interval=100)  # nothing is due again before the test is over
    a.load(50)
    until(lambda: a.instance() in cluster.publishers(), "it was published once")
    a.load(70)
    a.server.close()
    total = python(LOOK, cluster.cache.url, cluster.namespace, str(cluster.directory / "another"))
    assert float(total) == a.marks() == 120


def test_an_application_that_never_met_a_metric_is_in_the_cluster(cluster: Cluster):
    a = cluster.host(app="wsgiref.simple_server:demo_app")
    until(lambda: a.server.booted() and Path(a.segment_name).exists(), "the master is present")
    until(lambda: a.instance() in cluster.publishers(), "it is published")


def test_without_an_answering_cache_the_application_answers_and_counts(cluster: Cluster):
    cluster.cache.stop()
    a = cluster.host()
    a.load(60, halfway=a.kill_one)
    assert a.counted() == a.marks()
    until(lambda: "sync:" in a.server.log.read_text(), "the log says so")
    cluster.cache.restart()
    until(lambda: a.cluster_total() == a.marks(), "the whole truth is there when the cache is")


def test_an_application_of_prometheus_client_is_in_the_cluster_by_the_drop_in(cluster: Cluster):
    cluster.environ = {**cluster.environ, "SHM_METRICS_PROMETHEUS": "1"}
    a, b = cluster.host(app="demo.existing:app"), cluster.host(app="demo.existing:app")
    for host in (a, b):
        assert not host.load(60).broken
    total = re.compile(r"^cluster:http_requests_total\{.*\} (.+)$", re.MULTILINE)
    until(lambda: sum(map(float, total.findall(a.page("/cluster/metrics")))) == 120, "all of both hosts is there")
