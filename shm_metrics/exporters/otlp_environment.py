"""What OpenTelemetry's environment variables say of metrics by OTLP/HTTP.

https://opentelemetry.io/docs/specs/otel/protocol/exporter/
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
An empty variable is one that is not set. Read when an exporter is made, never at import.
"""

from __future__ import annotations

import logging
import os
import re
from urllib.parse import unquote

from shm_metrics.exporters.options import check_headers, check_url

__all__ = ["endpoint_told", "headers_told", "resource_told"]

log = logging.getLogger("shm_metrics")

_DEFAULT = "http://127.0.0.1:4318"
_NO_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def endpoint_told() -> str:
    """The URL for metrics: that variable as it is; or the one for all signals, and `v1/metrics` below it."""
    own = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
    if os.environ.get(own):
        return check_url(own, os.environ[own])
    shared = "OTEL_EXPORTER_OTLP_ENDPOINT"
    base = os.environ.get(shared)
    return f"{(check_url(shared, base) if base else _DEFAULT).rstrip('/')}/v1/metrics"


def headers_told() -> dict[str, str]:
    """Of the variable for metrics, or else of the one for all signals."""
    for name in ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"):
        if os.environ.get(name):
            return check_headers(name, _pairs(name))
    return {}


def resource_told() -> dict[str, str]:
    """Attributes of the resource; the service's name in a variable of its own goes before one among them."""
    resource = _pairs("OTEL_RESOURCE_ATTRIBUTES")
    service = os.environ.get("OTEL_SERVICE_NAME")
    return {**resource, "service.name": service} if service else resource


def _pairs(name: str) -> dict[str, str]:
    """`key=value,key=value`, percent-encoded. One that is not right voids the list, and is logged without its value."""
    told: dict[str, str] = {}
    for place, pair in enumerate(os.environ.get(name, "").split(","), 1):
        if not pair.strip():
            continue
        key, equals, value = pair.partition("=")
        try:
            if not key.strip() or not equals or _NO_ESCAPE.search(pair):
                raise ValueError
            told[unquote(key.strip(), errors="strict")] = unquote(value.strip(), errors="strict")
        except ValueError:
            log.warning("shm_metrics: %s: pair %d is no KEY=VALUE, percent-encoded; none of them is used", name, place)
            return {}
    return told
