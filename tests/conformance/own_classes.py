"""A pytest plugin: what their tests import as prometheus_client's Counter, Gauge, ... are our own classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import prometheus_client
import prometheus_client.core
import prometheus_client.metrics
import pytest

import shm_metrics
from shm_metrics.metrics.default_backend import declared

CLASSES = ("Counter", "Gauge", "Histogram", "Summary", "Info", "Enum")


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    # Before their modules are imported: they take the names at import.
    for module in (prometheus_client, prometheus_client.core, prometheus_client.metrics):
        for name in CLASSES:
            setattr(module, name, getattr(shm_metrics, name))


@pytest.fixture(autouse=True)
def private_segment(metrics_backend: Any) -> Iterator[None]:
    yield
    # A metric of a failed test lives on in its traceback: it must not take a name of the next test's segment.
    declared.clear()
