"""The options that OpenTelemetry's environment variables set for metrics over OTLP/HTTP.

https://opentelemetry.io/docs/specs/otel/protocol/exporter/
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
An empty variable counts as unset. The variables are read when an exporter is made, never at import.
"""

from __future__ import annotations

import logging
import os
import re
from urllib.parse import unquote

from shm_metrics.exporters.options import check_headers, check_url

__all__ = ["endpoint_from_environment", "headers_from_environment", "resource_from_environment"]

log = logging.getLogger("shm_metrics")

_DEFAULT = "http://127.0.0.1:4318"
_NO_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def endpoint_from_environment() -> str:
    """Return the URL for metrics: its own variable unchanged, or that of all signals with `/v1/metrics` appended."""
    own = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
    if os.environ.get(own):
        return check_url(own, os.environ[own])
    shared = "OTEL_EXPORTER_OTLP_ENDPOINT"
    base = os.environ.get(shared)
    return f"{(check_url(shared, base) if base else _DEFAULT).rstrip('/')}/v1/metrics"


def headers_from_environment() -> dict[str, str]:
    """Return the headers in the variable for metrics, or else in that for all signals."""
    for name in ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"):
        if os.environ.get(name):
            return check_headers(name, _pairs(name))
    return {}


def resource_from_environment() -> dict[str, str]:
    """Return the attributes of the resource. OTEL_SERVICE_NAME overrides a `service.name` among them."""
    resource = _pairs("OTEL_RESOURCE_ATTRIBUTES")
    service = os.environ.get("OTEL_SERVICE_NAME")
    return {**resource, "service.name": service} if service else resource


def _pairs(name: str) -> dict[str, str]:
    """Parse percent-encoded `key=value,key=value`. An invalid pair voids the list; it is logged without its value."""
    pairs: dict[str, str] = {}
    for place, pair in enumerate(os.environ.get(name, "").split(","), 1):
        if not pair.strip():
            continue
        key, equals, value = pair.partition("=")
        try:
            if not key.strip() or not equals or _NO_ESCAPE.search(pair):
                raise ValueError
            pairs[unquote(key.strip(), errors="strict")] = unquote(value.strip(), errors="strict")
        except ValueError:
            log.warning("shm_metrics: %s: pair %d is no KEY=VALUE, percent-encoded; all pairs are ignored", name, place)
            return {}
    return pairs
