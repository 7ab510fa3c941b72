"""Each test of the public faces begins without declared metrics: what an earlier one left alive does not follow."""

from __future__ import annotations

import weakref

import pytest

from shm_metrics import default


@pytest.fixture(autouse=True)
def no_declared_metrics(monkeypatch):
    monkeypatch.setattr(default, "declared", weakref.WeakValueDictionary())
