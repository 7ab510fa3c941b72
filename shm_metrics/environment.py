"""Read and write the cluster's environment variables, for the default backend and for a server's workers.

SHM_METRICS_CACHE             cache=, as a URL or a path; without it the others have no effect
SHM_METRICS_NAMESPACE         namespace=
SHM_METRICS_SYNC_INTERVAL     sync_interval=
SHM_METRICS_EXPORT_PORT       sync_options={"export_port": ...}, and so on for the other fields of SyncConfig
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from shm_metrics.errors import InvalidMetricError

__all__ = ["CACHE_VARIABLE", "cluster_options", "cluster_wanted", "ignore_cluster", "tell_workers"]

CACHE_VARIABLE = "SHM_METRICS_CACHE"

# Field of SyncConfig -> its variable, and what its text becomes.
_FIELDS: Mapping[str, tuple[str, type[str] | type[float] | type[int]]] = {
    "namespace": ("SHM_METRICS_NAMESPACE", str),
    "interval": ("SHM_METRICS_SYNC_INTERVAL", float),
    "lease_ttl": ("SHM_METRICS_LEASE_TTL", float),
    "stale_after": ("SHM_METRICS_STALE_AFTER", float),
    "retention": ("SHM_METRICS_RETENTION", float),
    "return_within": ("SHM_METRICS_RETURN_WITHIN", float),
    "timeout": ("SHM_METRICS_CACHE_TIMEOUT", float),
    "export_port": ("SHM_METRICS_EXPORT_PORT", int),
    "export_addr": ("SHM_METRICS_EXPORT_ADDR", str),
}
# Two fields are arguments of MetricsBackend; the others go by its sync_options.
_ARGUMENTS = {"interval": "sync_interval", "namespace": "namespace"}


def cluster_wanted() -> bool:
    """Return whether the environment names a cache."""
    return bool(os.environ.get(CACHE_VARIABLE))


def cluster_options() -> dict[str, Any]:
    """Return the environment's options as arguments of MetricsBackend; {} when it names no cache.

    Raise InvalidMetricError, naming the variable.
    """
    if not cluster_wanted():
        return {}
    given: dict[str, Any] = {}
    variables = []
    for field, (variable, kind) in _FIELDS.items():
        text = os.environ.get(variable)
        if not text:
            continue
        variables.append(f"{variable}={text}")
        try:
            given[field] = kind(text)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise InvalidMetricError(f"{variable}={text!r}: give {wanted}") from None
    from shm_metrics.cluster.config import SyncConfig
    from shm_metrics.cluster.store_factory import check_cache

    try:
        SyncConfig(**given)
    except InvalidMetricError as error:
        raise InvalidMetricError(f"{', '.join(variables)}: {error}") from None
    try:
        check_cache(os.environ[CACHE_VARIABLE])
    except InvalidMetricError as error:
        raise InvalidMetricError(f"{CACHE_VARIABLE}: {error}") from None
    arguments = {argument: given.pop(field) for field, argument in _ARGUMENTS.items() if field in given}
    return {"cache": os.environ[CACHE_VARIABLE], **arguments, "sync_options": given}


def tell_workers(
    cache: str | os.PathLike[str] | None,
    sync_interval: float | None,
    namespace: str | None,
    sync_options: Mapping[str, Any] | None,
) -> None:
    """Put these arguments of MetricsBackend into the environment, for the processes to come; None leaves a variable.

    Raise InvalidMetricError for an invalid argument. Other variables of the environment are not checked here, but by
    cluster_options().
    """
    from shm_metrics.cluster.config import SyncConfig
    from shm_metrics.cluster.store_factory import check_cache

    if cache is not None and not isinstance(cache, str | os.PathLike):
        raise InvalidMetricError(f"cache={cache!r}: a server's workers read it from the environment; give a URL")
    fields = {"interval": sync_interval, "namespace": namespace, **(sync_options or {})}
    for field in fields:
        if field not in _FIELDS:
            raise InvalidMetricError(f"sync_options: there is no {field!r}; there are {', '.join(_FIELDS)}")
    given = {field: value for field, value in fields.items() if value is not None}
    SyncConfig(**given)
    check_cache(cache)
    if cache is not None:
        # A path object needs no slash, but its text does.
        os.environ[CACHE_VARIABLE] = cache if isinstance(cache, str) else os.path.abspath(cache)
    for field, value in given.items():
        os.environ[_FIELDS[field][0]] = str(value)


def ignore_cluster() -> None:
    """Keep future processes from joining the cluster that the environment names."""
    os.environ.pop(CACHE_VARIABLE, None)
