"""The metrics of prometheus_client's platform and GC collectors, for all workers.

A process can only examine its own garbage collector, so each worker counts its collections as they happen, from
install() on. The callback runs inside the collector: it takes no lock and allocates nothing that stays.
"""

from __future__ import annotations

import gc
from typing import Any

from shm_metrics.backend import MetricsBackend

__all__ = ["GC_FAMILIES", "PLATFORM_FAMILY", "RuntimeCollectors"]

PLATFORM_FAMILY = "python_info"
GC_FAMILIES = {
    "collected": ("python_gc_objects_collected", "Objects collected during gc, by all workers"),
    "uncollectable": ("python_gc_objects_uncollectable", "Uncollectable objects found during gc, by all workers"),
    "collections": ("python_gc_collections", "Number of times this generation was collected, by all workers"),
}

_GENERATIONS = 3


class RuntimeCollectors:
    """Counts only what the application wants to see: what is registered in prometheus_client's default registry."""

    def __init__(self) -> None:
        self._cells: dict[str, list[Any]] = {}
        self._running = False
        self._platform: Any = None
        self._gc = False

    def start(self, backend: MetricsBackend, client: Any) -> None:
        registered = client.REGISTRY._collector_to_names
        self._platform = client.PLATFORM_COLLECTOR if client.PLATFORM_COLLECTOR in registered else None
        self._gc = client.GC_COLLECTOR in registered
        self.attach(backend)
        if self._gc:
            gc.callbacks.append(self._collected)
            self._running = True

    def stop(self) -> None:
        if self._running:
            gc.callbacks.remove(self._collected)
            self._running = False
        self._platform, self._gc = None, False  # another backend may become the default one before this is forgotten

    def attach(self, backend: MetricsBackend) -> None:
        """Count there from now on."""
        if self._platform is not None:
            for family in self._platform.collect():
                for sample in family.samples:
                    backend.gauge(family.name, family.documentation, **sample.labels).set(sample.value)
        if self._gc:
            self._cells = {
                what: [backend.counter(name, text, generation=str(n)) for n in range(_GENERATIONS)]
                for what, (name, text) in GC_FAMILIES.items()
            }

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase != "stop":
            return
        generation = info["generation"]
        cells = self._cells
        cells["collections"][generation].inc()
        if info["collected"]:
            cells["collected"][generation].inc(info["collected"])
        if info["uncollectable"]:
            cells["uncollectable"][generation].inc(info["uncollectable"])
