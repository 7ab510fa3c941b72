"""SyncAgent: the background task of each worker that publishes the segment to the cluster.

Every worker has one. All contend for the lease of their segment; only the holder publishes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from time import sleep  # at import, as locks.py says
from typing import TYPE_CHECKING, Any

from shm_metrics.cluster.config import SyncConfig
from shm_metrics.cluster.leader_endpoint import LeaderEndpoint, cluster_families
from shm_metrics.cluster.lease import Lease
from shm_metrics.cluster.member import Member, Published
from shm_metrics.cluster.merge.merge import ClusterView
from shm_metrics.cluster.model.blob import Blob
from shm_metrics.cluster.report import round_report
from shm_metrics.cluster.store_factory import open_store
from shm_metrics.cluster.stores.protocol import LOCAL_ONLY, Store
from shm_metrics.errors import LockLostError, SyncError
from shm_metrics.model.families import AnyFamily
from shm_metrics.runtime.periodic_task import LONGEST_WAIT, PeriodicTask

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

__all__ = ["SyncAgent"]

_LOOK_SECONDS = 0.002
"""Between two looks whether another worker's round is over: one takes about as long."""


class SyncAgent(PeriodicTask):
    """Publishes the segment of `backend` to a cache, and reads the cluster from it.

    cache: as open_store takes it. config: SyncConfig.

    start() begins the thread, stop() ends it and releases the leases. Every step can also be run without the thread.
    Raises InvalidMetricError for a cache that cannot be used. Connects to nothing yet.
    """

    thread_name = "shm_metrics-sync"
    log_name = "sync"

    def __init__(
        self,
        backend: MetricsBackend,
        cache: Any = None,
        config: SyncConfig | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.config = config or SyncConfig()
        self._backend = backend
        self._cache = cache
        self._now, self.wall = now, wall
        super().__init__()

    def _begin(self) -> None:
        """Start without leases and connections: those of a parent stay with the parent."""
        self.retries = 0
        self.store: Store = open_store(
            self._cache,
            namespace=self.config.namespace,
            segment=self._backend.segment,
            timeout=self.config.timeout,
        )
        self.member = Member(self._backend, self.store, self.config, now=self._now, wall=self.wall)
        self.endpoint = LeaderEndpoint(self._backend, self.families, self.config)
        self._publish_due = self._look_due = self._now()

    def after_fork(self) -> bool:
        self.endpoint.forget()
        self.store.forget()
        return super().after_fork()

    def _load(self) -> None:
        self._backend.snapshot()

    # -- the thread -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread if it is not running."""
        self._start()

    @property
    def leads(self) -> bool:
        """Whether this worker holds the segment's lease now; False while a slow cache delays the answer."""
        lock = self._lock
        if not lock.acquire(timeout=LONGEST_WAIT):
            return False
        try:
            return self.member.segment_lease.held
        finally:
            lock.release()

    def stop(self) -> None:
        """End the thread, release the leases and close the port, so that the next leader can take over at once.

        A cache that hangs delays this by one request at most, and by one more if it answered until then. Its leases
        then expire by themselves.
        """
        self.endpoint.close()
        if self._end(self.config.timeout):
            try:
                self._let_go()
            finally:
                self._lock.release()

    def _patience(self, seconds: float) -> float:
        return seconds if self._answers else 0.0

    def _let_go(self) -> None:
        """Close endpoint, leases and store for good."""
        self.endpoint.close()
        for lease in (self.member.cluster_lease, self.member.segment_lease):
            try:
                if self._answers:
                    lease.release()
            except SyncError as error:
                self._failure(error)
            lease.close()
        self.store.close()

    def _work_once_more(self) -> None:
        """Publish once more when the process exits normally."""
        if self.member.segment_lease.held:
            self.sync_now()

    # -- a step ---------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        try:
            self._do_what_is_due()
        finally:
            if not self.member.segment_lease.held:
                self.endpoint.close()

    def _do_what_is_due(self) -> None:
        member, now = self.member, self._now
        asks = member.segment_lease.seconds_to_wait == 0
        held = member.segment_lease.tick()
        if self._stop.is_set():
            return  # the segment may be closed by now
        if not held:
            if asks:
                self._success()
            return
        self._load_once()
        self.endpoint.open()
        if now() >= self._publish_due:
            self._publish_due = now() + self.config.interval
            try:
                member.publish()
            except SyncError:
                self._publish_due = now() + min(self.config.interval, self.config.lease_ttl / 3)
                self.retries += 1
                raise
        if now() >= self._look_due:
            self._look_due = now() + self.config.interval
            member.cluster_lease.tick()
            member.observe_and_fold()
        elif member.cluster_lease.held:
            member.cluster_lease.tick()
        self._success()

    def _wait(self) -> float:
        leases: list[Lease] = [self.member.segment_lease]
        waits = []
        if self.member.segment_lease.held:
            waits += [self._publish_due - self._now(), self._look_due - self._now()]
            if self.member.cluster_lease.held:
                leases.append(self.member.cluster_lease)
        waits += [lease.seconds_to_wait for lease in leases]
        return min(waits)

    @property
    def _answers(self) -> bool:
        """Whether the cache answered the last request."""
        return self._logged in (None, LockLostError.__name__)

    # -- asked by the application ---------------------------------------------------------------------------------

    def sync_now(self) -> dict[str, Any]:
        """Run one round now and return its round_report. Never raises."""
        began, timestamp = time.perf_counter(), self.wall()
        published: Published | None = None
        error: Exception | None = None
        with self._lock:
            before = self.store.round_trips
            lease = self.member.segment_lease
            held = lease.held
            try:
                self._take(lease)
                published = self.member.publish()
                self._publish_due = self._now() + self.config.interval
                if self.store.strategy == LOCAL_ONLY and not held and not self.running:
                    # One without a term would be ours for good, with no thread here to use it.
                    lease.release()
                self._success()
            except Exception as raised:
                error = raised
                self._failure(raised)
            return round_report(
                published,
                error=error,
                strategy=self.store.strategy,
                instance_id=self.member.instance,
                duration=time.perf_counter() - began,
                timestamp=timestamp,
                round_trips=self.store.round_trips - before,
                retries=self.retries,
                failed=self.failed,
            )

    def _take(self, lease: Lease) -> None:
        """Acquire the lease. Without a cache another worker holds it for one round only, so it is waited for.

        Raise LockLostError, SyncError.
        """
        if not lease.held:
            lease.ask_now()
        deadline = time.monotonic() + self.config.timeout
        while not lease.tick():
            if self._cache is not None or time.monotonic() >= deadline:
                raise LockLostError(
                    f"another worker of segment {self.member.instance} holds the lease; it publishes every "
                    f"{self.config.interval:g} s"
                )
            sleep(_LOOK_SECONDS)
            lease.ask_now()

    def read(self) -> tuple[ClusterView, dict[str, Blob]]:
        """Return the cluster as the cache has it now, and the blob of each instance. Raise SyncError."""
        with self._lock:
            return self.member.read()

    def families(self) -> list[AnyFamily]:
        """Return the cluster as a scrape shows it. Raise SyncError."""
        return cluster_families(self.view(), damaged=len(self.member.damaged))

    def view(self) -> ClusterView:
        """Return the cluster as the cache has it now. Raise SyncError."""
        return self.read()[0]
