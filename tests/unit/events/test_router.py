"""EventRouter: who gets an event."""

from __future__ import annotations

import logging
import os
import threading
from fnmatch import fnmatchcase

import pytest

from shm_metrics import EventMapping, EventRouter, InvalidMetricError
from tests.support.segments import shown


class Kept(list):
    """A backend that keeps what it got."""

    def __call__(self, event_name, payload):
        self.append((event_name, payload))


@pytest.fixture
def logs():
    return Kept()


@pytest.fixture
def traces():
    return Kept()


@pytest.fixture
def router(logs, traces):
    router = EventRouter()
    router.register_backend("logs", logs)
    router.register_backend("traces", traces)
    return router


def test_an_event_goes_to_the_backends_of_its_mapping_and_to_no_others(router, logs, traces):
    router.map("task.started", ["logs"])
    router.map("task.completed", ["traces", "logs"])
    assert router.route("task.started", {"a": 1}) == ["logs"]
    assert router.route("task.completed") == ["traces", "logs"]
    assert router.route("task.failed", {}) == []
    assert logs == [("task.started", {"a": 1}), ("task.completed", None)]
    assert traces == [("task.completed", None)]


def test_exact_names_win_over_globs_and_among_globs_the_priority(router):
    router.map("*", ["logs"])
    router.map("task.*", ["traces"], priority=5)
    router.map("*.started", ["logs", "traces"], priority=5)
    router.map("task.failed", ["logs"], priority=-1)
    assert router.mapping_for("step.done").event_name == "*"
    assert router.mapping_for("task.started").event_name == "task.*", "mapped first"
    assert router.mapping_for("step.started").event_name == "*.started"
    assert router.mapping_for("task.failed").event_name == "task.failed"
    router.map("task.[xyz]", ["logs"], priority=9)
    assert router.mapping_for("task.x").event_name == "task.[xyz]"
    assert router.mapping_for("task.[xyz]").event_name == "task.*", "a glob is no exact name"


def test_mapping_again_replaces_and_unmap_takes_away(router):
    router.map("task.*", ["logs"])
    assert router.route("task.started") == ["logs"]
    router.map("task.*", ["traces"])
    assert router.route("task.started") == ["traces"]
    assert router.unmap("task.*") is True
    assert router.unmap("task.*") is False
    assert router.route("task.started") == []


def test_a_mapping_that_is_not_enabled_hides_the_globs(router):
    router.map("task.*", ["logs"])
    router.map("task.started", ["logs"], enabled=False)
    assert router.route("task.started") == []
    assert router.route("task.failed") == ["logs"]
    assert router.events_for_backend("logs") == ["task.*"]


def test_events_for_backend_are_sorted(router):
    router.configure({"b": ["logs"], "a": ["logs", "traces"], "c*": ["traces"]})
    assert router.events_for_backend("logs") == ["a", "b"]
    assert router.events_for_backend("traces") == ["a", "c*"]
    assert router.events_for_backend("nobody") == []


@pytest.mark.parametrize(
    "mappings",
    [
        EventMapping("task.started", ["logs"], sampling_rate=0.5),
        [EventMapping("task.started", ["logs"], sampling_rate=0.5)],
        [{"event_name": "task.started", "backends": ["logs"], "sampling_rate": 0.5}],
        {"event_name": "task.started", "backends": ["logs"], "sampling_rate": 0.5},
        {"task.started": {"backends": ["logs"], "sampling_rate": 0.5}},
        {"task.started": EventMapping("task.started", ["logs"], sampling_rate=0.5)},
    ],
)
def test_configure_takes_a_mapping_a_list_or_a_dict(router, mappings):
    router.configure(mappings)
    assert router.mappings == (EventMapping("task.started", ("logs",), sampling_rate=0.5),)


@pytest.mark.parametrize(
    "mappings",
    [
        3,
        "task.started",
        [3],
        [{"event_name": "x", "backend": "logs"}],
        {"x": {"sampling_rate": 2}},
        {"x": EventMapping("y")},
        [EventMapping("good", ["logs"]), {"event_name": "", "backends": ["logs"]}],
    ],
)
def test_configure_is_all_or_nothing(router, mappings):
    router.map("before", ["logs"])
    with pytest.raises(InvalidMetricError):
        router.configure(mappings)
    assert [mapping.event_name for mapping in router.mappings] == ["before"]


@pytest.mark.parametrize(
    "fields",
    [
        {"event_name": ""},
        {"event_name": 3},
        {"backends": [3]},
        {"backends": [""]},
        {"enabled": 1},
        {"sampling_rate": -0.1},
        {"sampling_rate": 1.1},
        {"sampling_rate": float("nan")},
        {"sampling_rate": True},
        {"sampling_rate": "1"},
        {"priority": 1.5},
        {"metadata": 3},
    ],
)
def test_a_mapping_that_means_nothing_is_refused(fields):
    with pytest.raises(InvalidMetricError, match="event mapping"):
        EventMapping(**{"event_name": "a", **fields})


def test_one_draw_decides_for_all_backends(logs, traces):
    draws = iter([0.0, 0.29, 0.3, 0.9])
    router = EventRouter(draw=lambda: next(draws))
    router.register_backend("logs", logs)
    router.register_backend("traces", traces)
    router.map("task.*", ["logs", "traces"], sampling_rate=0.3)
    router.map("all", ["logs"])
    assert [router.route("task.started", {"n": n}) for n in range(4)] == [["logs", "traces"]] * 2 + [[]] * 2
    assert logs == traces == [("task.started", {"n": 0}), ("task.started", {"n": 1})]
    assert router.route("all") == ["logs"], "no draw where everything is passed on"


def test_a_rate_of_0_passes_nothing_on(router, logs):
    router.map("*", ["logs"], sampling_rate=0)
    assert [router.route("a") for _ in range(100)] == [[]] * 100
    assert logs == []


def test_the_metrics_of_sampled_events_are_corrected_and_marked(make_backend):
    backend, draws = make_backend(), iter([0.1, 0.6, 0.2])
    router = EventRouter(draw=lambda: next(draws))
    backend.register_event_router(router)
    router.map("task.*", sampling_rate=0.5)
    assert [router.route("task.started", {"status": "ok"}) for _ in range(3)] == [["metrics"], [], ["metrics"]]
    assert shown(backend, "task_started") == {(("sampling_rate", "0.5"), ("status", "ok")): 4.0}


def test_whoever_fails_or_refuses_did_not_take_it_and_the_others_do(router, logs, caplog):
    class Refusing:
        def handle_event(self, event_name, payload):
            return False

    def failing(event_name, payload):
        raise RuntimeError("no")

    router.register_backend("refusing", Refusing())
    router.register_backend("failing", failing)
    router.map("*", ["failing", "missing", "refusing", "logs"])
    with caplog.at_level(logging.WARNING):
        assert router.route("a") == ["logs"]
        assert router.route("a") == ["logs"]
    assert len(caplog.records) == 2, "once for each of the two that could not be had"
    assert router.routing_stats()["backends"] == {
        "logs": {"taken": 2, "refused": 0, "failed": 0},
        "traces": {"taken": 0, "refused": 0, "failed": 0},
        "refusing": {"taken": 0, "refused": 2, "failed": 0},
        "failing": {"taken": 0, "refused": 0, "failed": 2},
    }


def test_stats_say_what_became_of_events(router):
    router.configure({"a": ["logs"], "b": {"backends": ["logs"], "enabled": False}, "c": {"sampling_rate": 0}})
    for name in ("a", "a", "b", "c", "d", 3):
        router.route(name)
    stats = router.routing_stats()
    del stats["backends"]
    assert stats == {"routed": 2, "unmapped": 2, "disabled": 1, "sampled_out": 1, "mappings": 3}


def test_an_event_that_is_not_mapped_may_go_to_somebody_by_default(logs):
    router = EventRouter(["logs"])
    router.register_backend("logs", logs)
    assert router.route("a", {}) == ["logs"]
    assert router.handle_event("b", {}) is True
    assert logs == [("a", {}), ("b", {})]


def test_an_event_that_metrics_refuse_was_not_taken(make_backend):
    backend, router = make_backend(), EventRouter(["metrics"])
    backend.register_event_router(router)
    assert router.route("task.started", [1]) == []
    assert router.route("task.started") == ["metrics"]


def test_a_backend_may_be_forgotten(router, logs):
    router.map("*", ["logs"])
    router.unregister_backend("logs")
    assert router.route("a") == []
    with pytest.raises(KeyError):
        router.unregister_backend("logs")


@pytest.mark.parametrize(("name", "backend"), [("", print), (3, print), ("x", 3), ("x", None)])
def test_what_cannot_take_events_is_refused(router, name, backend):
    with pytest.raises(InvalidMetricError):
        router.register_backend(name, backend)


def test_metadata_is_kept():
    assert EventMapping("a", metadata={"owner": "me"}).metadata == {"owner": "me"}
    assert hash(EventMapping("a", metadata={"owner": "me"})) == hash(EventMapping("a", metadata={"owner": "me"}))


def test_threads_route_at_once_and_every_event_is_counted(router):
    router.map("*", ["logs"])

    def route():
        for _ in range(500):
            router.route("a")

    threads = [threading.Thread(target=route) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert router.routing_stats()["routed"] == router.routing_stats()["backends"]["logs"]["taken"] == 2000


def test_a_child_forked_while_another_thread_routes_can_route(router):
    router.map("*", ["logs"])
    with router._lock:  # as that other thread would hold it
        pid = os.fork()
        if pid == 0:
            os._exit(0 if router.route("a") == ["logs"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_what_is_mapped_while_an_event_is_looked_up_is_not_hidden_by_what_was_before(router, monkeypatch):
    """The thread that looks is overtaken: what it found is of the past, and must not be kept for those to come."""
    router.map("*", ["logs"])

    def overtaken_by(change):
        def looking(name, pattern):
            monkeypatch.undo()
            change()
            return fnmatchcase(name, pattern)

        monkeypatch.setattr("shm_metrics.events.router.fnmatchcase", looking)

    overtaken_by(lambda: router.map("a", ["traces"]))
    router.route("a")
    assert router.route("a") == ["traces"]
    overtaken_by(lambda: router.unmap("*"))
    router.route("b")
    assert router.route("b") == []


def test_an_event_in_the_middle_of_an_event_is_no_deadlock(router):
    """As a signal handler or a __del__ makes one that comes while the router counts."""
    router.map("*", ["logs"])
    threading_done = []

    def route():
        with router._lock:
            threading_done.append(router.route("a"))

    thread = threading.Thread(target=route, daemon=True)
    thread.start()
    thread.join(10)
    assert threading_done == [["logs"]]


def test_a_backend_may_route_again_and_routers_in_a_ring_do_not_raise(router, logs):
    router.register_backend("again", lambda name, payload: bool(name == "a" and router.route("b")))
    router.configure({"a": ["again"], "b": ["logs"]})
    assert router.route("a") == ["again"]
    assert logs == [("b", None)]
    assert router.routing_stats()["routed"] == 2

    other = EventRouter(["logs", "ring"])
    router.register_backend("ring", other)
    other.register_backend("ring", router)
    router.map("ring", ["ring"])
    assert router.route("ring") == [], "the innermost refused it, and so did all around"
    with pytest.raises(InvalidMetricError):
        router.register_backend("myself", router)


def test_what_is_no_exception_goes_on_and_what_went_before_is_counted(router):
    def stopped(event_name, payload):
        raise KeyboardInterrupt

    router.register_backend("stopped", stopped)
    router.map("*", ["logs", "stopped", "traces"])
    with pytest.raises(KeyboardInterrupt):
        router.route("a")
    assert router.routing_stats()["backends"]["logs"]["taken"] == 1


def test_a_draw_or_an_error_that_cannot_even_be_shown_stops_nobody(router, logs, caplog):
    class Unshowable(Exception):
        def __repr__(self):
            raise RuntimeError

    def failing(*_):
        raise Unshowable

    router._draw = failing
    router.register_backend("failing", failing)
    router.configure({"a": {"backends": ["logs"], "sampling_rate": 0.5}, "b": ["failing", "logs"]})
    assert router.route("a") == []
    assert router.route("b") == ["logs"]
    assert len(caplog.records) == 2
    router.register_backend("failing", failing)
    router.route("b")
    assert len(caplog.records) == 3, "another backend of that name is told of anew"
