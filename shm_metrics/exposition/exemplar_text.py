"""An exemplar as OpenMetrics writes it behind a counter or bucket."""

from __future__ import annotations

from typing import Any

from shm_metrics.exposition.escaping import label_name, label_text
from shm_metrics.exposition.floats import go_text

__all__ = ["exemplar_text"]

_MAX_CHARACTERS = 128
"""Of an exemplar's labels, names and values together (OpenMetrics 1.0, section Exemplars)."""


def exemplar_text(exemplar: Any) -> str:
    """Return ` # {trace_id="1"} 0.5 1700000000.0`, or "" for an exemplar that would make the page invalid."""
    labels = {label_name(name): str(value) for name, value in exemplar.labels.items()}
    if len(labels) < len(exemplar.labels) or sum(map(len, (*labels, *labels.values()))) > _MAX_CHARACTERS:
        return ""
    text = f" # {{{label_text(sorted(labels.items()))}}} {go_text(exemplar.value)}"
    return text if exemplar.timestamp is None else f"{text} {exemplar.timestamp}"
