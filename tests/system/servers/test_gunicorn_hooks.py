"""The hooks by themselves, with a stand-in for gunicorn's arbiter."""

from __future__ import annotations

import inspect
import os
import sys
from types import SimpleNamespace

import pytest

from shm_metrics import InvalidMetricError, MetricsBackend
from shm_metrics.integrations import gunicorn as hooks
from shm_metrics.segment.location import SegmentLocation

HOOKS = {"on_starting": 1, "on_reload": 1, "post_fork": 2, "post_worker_init": 1, "on_exit": 1}


class Log(list):
    """Remembers what is logged."""

    def warning(self, text, *arguments):
        self.append(text % arguments)

    error = warning


@pytest.fixture
def server(monkeypatch):
    """A master that runs as this user; whatever it holds, it lets go after the test."""
    monkeypatch.setattr(hooks, "_options", hooks._Options())
    monkeypatch.setattr(hooks, "_held", None)
    monkeypatch.setattr(hooks, "_held_path", "")
    monkeypatch.setattr(hooks, "current_backend", lambda: None)
    yield SimpleNamespace(cfg=SimpleNamespace(uid=os.geteuid(), gid=os.getegid()), log=Log())
    if hooks._held is not None:
        hooks._held.close()


def test_setup_gives_gunicorn_hooks_with_the_number_of_arguments_that_it_insists_on(monkeypatch):
    conf = {"post_fork": lambda server, worker: None, "workers": 3}
    hooks.setup(conf)
    assert {name: len(inspect.signature(conf[name]).parameters) for name in HOOKS} == HOOKS
    assert set(conf) == {*HOOKS, "workers"}


def test_setup_keeps_hooks_that_are_there_and_runs_them_first(monkeypatch, server):
    ran = []
    monkeypatch.setattr(hooks, "set_process_role", lambda role: ran.append(role))
    conf = {"post_fork": lambda server, worker: ran.append("theirs")}
    hooks.setup(conf)
    conf["post_fork"](server, SimpleNamespace(age=7))
    assert ran == ["theirs", "gunicorn worker 7"]


def test_setup_twice_does_not_run_a_hook_twice(monkeypatch, server):
    ran = []
    monkeypatch.setattr(hooks, "set_process_role", lambda role: ran.append(role))
    conf = {}
    hooks.setup(conf)
    hooks.setup(conf)
    conf["post_fork"](server, SimpleNamespace(age=7))
    assert ran == ["gunicorn worker 7"]


def test_the_segment_that_setup_names_is_the_one_that_the_application_finds(monkeypatch, segment_name, server):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", "another")
    hooks.setup({}, segment_name, rows=5, slots=1024)
    hooks.on_starting(server)
    worker = MetricsBackend()
    assert worker.place == hooks._held.place == SegmentLocation.named(segment_name, os.geteuid())
    assert (worker.stats()["rows"], worker.stats()["slots"]) == (5, 1024)
    worker.close()


@pytest.mark.parametrize(
    ("arguments", "options", "told"),
    [
        (("shop",), {}, r"setup\('shop'\): give globals\(\) first"),
        (({}, "the shop"), {}, "segment name 'the shop': use letters"),
        (({}, "shop"), {"rows": 0}, "rows=0: give"),
    ],
    ids=str,
)
def test_what_setup_cannot_mean_is_said_at_once_and_nothing_is_set(monkeypatch, server, arguments, options, told):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", "another")
    with pytest.raises(InvalidMetricError, match=told):
        hooks.setup(*arguments, **options)
    assert (os.environ["SHM_METRICS_SEGMENT"], hooks._options) == ("another", hooks._Options())


def test_a_variable_that_names_no_segment_is_logged_and_stops_nobody(monkeypatch, server):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", "the shop")
    hooks.setup({})
    hooks.on_starting(server)
    (told,) = server.log
    assert "SHM_METRICS_SEGMENT: segment name 'the shop'" in told


def test_the_master_is_present_and_takes_no_row(monkeypatch, segment_name, server):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", segment_name)
    hooks.on_starting(server)
    worker = MetricsBackend()
    worker.counter("jobs_total").increment()
    first, rows = worker.instance_id, worker.stats()["rows_used"]
    worker.close()
    worker = MetricsBackend()
    assert (worker.instance_id, worker.counter("jobs_total").value, rows) == (first, 1.0, 1)
    worker.close()
    hooks._held.close()
    worker = MetricsBackend()
    assert (worker.instance_id != first, worker.counter("jobs_total").value) == (True, 0.0)
    worker.close()


def test_a_reload_that_changes_nothing_keeps_the_presence_it_has(monkeypatch, segment_name, server):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", segment_name)
    hooks.on_starting(server)
    held = hooks._held
    hooks.on_reload(server)
    assert hooks._held is held
    assert held.segment is not None


def test_a_reload_finds_out_that_the_segment_was_removed(monkeypatch, segment_name, server):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", segment_name)
    hooks.on_starting(server)
    held = hooks._held
    held.place.unlink()
    hooks.on_reload(server)
    assert held.segment is None
    assert hooks._held.in_place


def test_a_reload_that_names_another_segment_moves_the_presence_there(monkeypatch, segment_name, server, tmp_path):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", segment_name)
    hooks.on_starting(server)
    before = hooks._held
    monkeypatch.setenv("SHM_METRICS_SEGMENT", str(tmp_path / "other"))
    hooks.on_reload(server)
    assert hooks._held.place == SegmentLocation.at(tmp_path / "other")
    assert before.segment is None


def test_a_segment_that_cannot_be_had_is_logged_and_stops_nobody(monkeypatch, server, tmp_path):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", str(tmp_path / "no such directory" / "segment"))
    hooks.on_starting(server)
    assert hooks._held is None
    assert len(server.log) == 1
    assert "its directory does not exist" in server.log[0]


def test_a_worker_that_counts_elsewhere_than_the_master_is_present_is_warned(
    monkeypatch, segment_name, server, tmp_path
):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", segment_name)
    hooks.on_starting(server)
    elsewhere = MetricsBackend(path=tmp_path / "elsewhere")
    monkeypatch.setattr(hooks, "current_backend", lambda: elsewhere)
    worker = SimpleNamespace(log=Log())
    hooks.post_worker_init(worker)
    assert len(worker.log) == 1
    assert str(tmp_path / "elsewhere") in worker.log[0]
    elsewhere.close()


def test_a_worker_that_counts_where_the_master_is_present_is_not_warned(monkeypatch, segment_name, server):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", segment_name)
    hooks.on_starting(server)
    here = MetricsBackend()
    monkeypatch.setattr(hooks, "current_backend", lambda: here)
    worker = SimpleNamespace(log=Log())
    hooks.post_worker_init(worker)
    assert worker.log == []
    here.close()


def test_a_forked_child_is_not_present_in_its_parents_place(monkeypatch, segment_name, server):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", segment_name)
    hooks.on_starting(server)
    held = hooks._held
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b"closed" if held.segment is None else b"still open")
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 100) == b"closed"
    os.close(reader)
    os.close(writer)
    assert held.segment is not None


def test_a_cache_that_setup_is_told_becomes_the_environments(monkeypatch, segment_name, server):
    monkeypatch.setattr(hooks.os, "environ", {})
    hooks.setup({}, segment_name, cache="redis://cache/0", sync_interval=5, sync_options={"export_port": 9464})
    assert hooks.os.environ == {
        "SHM_METRICS_SEGMENT": segment_name,
        "SHM_METRICS_CACHE": "redis://cache/0",
        "SHM_METRICS_SYNC_INTERVAL": "5",
        "SHM_METRICS_EXPORT_PORT": "9464",
    }


def test_a_worker_whose_cache_cannot_be_used_is_told_so_and_works_on(monkeypatch, segment_name, server):
    monkeypatch.setenv("SHM_METRICS_CACHE", "redis://cache")
    for package in ("redis", "valkey"):  # neither is installed
        monkeypatch.setitem(sys.modules, package, None)
    backend = MetricsBackend(segment_name, cache="redis://cache")
    monkeypatch.setattr(hooks, "get_backend", lambda: backend)
    worker = SimpleNamespace(log=Log())
    hooks.post_worker_init(worker)
    assert len(worker.log) == 1
    assert "pip install 'shm_metrics[redis]'" in worker.log[0]
    backend.close()


def test_without_a_cache_no_worker_is_made_to_have_a_backend_or_a_thread(monkeypatch, segment_name, server):
    monkeypatch.delenv("SHM_METRICS_CACHE", raising=False)
    monkeypatch.setattr(hooks, "get_backend", lambda: pytest.fail("nobody has asked for one"))
    worker = SimpleNamespace(log=Log())
    hooks.post_worker_init(worker)
    assert worker.log == []


def test_a_master_whose_cache_is_a_file_has_nothing_to_warn_of_when_it_ends(
    monkeypatch, segment_name, server, tmp_path
):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", segment_name)
    monkeypatch.setenv("SHM_METRICS_CACHE", str(tmp_path / "cache"))
    hooks.on_starting(server)
    worker = MetricsBackend(segment_name, cache=str(tmp_path / "cache"))
    worker.counter("orders").inc()
    assert worker.sync_to_cache()["success"]
    worker.close()
    hooks.on_exit(server)
    assert server.log == []


def test_a_master_whose_cache_does_not_answer_when_it_ends_says_so(monkeypatch, segment_name, server):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", segment_name)
    monkeypatch.setenv("SHM_METRICS_CACHE", "redis://127.0.0.1:1")
    hooks.on_starting(server)
    hooks.on_exit(server)
    assert len(server.log) == 1
    assert "was not published" in server.log[0]
