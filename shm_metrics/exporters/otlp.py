"""The exporter `otlp`: a scrape as OTLP/HTTP, protobuf, to a collector.

https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import gzip
import os
import socket
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from shm_metrics.errors import ExportError, InvalidMetricError
from shm_metrics.exporters.documents import chosen, describe_dropped
from shm_metrics.exporters.http_request import send
from shm_metrics.exporters.options import check_flag, check_headers, check_names, check_seconds, check_texts, check_url
from shm_metrics.exporters.otlp_environment import (
    endpoint_from_environment,
    headers_from_environment,
    resource_from_environment,
)
from shm_metrics.exposition.names import Dropped

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

__all__ = ["OtlpExporter"]


class OtlpExporter:
    """endpoint: the whole URL, with its /v1/metrics. headers: sent along. timeout: seconds. What is left out is taken
    from OTEL_EXPORTER_OTLP_METRICS_{ENDPOINT,HEADERS} or OTEL_EXPORTER_OTLP_{ENDPOINT,HEADERS}, when it is made.

    resource: attributes; they go before those of OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, and these before
    `service.name` (the segment's name), `service.instance.id` and `host.name`, which are there in any case.
    names: the families to send. compress: with gzip.
    Raises InvalidMetricError, also when opentelemetry-proto is not installed (extra `otlp`).
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        resource: Mapping[str, str] | None = None,
        names: Iterable[str] | None = None,
        compress: bool = True,
        timeout: float = 10.0,
    ) -> None:
        try:
            from shm_metrics.exporters import otlp_mapping
        except ImportError as error:
            raise InvalidMetricError(f"exporter 'otlp': {error}; pip install 'shm_metrics[otlp]'") from error
        self._mapping = otlp_mapping
        self.endpoint = check_url("endpoint", endpoint) if endpoint is not None else endpoint_from_environment()
        self._headers = check_headers("headers", headers) if headers is not None else headers_from_environment()
        self._resource = {**resource_from_environment(), **check_texts("resource", resource)}
        self._names = check_names(names)
        self._compress = check_flag("compress", compress)
        self._timeout = check_seconds("timeout", timeout)

    def export(self, backend: MetricsBackend) -> bytes:
        """Send now; return the request that was taken, uncompressed. Raise ExportError, also if a part was refused."""
        dropped: list[Dropped] = []
        resource = {
            "service.name": os.path.basename(backend.place.path),
            "service.instance.id": backend.instance_id,
            "host.name": socket.gethostname(),
            **self._resource,
        }
        request = self._mapping.request(
            chosen(backend, self._names),
            resource,
            began=backend.created_at,
            now=time.time(),
            on_dropped=dropped.append,
        )
        headers = {**self._headers, "Content-Type": "application/x-protobuf"}
        if self._compress:
            headers["Content-Encoding"] = "gzip"
        body = gzip.compress(request, 6) if self._compress else request
        refused = self._mapping.refused(send("POST", self.endpoint, body, headers, self._timeout))
        if refused:
            raise ExportError(f"POST {self.endpoint}: {refused}", partly=True)
        if dropped:
            raise ExportError(f"{describe_dropped(dropped)}; the others were sent", partly=True)
        return request
