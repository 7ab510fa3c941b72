"""uWSGI as a host of a cluster: its workers publish, whoever of them is there."""

from __future__ import annotations

import os
import signal

import pytest

from shm_metrics import MetricsBackend
from tests.support.cache_servers import RedisServer
from tests.support.waiting import until
from tests.system.jobs.test_uwsgi import CLIENTS, run_clients, uwsgi  # noqa: F401  # the fixture

pytestmark = pytest.mark.slow

SHARED_IMPORT = """
from shm_metrics.integrations import uwsgi as metrics
metrics.setup(cache={cache!r}, namespace={namespace!r}, sync_interval=0.2, sync_options={{"lease_ttl": 2}})
"""


@pytest.mark.parametrize("options", [(), ("--lazy-apps",)], ids=["preloaded", "loaded by each worker"])
def test_its_workers_publish_and_another_does_when_one_is_killed(request, segment_name, tmp_path, options):
    (tmp_path / "cache").mkdir()
    cache = RedisServer("valkey", tmp_path / "cache")
    (tmp_path / "metrics_conf.py").write_text(SHARED_IMPORT.format(cache=cache.url, namespace=segment_name))
    server = request.getfixturevalue("uwsgi")("--enable-threads", "--shared-import", "metrics_conf", *options)
    onlooker = MetricsBackend(path=tmp_path / "onlooker", cache=cache.url, namespace=segment_name)

    def told() -> tuple[float, int]:
        """The total, and the pid of the worker that published it."""
        found = onlooker.export_distributed_metrics()
        assert found["distributed"], found
        pids = [instance["pid"] for instance in found["instances"].values()]
        jobs = [series["value"] for key, series in found["metrics"].items() if key.startswith("jobs_total")]
        return sum(jobs), max(pids, default=0)

    try:
        run_clients(server.port, CLIENTS, 60, ["/work"])
        until(lambda: told()[0] == 60, "the cluster knows it all")
        leader = told()[1]
        until(lambda: leader in server.booted(), "the master says that it forked the worker that publishes")
        os.kill(leader, signal.SIGKILL)
        run_clients(server.port, CLIENTS, 40, ["/work"])
        until(lambda: told()[0] == 100 and told()[1] != leader, "another publishes")
    finally:
        onlooker.close()
        cache.stop()
