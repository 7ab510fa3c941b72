"""The drop-in for prometheus_client: its metrics count in the shared segment, and its pages show all workers.

    import shm_metrics.prometheus

    shm_metrics.prometheus.install()

Call it before or after the metrics exist; nothing else of the application changes. `uninstall()` restores everything.

Nothing here imports prometheus_client before install().

    installation       what is installed, and where it counts
    patching           attributes and functions replaced in place, and put back
    patched_methods    what stands in the metric classes while it is installed
    binding            a prometheus_client metric -> its series in the segment
    weak_identity_set  the metrics that it knows, none of them kept alive
    values             what stands where prometheus_client's ValueClass stands
    workers            several workers in one process, told apart by prometheus_client's process_identifier
    registry_views     the segment as prometheus_client's Metric objects, for its registries and collectors
    pages              generate_latest
    collectors         python_gc_* and python_info of all workers
"""

from __future__ import annotations

import os

from shm_metrics.backend import MetricsBackend

__all__ = ["ENABLE_VARIABLE", "install", "is_wanted", "uninstall"]

ENABLE_VARIABLE = "SHM_METRICS_PROMETHEUS"


def install(backend: MetricsBackend | None = None) -> MetricsBackend:
    """Make prometheus_client's metrics, existing ones too, count in `backend`; return that backend.

    backend: default: the default backend, on the segment SHM_METRICS_SEGMENT, else "default".

    A metric keeps what it has counted in this process, but not what it counted in a process that this one was forked
    from. A second call does nothing.

    Raises MetricsError if it is installed with another backend, or prometheus_client is missing.
    """
    from shm_metrics.prometheus.installation import install

    return install(backend)


def uninstall() -> None:
    """Restore prometheus_client; each metric continues in private memory from what this worker's row holds."""
    from shm_metrics.prometheus.installation import uninstall

    uninstall()


def is_wanted() -> bool:
    """Return whether SHM_METRICS_PROMETHEUS is set (1, true, yes, on). The hooks of servers read it."""
    return os.environ.get(ENABLE_VARIABLE, "").strip().lower() in ("1", "true", "yes", "on")
