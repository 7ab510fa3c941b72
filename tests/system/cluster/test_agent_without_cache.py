"""sync_to_cache() where there is no cache: a round of any worker succeeds, and leaves nothing behind."""

from __future__ import annotations

import pytest

from shm_metrics import MetricsBackend
from shm_metrics.cluster.agent import SyncAgent
from shm_metrics.errors import SegmentError
from shm_metrics.segment import layout as L
from tests.system.processes.conftest import fork

__all__ = ["fork"]

WORKERS, ROUNDS = 4, 10


def test_workers_that_publish_at_the_same_moment_all_succeed(fork, tmp_path):
    def work(link):
        backend = MetricsBackend(path=tmp_path / "segment", process_metrics=False)
        for _ in range(ROUNDS):
            backend.counter("orders").inc()
            report = backend.sync_to_cache()
            assert report["success"], report
        link.say()
        link.hear()

    workers = [fork(work) for _ in range(WORKERS)]
    for worker in workers:
        worker.hear()
    watcher = MetricsBackend(path=tmp_path / "segment", process_metrics=False)
    assert watcher.sync_to_cache()["success"]
    assert watcher.sync_agent.view().value("orders") == WORKERS * ROUNDS
    watcher.close()
    for worker in workers:
        worker.say()


def test_the_lease_is_given_back_after_the_round(make_backend):
    backend, other = make_backend(), make_backend()
    assert backend.sync_to_cache()["success"]
    assert not backend.sync_agent.leads
    assert not other._segment.locks.held_by_other(L.LOCK_PUBLISHER)


def test_an_agent_whose_thread_runs_keeps_it_and_the_others_say_why_they_cannot(make_backend):
    backend, other = make_backend(), make_backend(sync_options={"timeout": 0.05})
    agent = SyncAgent(backend)
    agent.step()
    assert agent.leads
    assert agent.sync_now()["success"]
    assert agent.leads
    report = other.sync_to_cache()
    assert report["success"] is False
    assert "holds the lease" in report["error"]
    agent.stop()
    assert other.sync_to_cache()["success"]


def test_a_backend_that_may_only_read_says_so(make_backend, segment_name):
    make_backend()
    report = MetricsBackend(segment_name, read_only=True).sync_to_cache()
    assert report["success"] is False
    assert "opened read_only" in report["error"]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_closed_backend_syncs_no_more_and_leaves_no_agent_behind(make_backend, segment_name, read_only):
    make_backend().counter("orders").inc()
    backend = make_backend(read_only=read_only, cache="redis://127.0.0.1:1")
    backend.close()
    report = backend.sync_to_cache()
    assert report["success"] is False
    assert "closed" in report["error"]
    for call in (backend.export_distributed_metrics, backend.start_sync):
        if read_only and call == backend.start_sync:
            continue
        with pytest.raises(SegmentError, match="closed"):
            call()
    assert not backend.syncing
    assert "sync_agent" not in backend.__dict__
