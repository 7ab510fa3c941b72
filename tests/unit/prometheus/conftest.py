"""The drop-in on a private segment, and a second worker on the same one."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.metrics import MetricWrapperBase

import shm_metrics.prometheus
from shm_metrics import MetricsBackend
from shm_metrics.prometheus.installation import existing


@pytest.fixture
def clean() -> Iterator[None]:
    """No metric of an earlier test is left to be adopted, and nothing stays installed."""
    if existing(MetricWrapperBase):  # to collect for nothing would take most of a test's time
        gc.collect()
    yield
    shm_metrics.prometheus.uninstall()


@pytest.fixture
def installed(clean: None, segment_name: str) -> Iterator[MetricsBackend]:
    """The drop-in is installed; where it counts."""
    backend = MetricsBackend(segment_name)
    yield shm_metrics.prometheus.install(backend)
    shm_metrics.prometheus.uninstall()
    backend.close()


@pytest.fixture
def other(installed: MetricsBackend, make_backend: Callable[..., Any]) -> MetricsBackend:
    """Another worker, which counts by the engine's own API."""
    return make_backend()
