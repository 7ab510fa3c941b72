"""Choose the build of the hot path: compiled if it exists, interpreted otherwise.

SHM_METRICS_INTERPRETED=1 selects the interpreted build, to test it or to rule the compiled one out. It is the only
environment variable that is read at import, because it selects code.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

__all__ = ["COMPILED", "cells", "lookup"]


def _interpreted(name: str) -> ModuleType:
    """Load the module from its source, even if an extension lies beside it."""
    source = os.path.join(os.path.dirname(__file__), f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"shm_metrics.native.{name}", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _choose() -> tuple[ModuleType, ModuleType]:
    if os.environ.get("SHM_METRICS_INTERPRETED", "") in ("", "0"):
        from shm_metrics.native import _cells_cy, _lookup_cy

        if _cells_cy.COMPILED == _lookup_cy.COMPILED:  # both or none: classes are made of the two together
            return _cells_cy, _lookup_cy
    return _interpreted("_cells_cy"), _interpreted("_lookup_cy")


if TYPE_CHECKING:
    from shm_metrics.native import _cells_cy as cells
    from shm_metrics.native import _lookup_cy as lookup
else:
    cells, lookup = _choose()
COMPILED: bool = cells.COMPILED
