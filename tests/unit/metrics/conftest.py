"""Each test of the public faces begins without declared metrics: what an earlier one left alive does not follow."""

from __future__ import annotations

import weakref

import pytest

from shm_metrics.metrics import default_backend


@pytest.fixture(autouse=True)
def no_declared_metrics(monkeypatch):
    monkeypatch.setattr(default_backend, "declared", weakref.WeakValueDictionary())
