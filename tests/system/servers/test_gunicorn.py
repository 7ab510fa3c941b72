"""Real gunicorn, real clients, real kills: every request is counted exactly once."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
from pathlib import Path

import pytest

from shm_metrics import MetricsBackend, generate_latest
from shm_metrics.segment.location import SegmentLocation
from tests.support.running import HOOKS, PATHS, BindingGunicorn, Service, state
from tests.support.waiting import until

REQUESTS = 450
pytestmark = pytest.mark.slow

UVICORN_WORKER = (
    "uvicorn_worker.UvicornWorker" if importlib.util.find_spec("uvicorn_worker") else "uvicorn.workers.UvicornWorker"
)
WORKER_CLASSES = {"sync": {}, "gthread": {"threads": 4}, "gevent": {}, UVICORN_WORKER: {}}


def settings_of(worker_class: str) -> dict[str, object]:
    app = "asgi_app" if worker_class == UVICORN_WORKER else "wsgi_app"
    return {"worker_class": worker_class, "app": f"tests.system.servers.{app}:app", **WORKER_CLASSES[worker_class]}


@pytest.mark.parametrize("preload_app", [False, True], ids=["loaded by each worker", "preloaded"])
@pytest.mark.parametrize("worker_class", list(WORKER_CLASSES), ids=["sync", "gthread", "gevent", "uvicorn"])
def test_every_request_is_counted_once_though_workers_are_killed_and_recycled(gunicorn, worker_class, preload_app):
    service: Service = gunicorn(preload_app=preload_app, max_requests=100, **settings_of(worker_class))
    tally = service.load(REQUESTS, halfway=service.kill_one)
    assert len(service.scrape_from_several()) == 1
    assert service.counted() == service.marks()
    answered, broken = tally.answered.total(), tally.broken.total()
    assert answered + broken == REQUESTS
    assert answered <= service.counted() <= answered + broken
    # What the killed worker was at breaks, and what gunicorn 21's gthread had accepted when it recycled itself.
    assert broken < REQUESTS // 10
    assert service.counted() - service.observed() <= broken
    assert service.snapshot().value("in_progress") == 0
    # 3 at first, 1 in the place of the killed one, and 450 requests are more than 3 workers may answer.
    until(lambda: len(service.server.booted()) > 4, "a worker was recycled")
    assert len(service.snapshot().used_rows) <= 3 + preload_app


def test_no_hook_is_needed(gunicorn):
    service: Service = gunicorn(hooks="")
    service.scrape_from_several()  # or the killed one may be the only one that is present
    tally = service.load(REQUESTS, halfway=service.kill_one)
    assert len(service.scrape_from_several()) == 1
    assert service.counted() == service.marks()
    assert tally.answered.total() <= service.counted() <= REQUESTS


def kill_all_workers(service: Service) -> None:
    """SIGKILL to all workers while the master stands still, so that no new one comes up in between."""
    service.server.signal(signal.SIGSTOP)
    until(lambda: state(service.server.pid) == "T", "the master is stopped")
    workers = service.server.workers()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    until(lambda: all(state(pid) in "ZX" for pid in workers), "all workers are dead")
    service.server.signal(signal.SIGCONT)


@pytest.mark.parametrize("preload_app", [False, True], ids=["loaded by each worker", "preloaded"])
def test_all_workers_may_die_at_once_under_a_living_master(gunicorn, preload_app):
    service: Service = gunicorn(preload_app=preload_app)
    service.load(30)
    before = service.snapshot().incarnation
    kill_all_workers(service)
    service.load(30)
    assert (service.snapshot().incarnation, service.counted()) == (before, 60)


def test_without_the_hook_the_counters_begin_anew_when_all_workers_died_at_once(gunicorn):
    service: Service = gunicorn(hooks="")
    service.load(30)
    before = service.snapshot().incarnation
    kill_all_workers(service)
    service.load(30)
    assert service.snapshot().incarnation != before
    assert service.counted() == 30


@pytest.mark.parametrize("preload_app", [False, True], ids=["loaded by each worker", "preloaded"])
def test_a_rolling_reload_keeps_the_counters(gunicorn, preload_app):
    service: Service = gunicorn(preload_app=preload_app)
    service.load(30)
    before, old = service.snapshot().incarnation, set(service.server.booted())
    tally = service.load(REQUESTS, halfway=lambda: service.server.signal(signal.SIGHUP))
    until(lambda: not old & set(service.server.workers()), "the old workers are gone")
    assert tally.broken.total() == 0
    assert (service.snapshot().incarnation, service.counted()) == (before, 30 + REQUESTS)


@pytest.mark.parametrize("preload_app", [False, True], ids=["loaded by each worker", "preloaded"])
def test_a_new_binary_keeps_the_counters(gunicorn, preload_app, tmp_path):
    service: Service = gunicorn(kind=BindingGunicorn, preload_app=preload_app, pidfile=str(tmp_path / "pid"))
    service.server.wait_for_port()
    service.load(30)
    until(lambda: len(service.server.booted()) == 3, "all workers of the old master are up")
    before, old_workers = service.snapshot().incarnation, service.server.workers()
    service.server.signal(signal.SIGUSR2)
    until(lambda: len(set(service.server.booted())) == 6, "the new master has its workers")
    new_master = int((tmp_path / "pid.2").read_text())
    try:
        service.server.signal(signal.SIGTERM)
        service.server.process.wait(30)
        service.load(30)
        assert service.pid() not in old_workers
        assert (service.snapshot().incarnation, service.counted()) == (before, 60)
    finally:
        os.kill(new_master, signal.SIGTERM)
        until(lambda: state(new_master) in "ZX", "the new master has ended")


def test_workers_have_a_role_that_people_can_read(gunicorn):
    service: Service = gunicorn()
    service.load(len(PATHS) * 10)
    service.scrape_from_several()
    backend = service.backend(per_worker=True)

    def roles() -> set[str]:
        return set(re.findall(r'shm_metrics_worker_threads\{.*role="(.*?)"', generate_latest(backend).decode()))

    until(lambda: roles() == {f"gunicorn worker {age}" for age in (1, 2, 3)}, "three workers with their roles")
    backend.close()


def test_the_hooks_can_be_imported_by_the_names_that_gunicorn_looks_for(gunicorn):
    hooks = "from shm_metrics.integrations.gunicorn import on_reload, on_starting, post_fork, post_worker_init\n"
    service: Service = gunicorn(hooks=hooks)
    service.load(30)
    before = service.snapshot().incarnation
    kill_all_workers(service)
    service.load(30)
    assert (service.snapshot().incarnation, service.counted()) == (before, 60)


OTHER_USER = 65534


# Read as root: the other user may not look into the directory that this interpreter's library is in.
LOADED_BEFORE = "import shm_metrics.serving.defaults, shm_metrics.metrics.declared, shm_metrics.reader.reader\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's workers can become another user")
@pytest.mark.parametrize("preload_app", [False, True], ids=["loaded by each worker", "preloaded"])
def test_workers_of_a_root_master_count_as_their_own_user(gunicorn, preload_app, environ, open_directory):
    witness = open_directory / "witness"
    witness.mkdir()
    witness.chmod(0o777)
    environ["WITNESS"] = str(witness)
    service: Service = gunicorn(LOADED_BEFORE + HOOKS, preload_app=preload_app, user=OTHER_USER, group=OTHER_USER)
    place = SegmentLocation.named(service.segment_name, 0 if preload_app else OTHER_USER)
    try:
        service.load(30)
        backend = MetricsBackend(path=place.path, read_only=True)
        before = backend.instance_id
        assert os.stat(place.path).st_uid == OTHER_USER
        kill_all_workers(service)
        service.load(30)
        assert effective_user(service.pid()) == OTHER_USER
        assert backend.instance_id == before
        assert backend.snapshot().family("requests").values.sum() == 60
        backend.close()
    finally:
        service.server.close()  # first: a worker that comes up later would make it anew
        place.unlink()


def effective_user(pid: int) -> int:
    """The effective user of a process."""
    return int(re.search(r"^Uid:\t\d+\t(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1])


def test_the_drop_in_counts_in_a_segment_as_setup_asks_for_it(gunicorn, environ):
    environ["SHM_METRICS_PROMETHEUS"] = "1"
    service: Service = gunicorn(HOOKS.replace("globals()", "globals(), rows=20"))
    service.load(30)
    backend = service.backend()
    assert (backend.stats()["rows"], service.counted()) == (20, 30)
    backend.close()
