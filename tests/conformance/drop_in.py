"""A pytest plugin: prometheus_client's metrics count in our segment, each test in a segment of its own."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

import shm_metrics.prometheus
from shm_metrics import MetricsBackend


@pytest.fixture(autouse=True)
def installed_drop_in() -> Iterator[None]:
    """Their unittest cases' setUp comes after this, their tearDown before its end."""
    with tempfile.TemporaryDirectory() as directory:
        backend = MetricsBackend(path=Path(directory) / "segment")
        shm_metrics.prometheus.install(backend)
        try:
            yield
        finally:
            shm_metrics.prometheus.uninstall()
            backend.unlink()
            forget_metrics()


def forget_metrics() -> None:
    """A test's metrics must not be there for the next install() to adopt, with what they counted.

    Some are garbage by now, and those of a failed test live on in its traceback.
    """
    gc.collect()
    for found in gc.get_objects():
        if issubclass(type(found), MetricWrapperBase):
            vars(found).clear()
