"""Real applications on real servers, and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.applications.deployments import Deployment, Running


@pytest.fixture
def deploy(
    segment_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Deployment], Running]]:
    """deploy(deployment) -> Running; ended after the test."""
    for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir", "SHM_METRICS_PROMETHEUS"):
        monkeypatch.delenv(name, raising=False)
    running: list[Running] = []

    def start(deployment: Deployment) -> Running:
        running.append(deployment.start(segment_name, tmp_path))
        return running[-1]

    yield start
    for each in running:
        each.server.kill()
