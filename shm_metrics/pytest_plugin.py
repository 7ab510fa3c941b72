"""The pytest plugin: a private segment for each test.

pytest loads this module in every run of every project that has shm_metrics installed.

    def test_orders_are_counted(metrics_backend):
        place_order()
        assert metrics_backend.snapshot().value("orders_total", shop="a") == 1

`metrics_backend`
    The MetricsBackend of a private segment, which is the default backend during the test. All declared metrics count
    there, also those that modules of the application declared on import, and start from zero. Child processes of the
    test join it, for SHM_METRICS_SEGMENT names it. After the test the segment is removed and the previous default
    backend is restored. For all tests of a directory, in its conftest.py:

        @pytest.fixture(autouse=True)
        def private_metrics(metrics_backend):
            return metrics_backend

`metrics_backend_options`
    A dict of options for MetricsBackend (rows, slots, process_metrics, ...); a project, module or class overrides it.

A test run does not touch the segment of an application that runs on the same machine. Metrics are often declared on
import, before any fixture. So unless SHM_METRICS_SEGMENT is set, the run sets it to a name of its own, and each worker
of pytest-xdist to another. The segment is removed at the end. A run that is killed leaves it in /dev/shm, as any
process does: files named shm_metrics-<uid>-pytest-run-*.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

SEGMENT_VARIABLE = "SHM_METRICS_SEGMENT"
RUN_PREFIX = "pytest-run-"

_previous_value = pytest.StashKey[str | None]()


def _name_of_our_own() -> str:
    return f"{RUN_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    value = os.environ.get(SEGMENT_VARIABLE)
    # A name that the parent's run has set is replaced: workers of xdist must not share a segment.
    if not value or value.startswith(RUN_PREFIX):
        config.stash[_previous_value] = value
        os.environ[SEGMENT_VARIABLE] = _name_of_our_own()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    if _previous_value not in config.stash:
        return
    name, value = os.environ[SEGMENT_VARIABLE], config.stash[_previous_value]
    if value is None:
        del os.environ[SEGMENT_VARIABLE]
    else:
        os.environ[SEGMENT_VARIABLE] = value
    if "shm_metrics.segment.location" in sys.modules:  # otherwise this process cannot have made a segment
        from shm_metrics.segment.location import SegmentLocation

        SegmentLocation.named(name, os.geteuid()).unlink()


@pytest.fixture
def metrics_backend_options() -> dict[str, Any]:
    """Options for the MetricsBackend of `metrics_backend`; override this fixture to set them."""
    return {}


@pytest.fixture
def metrics_backend(
    metrics_backend_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[MetricsBackend]:
    """A private segment as the default backend during a test."""
    from shm_metrics.backend import MetricsBackend
    from shm_metrics.default import use_backend

    name = _name_of_our_own()
    monkeypatch.setenv(SEGMENT_VARIABLE, name)
    backend = MetricsBackend(**metrics_backend_options)
    previous = use_backend(backend)
    try:
        yield backend
    finally:
        last = use_backend(previous)
        if last is not None and last is not previous:  # ours, or what the test put in its place
            last.close()
        backend.place.unlink()
        backend.close()
