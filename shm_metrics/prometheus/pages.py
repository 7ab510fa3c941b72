"""generate_latest, of the text format and of OpenMetrics.

The engine writes underscores for characters that are invalid in names. If another escaping is requested and such a name
exists, prometheus_client renders the page itself, from the same families.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from shm_metrics.exposition.openmetrics import render_openmetrics
from shm_metrics.exposition.text import render_text
from shm_metrics.model.families import FamilySnapshot
from shm_metrics.model.family_run import FamilyRun
from shm_metrics.prometheus.registry_views import is_whole, restricted_families, whole_families

__all__ = ["openmetrics", "text"]

_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
UNDERSCORES = "underscores"


def text(original: Callable[..., bytes]) -> Callable[..., bytes]:
    """exposition.generate_latest"""

    unasked = _escaping_unasked(original)

    def generate_latest(registry: Any = None, escaping: str = UNDERSCORES) -> bytes:
        from prometheus_client.registry import REGISTRY

        registry = REGISTRY if registry is None else registry
        families = _families(registry, unasked or escaping)
        return original(registry, *_escaping_arguments(escaping)) if families is None else render_text(families)

    return generate_latest


def openmetrics(original: Callable[..., bytes]) -> Callable[..., bytes]:
    """openmetrics.exposition.generate_latest"""

    unasked = _escaping_unasked(original)

    def generate_latest(registry: Any, escaping: str = UNDERSCORES, *version: Any, **more: Any) -> bytes:
        families = _families(registry, unasked or escaping)
        if families is not None and any(_is_native(family) for family in families):
            families = None  # later versions of the format have native histograms; prometheus_client writes them
        if families is None:
            return original(registry, *_escaping_arguments(escaping), *version, **more)
        return render_openmetrics(families)

    return generate_latest


def _escaping_unasked(original: Callable[..., bytes]) -> str:
    """Return the fixed escaping of a release without the parameter (0.22 quotes names), or ""."""
    return "" if "escaping" in inspect.signature(original).parameters else "allow-utf-8"


def _escaping_arguments(escaping: str) -> tuple[str, ...]:
    """Return the argument unless it is the default: earlier releases do not have it."""
    return () if escaping == UNDERSCORES else (escaping,)


def _families(registry: Any, escaping: str) -> Iterable[Any] | None:
    """Return what the engine is to render, or None when prometheus_client is to."""
    from prometheus_client.registry import RestrictedRegistry

    restricted = isinstance(registry, RestrictedRegistry)
    base = registry._registry if restricted else registry
    if not is_whole(base):
        return None
    families = restricted_families(registry) if restricted else whole_families(base)
    if not restricted and base._target_info:
        families = [base._target_info_metric(), *families]
    if escaping != UNDERSCORES and not all(_is_plain(family) for family in families):
        return None
    return families


def _is_native(item: Any) -> bool:
    return not isinstance(item, FamilyRun | FamilySnapshot) and any(
        getattr(sample, "native_histogram", None) for sample in item.samples
    )


def _is_plain(item: Any) -> bool:
    """Whether all names of the family are such as Prometheus always knew."""
    if isinstance(item, FamilyRun):
        cache = item.families.cache
        if "plain names" not in cache:
            cache["plain names"] = all(_plain_snapshot(family.name, labels) for family, labels in item.families)
        return bool(cache["plain names"])
    if isinstance(item, FamilySnapshot):
        return _plain_snapshot(item.family.name, item.labels)
    return bool(_METRIC_NAME.fullmatch(item.name)) and all(
        _METRIC_NAME.fullmatch(sample.name) and all(_LABEL_NAME.fullmatch(name) for name in sample.labels)
        for sample in item.samples
    )


def _plain_snapshot(name: str, labels: Iterable[Any]) -> bool:
    return bool(_METRIC_NAME.fullmatch(name)) and all(
        _LABEL_NAME.fullmatch(label) for pairs in labels for label, _ in pairs
    )
