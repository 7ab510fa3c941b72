"""What the other tests rely on: servers that are missing, and the proxy."""

from __future__ import annotations

import time

import pytest
import redis

from tests.support.cache_servers import HOST, program


def test_a_missing_server_skips_here_and_fails_in_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install no-such-server"):
        program("no-such-server")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install no-such-server"):
        program("no-such-server")


@pytest.fixture
def client(valkey, make_proxy):
    """A client behind a proxy, which repeats nothing by itself."""
    proxy = make_proxy(valkey)
    with redis.Redis(
        host=HOST, port=proxy.port, socket_timeout=0.3, retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0)
    ) as made:
        made.proxy = proxy
        yield made


@pytest.mark.slow
def test_the_proxy_counts_what_waits_for_a_reply(client):
    client.ping()
    with client.proxy.counting(3):
        for _ in range(3):
            client.ping()
    with client.proxy.counting(1), client.pipeline(transaction=False) as pipeline:
        for _ in range(100):
            pipeline.ping()
        pipeline.execute()
    with client.proxy.counting(1):
        client.echo(b"x" * 3_000_000)


@pytest.mark.slow
def test_the_proxy_loses_a_reply_and_not_the_request(client, namespace):
    client.set(namespace, 1)
    client.proxy.lose_replies(1)
    with pytest.raises(redis.exceptions.ConnectionError):
        client.incr(namespace)
    assert client.get(namespace) == b"2"


@pytest.mark.slow
def test_the_proxy_refuses_delays_and_holds(client, namespace):
    client.ping()
    client.proxy.refuse()
    with pytest.raises(redis.exceptions.ConnectionError):
        client.ping()
    client.proxy.pass_on()
    client.ping()
    client.proxy.delay = 0.1
    began = time.monotonic()
    client.ping()
    assert time.monotonic() - began >= 0.1
    client.proxy.pass_on()
    client.proxy.hold()
    with pytest.raises(redis.exceptions.TimeoutError):
        client.set(namespace, 1)
    client.proxy.pass_on()
    client.ping()
