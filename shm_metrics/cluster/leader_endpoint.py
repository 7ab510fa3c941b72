"""The port that a segment's leader serves: its host, and the cluster.

    /metrics            this host: as from any of its workers
    /cluster/metrics    all hosts, every name with the prefix `cluster:`, so that no sum counts a host twice

Both in the formats that the client accepts: text, OpenMetrics, JSON.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from shm_metrics.cluster.config import SyncConfig
from shm_metrics.cluster.merge.merge import ClusterView
from shm_metrics.exposition import SCRAPED_OR_JSON
from shm_metrics.model.families import AnyFamily, Sample, SampleFamily
from shm_metrics.runtime.log_once import LogOnce
from shm_metrics.serving.endpoint import Endpoint, Response
from shm_metrics.serving.httpd import MetricsServer

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

__all__ = ["PREFIX", "ClusterSource", "LeaderEndpoint", "cluster_families"]

log = logging.getLogger("shm_metrics")

PREFIX = "cluster:"
CLUSTER_PATH = "/cluster"


def cluster_families(view: ClusterView, *, damaged: int = 0) -> list[AnyFamily]:
    """Return the view as a scrape shows it: prefixed, with the number of its instances.

    damaged: number of blobs that cannot be read and are left out.
    """
    families: list[AnyFamily] = [
        replace(found, family=replace(found.family, name=PREFIX + found.family.name)) for found in view.families
    ]
    counted = [instance for instance in view.instances if instance.state in ("counted", "returned")]
    for name, text, value in (
        ("instances", "Instances that the cluster's totals are made of", len(counted)),
        ("stale_instances", "Instances that have not been published for a while", sum(i.stale for i in counted)),
        ("conflicts", "Definitions that are hidden because a newer one has the same name", len(view.conflicts)),
        ("damaged_blobs", "Blobs that cannot be read and are left out", damaged),
    ):
        full = f"{PREFIX}shm_metrics_{name}"
        families.append(SampleFamily(full, text, "gauge", [Sample(full, {}, float(value))]))
    return families


class ClusterSource:
    """The cluster as the source of an endpoint."""

    def __init__(self, families: Callable[[], list[AnyFamily]]) -> None:
        self.collect = families


class LeaderEndpoint:
    """The HTTP port of a segment's leader: open while its process holds the segment's lease."""

    def __init__(self, backend: MetricsBackend, cluster: Callable[[], list[AnyFamily]], config: SyncConfig) -> None:
        self._backend = backend
        self._cluster = cluster
        self._port, self._addr = config.export_port, config.export_addr
        self._server: MetricsServer | None = None
        self._thread: threading.Thread | None = None
        self._log_once = LogOnce(log)
        self._lock = threading.Lock()  # stop() may close while the agent's thread opens

    @property
    def port(self) -> int | None:
        """The port that is served now, or None."""
        return None if self._server is None else self._server.server_port

    def open(self) -> None:
        """Bind the port if one is configured and free; the previous leader may take a moment to close it."""
        with self._lock:
            self._open()

    def _open(self) -> None:
        if self._port is None or self._server is not None:
            return
        cluster = Endpoint(ClusterSource(self._cluster), SCRAPED_OR_JSON)
        paths = _Paths({CLUSTER_PATH: cluster}, Endpoint(self._backend, SCRAPED_OR_JSON))
        try:
            server = MetricsServer(self._addr, self._port, paths)
        except OSError as error:
            self._log_once.warning(
                "listen",
                "shm_metrics: the leader cannot listen on %s port %s: %s; retrying",
                self._addr,
                self._port,
                error,
            )
            return
        self._log_once.forget("listen")
        thread = threading.Thread(target=server.serve_until_shutdown, name="shm_metrics-leader-http", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads: shutdown() would wait for a thread that never started
            server.server_close()
            raise
        self._server, self._thread = server, thread

    def close(self) -> None:
        """Close the port."""
        with self._lock:
            server, thread = self._server, self._thread
            self._server = self._thread = None
        if server is not None and thread is not None:
            server.shutdown()
            thread.join()

    def forget(self) -> None:
        """In a child of fork, drop the server; it closes its inherited sockets by itself."""
        self._server = self._thread = None


class _Paths:
    """Several endpoints behind one port, selected by the beginning of the request's path, and a default."""

    def __init__(self, by_path: dict[str, Endpoint], other: Endpoint) -> None:
        self._by_path = by_path
        self._other = other

    def answer(
        self,
        accept: str | None = None,
        accept_encoding: str | None = None,
        names: Sequence[str] = (),
        method: str = "GET",
        path: str = "/",
    ) -> Response:
        for beginning, endpoint in self._by_path.items():
            if path == beginning or path.startswith(beginning + "/"):
                return endpoint.answer(accept, accept_encoding, names, method, path)
        return self._other.answer(accept, accept_encoding, names, method, path)
