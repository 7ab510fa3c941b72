"""The drop-in for prometheus_client: its metrics count in the shared segment, and its pages show all workers.

    import shm_metrics.prometheus

    shm_metrics.prometheus.install()

Before or after the metrics exist; nothing else of the application changes. `uninstall()` restores everything.

Lives here: the two calls. May not: import prometheus_client before somebody calls install().

    installation   what is installed, and where it counts
    replacing      attributes and functions replaced in place, and put back
    methods        what stands in the metric classes while it is installed
    binding        a prometheus_client metric -> its series in the segment
    living         the metrics that it knows, none of them kept alive
    values         what stands where prometheus_client's ValueClass stands
    workers        several workers in one process, told apart by prometheus_client's process_identifier
    reading        the segment as prometheus_client's Metric objects, for its registries and collectors
    pages          generate_latest
    collectors     python_gc_* and python_info of all workers
"""

from __future__ import annotations

import os

from shm_metrics.backend import MetricsBackend

__all__ = ["ENABLE_VARIABLE", "install", "is_wanted", "uninstall"]

ENABLE_VARIABLE = "SHM_METRICS_PROMETHEUS"


def install(backend: MetricsBackend | None = None) -> MetricsBackend:
    """Have prometheus_client's metrics, existing ones too, count in `backend`, which is returned.

    backend: None is the default one: the segment that SHM_METRICS_SEGMENT names, else "default".
    What a metric had counted in this process is taken along, unless it was counted by the process this one was forked
    from. Called again, nothing happens.

    Raises MetricsError when it is installed with another backend, or prometheus_client is missing.
    """
    from shm_metrics.prometheus.installation import install

    return install(backend)


def uninstall() -> None:
    """Restore prometheus_client: what this worker's row holds of each metric goes back into the process' own memory."""
    from shm_metrics.prometheus.installation import uninstall

    uninstall()


def is_wanted() -> bool:
    """Whether SHM_METRICS_PROMETHEUS asks for it (1, true, yes, on). Who reads it: the hooks of a server."""
    return os.environ.get(ENABLE_VARIABLE, "").strip().lower() in ("1", "true", "yes", "on")
