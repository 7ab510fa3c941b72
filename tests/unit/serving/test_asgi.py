"""The ASGI edge, by hand and under a real uvicorn."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvicorn

from shm_metrics.serving import make_asgi_app


def http_scope(method="GET", path="/metrics", query=b"", headers=()):
    return {"type": "http", "method": method, "path": path, "query_string": query, "headers": list(headers)}


async def call(app, scope):
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    start, body = sent
    assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
    return start["status"], dict(start["headers"]), body["body"]


def test_headers_and_query_reach_the_endpoint(source):
    headers = [(b"accept", b"text/html"), (b"accept", b"application/openmetrics-text"), (b"Accept-Encoding", b"gzip")]
    scope = http_scope(query=b"name%5B%5D=depth", headers=headers)
    status, headers, body = asyncio.run(call(make_asgi_app(source), scope))
    text = gzip.decompress(body)
    assert status == 200
    assert headers[b"content-type"].startswith(b"application/openmetrics-text")
    assert int(headers[b"content-length"]) == len(body)
    assert b"depth 7" in text
    assert b"jobs" not in text


@pytest.mark.parametrize(
    ("method", "path", "status", "empty"),
    [
        ("HEAD", "/", 200, True),
        ("OPTIONS", "/", 200, True),
        ("GET", "/favicon.ico", 200, True),
        ("POST", "/", 405, False),
    ],
)
def test_methods_and_the_icon_are_answered_as_everywhere(source, method, path, status, empty):
    got, _, body = asyncio.run(call(make_asgi_app(source), http_scope(method, path)))
    assert (got, body == b"") == (status, empty)


def test_a_failing_source_is_a_500_with_the_reason(source):
    source.error = OSError("gone")
    status, _, body = asyncio.run(call(make_asgi_app(source), http_scope()))
    assert (status, b"OSError: gone" in body) == (500, True)


def test_an_exit_in_the_rendering_thread_is_a_500_and_not_a_hang(source, patience):
    source.error = SystemExit(1)

    async def main():
        return await asyncio.wait_for(call(make_asgi_app(source), http_scope()), patience)

    assert asyncio.run(main())[0] == 500


def test_the_loop_goes_on_while_fifty_scrapes_share_one_rendering(gated, patience):
    app = make_asgi_app(gated)

    async def main():
        scrapes = [asyncio.create_task(call(app, http_scope())) for _ in range(50)]
        await asyncio.get_running_loop().run_in_executor(None, gated.began.wait, patience)
        gated.gate.set()  # by the loop: were it held by the rendering, the gate would stay shut
        return await asyncio.wait_for(asyncio.gather(*scrapes), patience)

    assert {status for status, _, _ in asyncio.run(main())} == {200}
    assert gated.calls == 1


def test_a_busy_executor_does_not_keep_a_scrape_waiting(source, patience):
    app = make_asgi_app(source)

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        done = threading.Event()
        held = loop.run_in_executor(None, done.wait, patience)
        try:
            status, _, _ = await asyncio.wait_for(call(app, http_scope()), patience)
            assert not held.done()
        finally:
            done.set()
            await held
        return status

    assert asyncio.run(main()) == 200


def test_lifespan_is_answered_and_ends(source):
    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = []

    async def receive():
        return incoming.pop(0)

    async def send(message):
        sent.append(message["type"])

    asyncio.run(make_asgi_app(source)({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_websocket_is_closed_and_an_unknown_scope_is_an_error(source):
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message["type"])

    app = make_asgi_app(source)
    asyncio.run(app({"type": "websocket", "path": "/"}, receive, send))
    assert sent == ["websocket.close"]
    with pytest.raises(ValueError, match="'telepathy'"):
        asyncio.run(app({"type": "telepathy"}, receive, send))


class AnnouncedServer(uvicorn.Server):
    """Uvicorn that says by an event that it listens, and where."""

    def __init__(self, config):
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.port = self.servers[0].sockets[0].getsockname()[1]
        self.listening.set()


@pytest.fixture
def uvicorn_with(patience):
    """uvicorn_with(app) -> the port on which a real uvicorn serves it."""
    running = []

    def start(app):
        server = AnnouncedServer(uvicorn.Config(app, port=0, lifespan="on", log_level="critical"))
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        assert server.listening.wait(patience)
        return server.port

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(patience)
        assert not thread.is_alive()


def get(port, path, patience):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
    client.request("GET", path)
    response = client.getresponse()
    body = response.read()
    client.close()
    return response.status, body


def test_a_real_uvicorn_answers_others_while_a_rendering_is_held(gated, uvicorn_with, patience):
    metrics = make_asgi_app(gated)

    async def app(scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/ping":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"pong"})
        else:
            await metrics(scope, receive, send)

    port = uvicorn_with(app)
    with ThreadPoolExecutor(1) as pool:
        scrape = pool.submit(get, port, "/metrics", patience)
        assert gated.began.wait(patience)
        assert get(port, "/ping", patience) == (200, b"pong")
        assert not scrape.done()
        gated.gate.set()
        status, body = scrape.result(patience)
    assert status == 200
    assert b"depth 7" in body


def test_a_real_uvicorn_sends_head_and_refusals_as_they_should_be(source, uvicorn_with, patience):
    port = uvicorn_with(make_asgi_app(source))
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
    client.request("HEAD", "/metrics")
    response = client.getresponse()
    assert (response.status, response.read()) == (200, b"")
    assert int(response.headers["Content-Length"]) > 0
    client.request("POST", "/metrics", body=b"x" * 10)
    response = client.getresponse()
    assert response.status == 405
    response.read()
    client.close()
