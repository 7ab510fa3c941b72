"""SyncAgent: the thread in each worker that keeps the cluster informed, if it is this worker's turn.

Lives here: when to do what, what happens when it fails, fork. May not: know how anything is published or folded.

Every worker has one. All ask for their segment's lease, one has it, and that one works. Nothing that fails here reaches
the application: it is counted, and logged once until it goes right again.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shm_metrics import forks
from shm_metrics.errors import LockLostError, MetricsError, SyncError
from shm_metrics.families import AnyFamily
from shm_metrics.sync.blob import Blob
from shm_metrics.sync.cluster import ClusterView
from shm_metrics.sync.config import SyncConfig
from shm_metrics.sync.leader_endpoint import LeaderEndpoint, cluster_families
from shm_metrics.sync.lease import Lease
from shm_metrics.sync.member import Member, Published
from shm_metrics.sync.opening import open_store
from shm_metrics.sync.report import round_report
from shm_metrics.sync.stores.protocol import Store

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

__all__ = ["SyncAgent"]

log = logging.getLogger("shm_metrics")

_LONGEST_WAIT = 1.0
"""Seconds between two looks at the clock: a process that was stopped and continued finds out soon."""


class SyncAgent:
    """backend: whose segment it publishes. cache: as open_store takes it. config: SyncConfig.

    start() begins the thread, stop() ends it and gives the leases back. Everything can also be done without the
    thread, a step at a time. Raises InvalidMetricError for a cache that cannot be used; connects to nothing yet.
    """

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
        self.failed = 0
        self.retries = 0
        self.last_error: str | None = None
        self._backend = backend
        self._cache = cache
        self._now, self.wall = now, wall
        self._told: str | None = None
        self._begin()
        _agents.add(self)

    def _begin(self) -> None:
        """What a child of fork begins anew."""
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.store: Store = open_store(
            self._cache,
            namespace=self.config.namespace,
            segment=self._backend._segment,
            timeout=self.config.timeout,
        )
        self.member = Member(self._backend, self.store, self.config, now=self._now, wall=self.wall)
        self.endpoint = LeaderEndpoint(self._backend, self.families, self.config)
        self._publish_due = self._look_due = self._now()

    # -- the thread -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the thread, if it does not run."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._stop = threading.Event()
                arguments = (weakref.ref(self), self._stop)
                self._thread = threading.Thread(target=_run, args=arguments, name="shm_metrics-sync", daemon=True)
                self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def leads(self) -> bool:
        """Whether the segment's lease is ours at this moment. False also while a slow cache keeps us from knowing it,
        and in a child of fork that has not begun anew yet."""
        lock = self._lock
        if not lock.acquire(timeout=_LONGEST_WAIT):
            return False
        try:
            return self.member.segment_lease.held
        finally:
            lock.release()

    def stop(self) -> None:
        """End the thread, give the leases back, let the port go. Nobody has to wait for the next leader then.

        A cache that hangs is waited for no longer than for one request, and one more if it was well until then; the
        leases then run out by themselves.
        """
        thread, self._thread = self._thread, None
        self._stop.set()
        self.endpoint.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join(self.config.timeout)
        if self._lock.acquire(timeout=self.config.timeout if self._answers else 0):
            try:
                self._end()
            finally:
                self._lock.release()

    def _end(self) -> None:
        """By stop(), or by the thread that stop() did not wait for. What is over stays over."""
        self.endpoint.close()
        for lease in (self.member.cluster_lease, self.member.segment_lease):
            try:
                if self._answers:
                    lease.release()
            except SyncError as error:
                self._failure(error)
            lease.close()
        self.store.close()

    # -- a step ---------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Do what is due; seconds until something may be due again. Never raises."""
        with self._lock:
            try:
                self._step()
            except Exception as error:  # the thread must go on, and the application must not notice
                self._failure(error)
            if not self.member.segment_lease.held:
                self.endpoint.close()
            return self._wait()

    def _step(self) -> None:
        member, now = self.member, self._now
        asks = member.segment_lease.seconds_to_wait == 0
        held = member.segment_lease.tick()
        if self._stop.is_set():
            return  # the segment may be closed by now
        if not held:
            if asks:
                self._success()
            return
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
            member.look_around()
        elif member.cluster_lease.held:
            member.cluster_lease.tick()
        self._success()

    def _wait(self) -> float:
        leases: list[Lease] = [self.member.segment_lease]
        waits = [_LONGEST_WAIT]
        if self.member.segment_lease.held:
            waits += [self._publish_due - self._now(), self._look_due - self._now()]
            if self.member.cluster_lease.held:
                leases.append(self.member.cluster_lease)
        waits += [lease.seconds_to_wait for lease in leases]
        return max(0.01, min(waits))

    @property
    def _answers(self) -> bool:
        """Whether the cache did, when it was asked last."""
        return self._told in (None, LockLostError.__name__)

    def _failure(self, error: Exception) -> None:
        self.failed += 1
        self.last_error = f"{type(error).__name__}: {error}"
        if self._told != type(error).__name__:
            self._told = type(error).__name__
            level = logging.WARNING if isinstance(error, MetricsError) else logging.ERROR
            log.log(level, "shm_metrics: sync: %s; it is tried again, and counting goes on", self.last_error)

    def _success(self) -> None:
        if self._told is not None:
            self._told = None
            log.warning("shm_metrics: sync: it works again")

    # -- asked by the application ---------------------------------------------------------------------------------

    def sync_now(self) -> dict[str, Any]:
        """One round, now; see round_report. Never raises."""
        began, timestamp = time.perf_counter(), self.wall()
        published: Published | None = None
        error: Exception | None = None
        with self._lock:
            before = self.store.round_trips
            try:
                lease = self.member.segment_lease
                if not lease.held:
                    lease.ask_now()
                if not lease.tick():
                    raise LockLostError(
                        f"another worker of segment {self.member.instance} holds the lease; it publishes every "
                        f"{self.config.interval:g} s"
                    )
                published = self.member.publish()
                self._publish_due = self._now() + self.config.interval
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

    def read(self) -> tuple[ClusterView, dict[str, Blob]]:
        """The cluster as the cache has it now, and the blob of each instance. Raises SyncError."""
        with self._lock:
            return self.member.read()

    def families(self) -> list[AnyFamily]:
        """The cluster as a scrape shows it. Raises SyncError."""
        return cluster_families(self.view(), damaged=len(self.member.damaged))

    def view(self) -> ClusterView:
        """The cluster as the cache has it now. Raises SyncError."""
        return self.read()[0]

    # -- fork -----------------------------------------------------------------------------------------------------

    def after_fork(self) -> None:
        """The parent's leases and connections are the parent's; its thread is not here."""
        ran = self._thread is not None
        self._told = None
        self.endpoint.forget()
        self._begin()
        if ran:
            self.start()


_agents: weakref.WeakSet[SyncAgent] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    """Whoever ends in good order says what it still knows, and leaves no lease that the next one would wait for."""
    # Registered after the segments' own: a thread that publishes must not meet a segment that is closed.
    for agent in list(_agents):
        if agent.running:
            if agent.member.segment_lease.held and agent._told is None:
                agent.sync_now()
            agent.stop()


@forks.in_child
def _after_fork_in_child() -> None:
    for agent in list(_agents):
        agent.after_fork()


def _run(reference: weakref.ref[SyncAgent], stop: threading.Event) -> None:
    pid = os.getpid()
    while os.getpid() == pid:
        agent = reference()
        if agent is None:
            return
        wait = agent.step()
        if stop.is_set():
            with agent._lock:
                agent._end()
            return
        del agent  # it may go while nobody else has it
        if stop.wait(wait):
            return
