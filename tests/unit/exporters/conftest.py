"""Receivers for exporters, and backends on a file, so that what is kept beside a segment goes with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shm_metrics import MetricsBackend
from tests.support.receivers import Datagrams, Pushgateway, Receiver
from tests.system.cluster.conftest import namespace, valkey
from tests.system.processes.conftest import fork

__all__ = ["fork", "namespace", "valkey"]


@pytest.fixture(scope="session")
def pushgateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushgateway]:
    """A Pushgateway that tests share, each with a job of its own."""
    server = Pushgateway(tmp_path_factory.mktemp("pushgateway"))
    yield server
    server.stop()


@pytest.fixture(params=["udp", "unix"])
def datagrams(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Datagrams]:
    made = Datagrams(tmp_path / "statsd.sock" if request.param == "unix" else None)
    yield made
    made.close()


@pytest.fixture
def udp() -> Iterator[Datagrams]:
    made = Datagrams()
    yield made
    made.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., MetricsBackend]]:
    """make(**options): one more worker on the test's segment, without process metrics."""
    made: list[MetricsBackend] = []

    def make(**options: Any) -> MetricsBackend:
        made.append(MetricsBackend(**{"path": tmp_path / "segment", "process_metrics": False, **options}))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def backend(make: Callable[..., MetricsBackend]) -> MetricsBackend:
    return make()
