"""Real caches: one of each for a whole worker of the test run, and others that a test may stop, freeze and flush."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cache_proxy import Proxy
from tests.support.cache_servers import MemcachedServer, RedisServer, Server
from tests.support.cluster_hosts import Hosts

_numbers = itertools.count()


def _started(make: Callable[[Path], Server], factory: pytest.TempPathFactory, name: str) -> Iterator[Any]:
    server = make(factory.mktemp(name))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Valkey that tests share: it is never stopped nor flushed."""
    yield from _started(lambda path: RedisServer("valkey", path), tmp_path_factory, "valkey")


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that tests share: it is never stopped nor flushed."""
    yield from _started(lambda path: RedisServer("redis", path), tmp_path_factory, "redis")


@pytest.fixture(scope="session")
def memcached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemcachedServer]:
    """A Memcached that tests share: it is never stopped nor flushed."""
    yield from _started(MemcachedServer, tmp_path_factory, "memcached")


@pytest.fixture(params=["valkey", "memcached"])
def server(request: pytest.FixtureRequest) -> Any:
    """The shared Valkey, and again the shared Memcached."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """own_server("valkey" | "redis" | "memcached", *options): a server that is this test's alone."""
    made: list[Server] = []

    def make(engine: str, *options: str) -> Server:
        directory = tmp_path / f"{engine}-{len(made)}"
        directory.mkdir()
        if engine == "memcached":
            made.append(MemcachedServer(directory, *options))
        else:
            made.append(RedisServer(engine, directory, *options))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def make_proxy() -> Iterator[Callable[[Server], Proxy]]:
    """make_proxy(server): a Proxy before it."""
    made: list[Proxy] = []

    def make(server: Server) -> Proxy:
        made.append(Proxy(server.address))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture
def namespace() -> str:
    """A namespace that nobody else uses."""
    return f"test-{os.getpid()}-{secrets.token_hex(4)}-{next(_numbers)}"


@pytest.fixture
def hosts(server: Any, namespace: str, tmp_path: Path) -> Iterator[Hosts]:
    """Hosts of one cluster, in this process, on each of the shared caches."""
    made = Hosts(lambda: server.url, namespace, tmp_path)
    yield made
    made.close()
