"""blinker's signals and Flask's requests as events."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from shm_metrics import InvalidMetricError
from shm_metrics.integrations import blinker_signals
from tests.system.jobs.conftest import required


@pytest.fixture
def backend(make_backend):
    return make_backend()


def counters(backend) -> dict:
    return {key: each["value"] for key, each in backend.all_metrics().items() if each["type"] == "counter"}


def test_a_named_signal_is_an_event(backend):
    blinker = required("blinker")
    signal = blinker.Signal()
    named = blinker.NamedSignal("task.started")
    disconnect = blinker_signals.connect(named, to=backend)
    blinker_signals.connect(signal, "step.completed", to=backend, payload=lambda took: {"duration": took})
    named.send("a sender", status="ok")
    named.send()
    signal.send(None, took=2.0)
    assert counters(backend) == {
        'task_started_total{status="ok"}': 1.0,
        "task_started_total": 1.0,
        "step_completed_total": 1.0,
    }
    assert backend.histogram("step_duration_seconds").sum == 2.0
    disconnect()
    named.send()
    assert counters(backend)["task_started_total"] == 1.0


def test_a_payload_that_cannot_be_made_is_no_concern_of_the_sender(backend, caplog):
    signal = required("blinker").NamedSignal("task.started")
    blinker_signals.connect(signal, to=backend, payload=lambda **fields: 1 / 0)
    with caplog.at_level(logging.ERROR):
        signal.send(status="ok")
        signal.send(status="ok")
    assert len(caplog.records) == 1
    assert counters(backend) == {}


@pytest.fixture
def app():
    flask = required("flask")
    app = flask.Flask("shop")
    orders = flask.Blueprint("orders", "shop", url_prefix="/orders")

    @app.get("/")
    def index():
        return "hello"

    @orders.get("/<int:number>")
    def one(number):
        if number == 0:
            raise RuntimeError("as told")
        if number == 1:
            flask.abort(404)
        return str(number)

    app.register_blueprint(orders)
    return app


def test_requests_of_flask_are_events(app, backend):
    disconnect = blinker_signals.connect_flask(app, to=backend)
    client = app.test_client()
    paths = ("/", "/", "/orders/5", "/orders/6", "/orders/1", "/orders/0", "/nowhere")
    assert [client.get(path).status_code for path in paths] == [200, 200, 200, 200, 404, 500, 404]
    assert counters(backend) == {
        'request_started_total{handler="index"}': 2.0,
        'request_started_total{handler="orders.one",namespace="orders"}': 4.0,
        "request_started_total": 1.0,
        'request_completed_total{handler="index",status="200"}': 2.0,
        'request_completed_total{handler="orders.one",namespace="orders",status="200"}': 2.0,
        'request_completed_total{handler="orders.one",namespace="orders",status="404"}': 1.0,
        'request_completed_total{status="404"}': 1.0,
        'request_failed_total{handler="orders.one",namespace="orders",status="500"}': 1.0,
    }
    assert backend.histogram("request_duration_seconds", handler="index", status="200").count == 2.0
    disconnect()
    client.get("/")
    assert counters(backend)['request_started_total{handler="index"}'] == 2.0


def test_an_exception_that_goes_through_flask_is_a_failure(app, backend):
    app.testing = True
    blinker_signals.connect_flask(app, entity="call", to=backend)
    with pytest.raises(RuntimeError, match="as told"):
        app.test_client().get("/orders/0")
    assert counters(backend)['call_failed_total{handler="orders.one",namespace="orders",status="500"}'] == 1.0


def test_two_applications_do_not_hear_each_other(app, backend):
    other = required("flask").Flask("other")
    blinker_signals.connect_flask(other, to=backend)
    app.test_client().get("/")
    assert counters(backend) == {}


def test_a_signal_may_be_sent_to_async_receivers_and_by_a_sender(backend):
    signal = required("blinker").NamedSignal("task.started")
    disconnect = blinker_signals.connect(signal, to=backend, asynchronous=True, sender=asyncio)
    gc.collect()
    asyncio.run(signal.send_async(asyncio))
    asyncio.run(signal.send_async("another"))
    assert counters(backend) == {"task_started_total": 1.0}
    disconnect()
    asyncio.run(signal.send_async(asyncio))
    assert counters(backend) == {"task_started_total": 1.0}


def test_a_signal_without_a_name_must_be_given_one(backend):
    with pytest.raises(InvalidMetricError, match="it has no name"):
        blinker_signals.connect(required("blinker").Signal(), to=backend)


def test_requests_within_requests_and_two_listeners_have_an_end_each(app, backend):
    @app.get("/outer")
    def outer():
        return app.test_client().get("/").data

    blinker_signals.connect_flask(app, to=backend)
    blinker_signals.connect_flask(app, entity="call", to=backend)
    with app.app_context():
        assert app.test_client().get("/outer").data == b"hello"
    found = counters(backend)
    for entity in ("request", "call"):
        for handler in ("index", "outer"):
            assert found[f'{entity}_started_total{{handler="{handler}"}}'] == 1.0
            assert found[f'{entity}_completed_total{{handler="{handler}",status="200"}}'] == 1.0


def test_views_that_are_async_or_stream_end_once(app, backend):
    flask = required("flask")

    @app.get("/async")
    async def later():
        await asyncio.sleep(0)
        raise RuntimeError("as told")

    @app.get("/stream")
    def stream():
        def parts():
            yield flask.request.path

        return flask.Response(flask.stream_with_context(parts()))

    blinker_signals.connect_flask(app, to=backend)
    assert app.test_client().get("/async").status_code == 500
    with app.test_client() as client:
        assert client.get("/stream").data == b"/stream"
    assert counters(backend)['request_failed_total{handler="later",status="500"}'] == 1.0
    assert counters(backend)['request_completed_total{handler="stream",status="200"}'] == 1.0
