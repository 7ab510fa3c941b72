"""The drop-in for prometheus_client: its metrics count in the shared segment, and its pages show all workers.

    import shm_metrics.prometheus

    shm_metrics.prometheus.install()

It can be called before or after the metrics are made; nothing else of the application changes. `uninstall()` restores
everything.

Lives here: the two calls. May not: import prometheus_client before install() is called.

    installation       what is installed, and where it counts
    patching           replaces attributes and functions in place, and restores them
    patched_methods    the methods of the metric classes while it is installed
    binding            a prometheus_client metric -> its series in the segment
    weak_identity_set  the known metrics, none of them kept alive
    values             the replacement of prometheus_client's ValueClass
    workers            several workers in one process, distinguished by prometheus_client's process_identifier
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
    """Make prometheus_client's metrics, also existing ones, count in `backend`; return it.

    backend: None for the default one: the segment that SHM_METRICS_SEGMENT names, else "default".
    Counts that a metric already has are carried over, unless the parent of a forked process counted them. Calling
    install() again does nothing.

    A metric keeps what it has counted in this process, but not what it counted in a process that this one was forked
    from. A second call does nothing.

    Raises MetricsError if it is installed with another backend, or prometheus_client is missing.
    """
    from shm_metrics.prometheus.installation import install

    return install(backend)


def uninstall() -> None:
    """Restore prometheus_client; each metric continues in process memory from what this worker's row holds."""
    from shm_metrics.prometheus.installation import uninstall

    uninstall()


def is_wanted() -> bool:
    """Whether SHM_METRICS_PROMETHEUS enables the drop-in (1, true, yes, on); read by the hooks of servers."""
    return os.environ.get(ENABLE_VARIABLE, "").strip().lower() in ("1", "true", "yes", "on")
