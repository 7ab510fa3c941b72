"""The exporter `otlp`: a scrape as OTLP/HTTP, protobuf, to a collector.

Lives here: the request, and what the collector says of it. May not: know what a family becomes (otlp_mapping does).
https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import gzip
import os
import socket
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote

from shm_metrics.errors import ExportError, InvalidMetricError
from shm_metrics.exporters.documents import chosen, told_of, wanted
from shm_metrics.exporters.http_request import check_seconds, check_url, send
from shm_metrics.exposition.names import Dropped

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

__all__ = ["OtlpExporter"]

DEFAULT_ENDPOINT = "http://127.0.0.1:4318"


class OtlpExporter:
    """endpoint: the whole URL, with its /v1/metrics. headers: sent along. timeout: seconds. What is left out is taken
    from OTEL_EXPORTER_OTLP_METRICS_{ENDPOINT,HEADERS} or OTEL_EXPORTER_OTLP_{ENDPOINT,HEADERS}, when it is made.

    resource: attributes; `service.name` (the segment's name if left out), `service.instance.id` and `host.name` are
    added. names: the families to send. compress: with gzip.
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
        self.endpoint = check_url(endpoint if endpoint is not None else _endpoint_told())
        self._headers = dict(headers) if headers is not None else _headers_told()
        self._resource = dict(resource or {})
        self._names = wanted(names)
        self._compress = compress
        self._timeout = check_seconds("timeout", timeout)

    def export(self, backend: MetricsBackend) -> bytes:
        """Send now; the request that was taken, uncompressed. Raises ExportError, also when a part was refused."""
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
            raise ExportError(f"POST {self.endpoint}: {refused}")
        if dropped:
            raise ExportError(f"{told_of(dropped)}; the others were sent")
        return request


def _endpoint_told() -> str:
    told = os.environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    if told:
        return told
    base = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or DEFAULT_ENDPOINT
    return f"{base.rstrip('/')}/v1/metrics"


def _headers_told() -> dict[str, str]:
    """`name=value,name=value`, values percent-encoded."""
    told = os.environ.get("OTEL_EXPORTER_OTLP_METRICS_HEADERS") or os.environ.get("OTEL_EXPORTER_OTLP_HEADERS") or ""
    pairs = (pair.partition("=") for pair in told.split(",") if "=" in pair)
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}
