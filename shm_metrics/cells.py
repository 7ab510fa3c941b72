"""Chooses the build of the hot path: compiled where it is there, interpreted otherwise.

Lives here: the choice, and nothing else. SHM_METRICS_INTERPRETED=1 asks for the interpreted build (to test it, or to
rule the compiled one out); it is the one thing that is decided by the environment at import, since it is about code.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

__all__ = ["COMPILED", "build"]


def _interpreted() -> ModuleType:
    """The same module, from its source even where an extension lies beside it."""
    name = "shm_metrics._cells_cy"
    source = os.path.join(os.path.dirname(__file__), "_cells_cy.py")
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _choose() -> ModuleType:
    if os.environ.get("SHM_METRICS_INTERPRETED", "") not in ("", "0"):
        return _interpreted()
    from shm_metrics import _cells_cy

    return _cells_cy


if TYPE_CHECKING:
    from shm_metrics import _cells_cy as build
else:
    build = _choose()
COMPILED: bool = build.COMPILED
