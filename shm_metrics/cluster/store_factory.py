"""From the `cache` option of a user to its store.

check_cache() raises InvalidMetricError for invalid values. It needs no cache library, so the error comes where the
backend is made. open_store() raises SyncError for what is wrong with this machine only, such as a missing package:
the rounds then fail as they do when the cache is down.
"""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from shm_metrics.cluster.capabilities import behind_proxy, known_capabilities
from shm_metrics.cluster.stores.protocol import Store
from shm_metrics.errors import InvalidMetricError

if TYPE_CHECKING:
    from shm_metrics.segment.segment import Segment

__all__ = ["check_cache", "open_store"]

_POSSIBLE = (
    "give a URL (redis://, rediss://, valkey://, valkeys://, unix://, memcached://), a client of redis-py, valkey-py "
    "or pymemcache, a cache of Django that uses one of them, a file path (with a slash), or None"
)
_REDIS_SCHEMES = ("redis", "rediss", "valkey", "valkeys", "unix")
_SCHEMES = (*_REDIS_SCHEMES, "memcached")
_ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]+))?")  # host[:port]
_MEMCACHED_PORT = "11211"


def check_cache(cache: Any) -> None:
    """Raise InvalidMetricError for an invalid `cache`, as far as this can be checked without its library."""
    if cache is None or isinstance(cache, os.PathLike):
        return
    if isinstance(cache, str):
        _check_text(cache)
    elif known_capabilities(cache).get("distributed") is not False and not _is_of_django(cache):
        _check_client(behind_proxy(cache))


def _check_text(cache: str) -> None:
    scheme, separator, rest = cache.partition("://")
    if not separator:
        if "/" not in cache:  # as with the name of a segment and its path
            raise InvalidMetricError(
                f"cache={_shown(cache)!r} is neither a URL nor a path{_perhaps(cache)}; {_POSSIBLE}"
            )
        return
    known = scheme.lower()
    if known not in _SCHEMES:
        near = get_close_matches(known, _SCHEMES, 1)
        meant = f"; do you mean {near[0]}://?" if near else ""
        raise InvalidMetricError(
            f"cache={_shown(cache)!r}: URL of scheme {scheme!r} cannot be used{meant}; {_POSSIBLE}"
        )
    normalized = f"{known}://{rest}"
    if known == "memcached":
        from shm_metrics.cluster.stores.memcached_ring import Servers

        Servers.from_url(normalized)
    else:
        from shm_metrics.cluster.stores.redis_client import check_url

        check_url(normalized)


def _perhaps(text: str) -> str:
    found = _ADDRESS.fullmatch(text)
    if found is None:
        return ""
    return f"; do you mean {'memcached' if found['port'] == _MEMCACHED_PORT else 'redis'}://{text}?"


def _shown(text: str) -> str:
    """Return `text` without what may be a password."""
    text = text.partition("?")[0]
    before, at, after = text.rpartition("@")
    scheme = before.partition("://")
    return text if not at else f"{scheme[0]}://...@{after}" if scheme[1] else f"...@{after}"


def _check_client(client: Any) -> None:
    from shm_metrics.cluster.stores import memcached_ring, redis_client

    if redis_client.redis_library(client) is not None:
        redis_client.check_client(client)
    elif memcached_ring.is_pymemcache(client):
        memcached_ring.Servers.from_client(client)
    else:
        raise _unusable(client)


def _unusable(client: Any) -> InvalidMetricError:
    kind = f"{type(client).__module__}.{type(client).__qualname__}"
    return InvalidMetricError(f"cache of class {kind} cannot be used; {_POSSIBLE}")


def _is_of_django(client: Any) -> bool:
    """Whether `client` is a cache of Django. What it wraps is examined at first use, when settings are loaded."""
    return any(cls.__module__.partition(".")[0] in ("django", "django_redis") for cls in type(client).__mro__)


def open_store(cache: Any, *, namespace: str, segment: Segment, timeout: float = 2.0) -> Store:
    """Return the store for `cache`. Nothing is sent yet.

    cache: a URL; a client; a file path; or None for a file beside the segment. A client that its class or a detector
        declares local_only is not used; the file beside the segment is used instead.
    namespace: one for each cluster, the same on all of its hosts.
    timeout: seconds that any single request to the cache may take.

    Raise InvalidMetricError, which says what is possible, and SyncError when a package is missing.
    """
    if cache is None:
        return _local(None, segment, timeout)
    if isinstance(cache, os.PathLike):
        return _local(os.fspath(cache), segment, timeout)
    if isinstance(cache, str):
        _check_text(cache)
        scheme, separator, _ = cache.partition("://")
        if not separator:
            return _local(cache, segment, timeout)
        return _by_url(cache, scheme.lower(), namespace, timeout)
    if known_capabilities(cache).get("distributed") is False:
        return _local(None, segment, timeout)
    store = _by_client(_unwrapped(behind_proxy(cache)), namespace, timeout)
    if store is None:
        raise _unusable(cache)
    return store


def _by_url(url: str, scheme: str, namespace: str, timeout: float) -> Store:
    normalized = scheme + url[len(scheme) :]
    if scheme in _REDIS_SCHEMES:
        from shm_metrics.cluster.stores import redis_client
        from shm_metrics.cluster.stores.redis_store import RedisStore

        return RedisStore(redis_client.from_url(normalized, timeout), namespace)
    from shm_metrics.cluster.stores.memcached_ring import Ring, Servers
    from shm_metrics.cluster.stores.memcached_store import MemcachedStore

    return MemcachedStore(Ring(Servers.from_url(normalized), timeout), namespace)


def _by_client(client: Any, namespace: str, timeout: float) -> Store | None:
    from shm_metrics.cluster.stores import memcached_ring, redis_client

    if redis_client.redis_library(client) is not None:
        from shm_metrics.cluster.stores.redis_store import RedisStore

        return RedisStore(redis_client.from_client(client, timeout), namespace)
    servers = client if isinstance(client, memcached_ring.Servers) else None
    if memcached_ring.is_pymemcache(client):
        servers = memcached_ring.Servers.from_client(client)
    if servers is None:
        return None
    from shm_metrics.cluster.stores.memcached_store import MemcachedStore

    return MemcachedStore(memcached_ring.Ring(servers, timeout), namespace)


def _unwrapped(cache: Any) -> Any:
    """Return the client that a cache of Django uses for writes, or its servers; anything else unchanged."""
    for cls in type(cache).__mro__:
        if cls.__module__ == "django.core.cache.backends.redis":
            return cache._cache.get_client(write=True)
        if cls.__module__ == "django_redis.cache":
            return cache.client.get_client(write=True)
        if cls.__module__ == "django.core.cache.backends.memcached":
            from shm_metrics.cluster.stores.memcached_ring import Servers, is_pymemcache

            inner = cache._cache
            return inner if is_pymemcache(inner) else Servers.from_url("memcached://" + ",".join(cache.client_servers))
    return cache


def _local(path: str | None, segment: Segment, timeout: float) -> Store:
    from shm_metrics.cluster.stores.local_store import LocalStore

    beside = segment.place.path
    if path is None and os.path.isabs(beside):  # a private segment has no location, nor do its totals
        path = beside + ".snapshot"
    return LocalStore(None if path is None else os.path.abspath(path), segment, timeout=timeout)
