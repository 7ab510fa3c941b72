"""The exporters by name: built-in ones, those of installed packages, and those that the application registers.

Registered names override built-in ones, which override those of packages. A package offers one by an entry point:

    [project.entry-points."shm_metrics.exporters"]
    carbon = "my_package:CarbonExporter"
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Protocol

from shm_metrics.errors import InvalidMetricError

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

__all__ = ["GROUP", "Exporter", "exporter", "exporters", "register_exporter"]

log = logging.getLogger("shm_metrics")

GROUP = "shm_metrics.exporters"


class Exporter(Protocol):
    """The interface of exporters. It must be usable in a child of fork, and from one thread at a time."""

    def export(self, backend: MetricsBackend) -> bytes:
        """Return the document, or what was sent. Raise ExportError when not all of it was delivered."""
        ...


Factory = Callable[..., Exporter]

_OURS = {
    "csv": "documents:csv",
    "json": "documents:json",
    "jsonl": "documents:jsonl",
    "openmetrics": "documents:openmetrics",
    "otlp": "otlp:OtlpExporter",
    "pushgateway": "pushgateway:PushgatewayExporter",
    "statsd": "statsd:StatsdExporter",
    "text": "documents:text",
}
_registered: dict[str, Factory] = {}
_broken: dict[str, str] = {}
"""Entry points that could not be loaded -> the error; each is logged once."""


def register_exporter(name: str, factory: Factory, *, replace: bool = False) -> None:
    """Offer `factory(**options)` as the exporter `name`, in this process.

    Raises InvalidMetricError when the name is taken and `replace` is False.
    """
    if not isinstance(name, str) or not name or not callable(factory):
        raise InvalidMetricError(f"register_exporter({name!r}, {factory!r}): give a name, and a callable")
    if not replace and (name in _OURS or _registered.get(name, factory) is not factory):
        raise InvalidMetricError(f"exporter {name!r} is there already; choose another name, or say replace=True")
    _registered[name] = factory


def exporters() -> tuple[str, ...]:
    """Return the names of all exporters. Those of packages that fail to load are left out, and logged once."""
    return tuple(sorted(name for name in _names() if name in _registered or name in _OURS or _loaded(name)))


def exporter(name: str, **options: Any) -> Exporter:
    """Return a new exporter. Raise InvalidMetricError for an unknown name or option."""
    factory = _factory(name)
    _check_options(name, factory, options)
    try:
        return factory(**options)
    except TypeError as error:
        raise InvalidMetricError(f"exporter {name!r}: {error}") from error


def _check_options(name: str, factory: Factory, options: dict[str, Any]) -> None:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return  # a callable without a signature checks its options itself
    known = [each.name for each in parameters if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)]
    there_are = f"there are {', '.join(known)}" if known else "it has none"
    if not any(each.kind is each.VAR_KEYWORD for each in parameters):
        for option in options:
            if option not in known:
                raise InvalidMetricError(f"exporter {name!r}: there is no option {option!r}; {there_are}")
    for each in parameters:
        if each.name in known and each.default is each.empty and each.name not in options:
            raise InvalidMetricError(f"exporter {name!r}: give the option {each.name!r}; {there_are}")


def _factory(name: str) -> Factory:
    if name in _registered:
        return _registered[name]
    if name in _OURS:
        module, _, attribute = _OURS[name].partition(":")
        ours: Factory = getattr(import_module(f"shm_metrics.exporters.{module}"), attribute)
        return ours
    found = _loaded(name)
    if found is not None:
        return found
    if name in _broken:
        raise InvalidMetricError(f"exporter {name!r} cannot be loaded: {_broken[name]}")
    raise InvalidMetricError(f"exporter {name!r}: there is none; those there are: {', '.join(sorted(_names()))}")


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _names() -> set[str]:
    return {*_registered, *_OURS, *_plugins()}


def _loaded(name: str) -> Factory | None:
    point = _plugins().get(name)
    if point is None:
        return None
    try:
        factory: Factory = point.load()
        if not callable(factory):
            raise TypeError(f"{factory!r} is not callable")
    except Exception as error:  # a foreign module may raise anything on import
        if name not in _broken:
            log.warning("shm_metrics: exporter %s of %s cannot be loaded: %r", name, point.value, error)
        _broken[name] = repr(error)
        return None
    _broken.pop(name, None)
    return factory
