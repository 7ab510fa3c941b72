"""Real servers, and what they leave behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.server import Gunicorn
from tests.support.running import HOOKS, ROOT, Service, Uvicorn


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    """The directory in which the application marks each request that reached it; see counted.py."""
    path = tmp_path / "witness"
    path.mkdir()
    return path


@pytest.fixture
def environ(witness: Path) -> dict[str, str]:
    return {
        "WITNESS": str(witness),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


@pytest.fixture
def gunicorn(
    segment_name: str, witness: Path, tmp_path: Path, environ: dict[str, str]
) -> Iterator[Callable[..., Service]]:
    """gunicorn(hooks=..., app=..., **settings) -> Service; ended after the test."""
    running: list[Gunicorn] = []

    def start(
        hooks: str = HOOKS,
        app: str = "tests.system.servers.wsgi_app:app",
        kind: type[Gunicorn] = Gunicorn,
        **settings: object,
    ) -> Service:
        told = {"workers": 3, "graceful_timeout": 2, "control_socket_disable": True, **settings}
        conf = tmp_path / "gunicorn.conf.py"
        conf.write_text("".join(f"{name} = {value!r}\n" for name, value in told.items()) + hooks)
        server = kind(app, segment_name, tmp_path, conf=conf, environ=environ)
        running.append(server)
        return Service(server, segment_name, witness)

    yield start
    for server in running:
        server.kill()  # a test that is about an end in good order has had it


@pytest.fixture
def uvicorn(
    segment_name: str, witness: Path, tmp_path: Path, environ: dict[str, str]
) -> Iterator[Callable[..., Service]]:
    """uvicorn(workers) -> Service; ended after the test."""
    running: list[Gunicorn] = []

    def start(workers: int) -> Service:
        server = Uvicorn(
            "tests.system.servers.asgi_app:app",
            segment_name,
            tmp_path,
            environ={**environ, "WEB_CONCURRENCY": str(workers)},
        )
        running.append(server)
        return Service(server, segment_name, witness)

    yield start
    for server in running:
        server.close()
