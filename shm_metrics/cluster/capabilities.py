"""The capabilities of caches, from four sources: declarations of their classes, detectors, a built-in table, methods.

The first source that has a value for a capability wins, in this order. So a declared False overrides any later True.
Where one source has two values (two detectors, a decorator over a decorator), False wins.
"""

from __future__ import annotations

import inspect
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from typing import Any, TypeVar

from shm_metrics.errors import InvalidMetricError

__all__ = [
    "CAPABILITIES",
    "LOCAL",
    "STORE_CLASS",
    "behind_proxy",
    "clear_detectors",
    "declare_cache_capabilities",
    "find_capabilities",
    "known_capabilities",
    "register_detector",
]

log = logging.getLogger("shm_metrics")

CapabilityMap = dict[str, Any]
Detector = Callable[[Any], "Mapping[str, Any] | None"]
Class = TypeVar("Class", bound=type)

CAPABILITIES = {
    "distributed": "other hosts see what is written",
    "atomic_increment": "numbers are added to on the server",
    "locking": "a lock whose owner the server checks in the same step as the write that it guards",
    "ttl_inspection": "the server tells when a key expires",
    "namespace_support": "the client puts a prefix before keys",
    "compression_support": "the client compresses values",
    "key_transformation": "the client makes other keys of those it is given",
}
STORE_CLASS = "store_class"
_DECLARED = "__shm_metrics_cache_capabilities__"

LOCAL: CapabilityMap = dict.fromkeys(CAPABILITIES, False)
_REDIS: CapabilityMap = {
    **LOCAL,
    "distributed": True,
    "atomic_increment": True,
    "locking": True,
    "ttl_inspection": True,
}
# cas comes near a lock, but guards its own key only
_MEMCACHED: CapabilityMap = {**LOCAL, "distributed": True, "atomic_increment": True, "namespace_support": True}
_DJANGO: CapabilityMap = {"namespace_support": True, "key_transformation": True}

# By the name of a class, or of one that it is derived from.
_KNOWN: tuple[tuple[str, CapabilityMap], ...] = (
    (r"(redis|valkey)\.(client|cluster|sentinel|asyncio).*", _REDIS),
    (r"fakeredis\..*", {**_REDIS, "distributed": False}),
    (r"pymemcache\.client\..*", _MEMCACHED),
    (r"(memcache|pylibmc|bmemcached)\..*Client", _MEMCACHED),
    (r"django\.core\.cache\.backends\.redis\.RedisCache", {**_REDIS, **_DJANGO}),
    (r"django_(redis|valkey)\.cache\..*", {**_REDIS, **_DJANGO, "compression_support": True}),
    (r"django\.core\.cache\.backends\.memcached\..*", {**_MEMCACHED, **_DJANGO}),
    (r"django\.core\.cache\.backends\.db\.DatabaseCache", {**LOCAL, **_DJANGO}),
    (r"django\.core\.cache\.backends\..*", {**LOCAL, **_DJANGO}),
)
_SCHEMES = {
    **dict.fromkeys(("redis", "rediss", "valkey", "valkeys", "unix"), _REDIS),
    "memcached": _MEMCACHED,
}

# Methods that say what a class of its own can do. None of them says that other hosts see it.
_SHOWN = {
    "atomic_increment": ("incr", "incrby", "increment"),
    "locking": ("lock",),
    "ttl_inspection": ("ttl", "pttl"),
    "namespace_support": ("make_key", "key_prefix"),
    "key_transformation": ("make_key", "key_func", "key_function"),
}

_lock = threading.Lock()
_detectors: list[tuple[re.Pattern[str], Detector]] = []
_warned: set[object] = set()


def declare_cache_capabilities(**capabilities: bool | str) -> Callable[[Class], Class]:
    """A class decorator: what caches of this class can do, for CacheStrategy.detect().

        @declare_cache_capabilities(distributed=True, atomic_increment=False)
        class OurCache: ...

    Takes the names of CAPABILITIES with True or False, and store_class with text. A subclass has what its bases
    declare, unless it declares otherwise. Raises InvalidMetricError for another name or value.
    """
    known = _checked(capabilities, "declare_cache_capabilities")

    def declare(cls: Class) -> Class:
        setattr(cls, _DECLARED, _combined([cls.__dict__.get(_DECLARED, {}), known]))
        return cls

    return declare


def register_detector(pattern: str, detector: Detector) -> None:
    """Ask detector(client) what a client can do, if `pattern` is found in the name of its class ("module.Class") or of
    a base of it. It answers with a mapping as declare_cache_capabilities() takes it, or None if it cannot tell.

    Raises InvalidMetricError if the pattern is no regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InvalidMetricError(f"detector pattern {pattern!r}: not a regular expression: {error}") from None
    with _lock:
        _detectors.append((compiled, detector))


def clear_detectors() -> None:
    """Forget all registered detectors."""
    with _lock:
        _detectors.clear()
        _warned.clear()


def find_capabilities(client: Any) -> CapabilityMap:
    """Every capability and store_class, of a client, a URL, a file path, or None for no cache."""
    client = behind_proxy(client)
    if client is None:
        name = ""
    elif isinstance(client, str):
        scheme, separator, _ = client.partition("://")
        name = scheme.lower() if separator else "file"
    else:
        name = "file" if isinstance(client, PathLike) else next(_class_names(client), "builtins.object")
    return {**LOCAL, STORE_CLASS: name, **_by_methods(client), **known_capabilities(client)}


def known_capabilities(client: Any) -> CapabilityMap:
    """What one of the first three sources says, without the look at its methods; nothing of what none speaks of."""
    if client is None or isinstance(client, PathLike):
        return LOCAL
    if isinstance(client, str):
        scheme, separator, _ = client.partition("://")
        return _SCHEMES.get(scheme.lower(), {}) if separator else LOCAL
    client = behind_proxy(client)
    names = list(_class_names(client))
    try:
        detected = _detected(client, names)
    except _FailedError:
        return LOCAL
    return {**_built_in(names), **detected, **_declared(client)}


def behind_proxy(client: Any) -> Any:
    """django.core.cache.cache stands for the cache that the settings name."""
    if type(client).__module__ == "django.utils.connection":
        return client._connections[client._alias]
    return client


def _class_names(client: Any) -> Iterator[str]:
    for cls in type(client).__mro__:
        if cls is not object:
            yield f"{cls.__module__}.{cls.__qualname__}"


def _declared(client: Any) -> CapabilityMap:
    found: CapabilityMap = {}
    for cls in type(client).__mro__:
        found = {**cls.__dict__.get(_DECLARED, {}), **found}
    return found


class _FailedError(Exception):
    """A detector did; it was logged."""


def _detected(client: Any, names: list[str]) -> CapabilityMap:
    with _lock:
        detectors = list(_detectors)
    known = []
    for pattern, detector in detectors:
        if not any(pattern.search(name) for name in names):
            continue
        try:
            answer = detector(client)
            if answer is not None:
                known.append(_checked(answer, f"detector {pattern.pattern!r}"))
        except Exception as error:
            with _lock:
                first = detector not in _warned
                _warned.add(detector)
            if first:
                log.warning(
                    "cache detector for %r failed on %s, which is used as local_only: %s: %s",
                    pattern.pattern,
                    names[0],
                    type(error).__name__,
                    error,
                )
            raise _FailedError from None
    return _combined(known)


def _built_in(names: list[str]) -> CapabilityMap:
    for name in names:
        for pattern, known in _KNOWN:
            if re.fullmatch(pattern, name):
                return known
    return {}


def _by_methods(client: Any) -> CapabilityMap:
    """By what its class has; nothing is called, nor is an object asked that would have any attribute."""
    missing = object()
    return {
        name: True
        for name, methods in _SHOWN.items()
        if any(inspect.getattr_static(type(client), method, missing) is not missing for method in methods)
    }


def _combined(known: list[CapabilityMap]) -> CapabilityMap:
    found: CapabilityMap = {}
    for one in known:
        for name, value in one.items():
            if found.get(name) is not False:
                found[name] = value
    return found


def _checked(known: Mapping[str, Any], who: str) -> CapabilityMap:
    if not isinstance(known, Mapping):
        raise InvalidMetricError(f"{who}: {known!r} is no mapping of capability to True or False")
    for name, value in known.items():
        if name == STORE_CLASS:
            if not isinstance(value, str):
                raise InvalidMetricError(f"{who}: store_class {value!r} is not text")
        elif name not in CAPABILITIES:
            raise InvalidMetricError(f"{who}: no capability {name!r}; there are {', '.join(CAPABILITIES)}")
        elif not isinstance(value, bool):
            raise InvalidMetricError(f"{who}: {name} is {value!r}; say True or False")
    return dict(known)
