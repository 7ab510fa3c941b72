"""A client of our own, of redis-py or valkey-py, made from a URL or from the one that an application uses.

An application's client is read, never used: ours answers in bytes, waits no longer than the time-out, repeats nothing
by itself (its library may retry for half a minute), and keeps its connections to itself.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from shm_metrics.errors import InvalidMetricError, SyncError

__all__ = ["LIBRARIES", "Connector", "check_client", "check_url", "from_client", "from_url", "let_go", "redis_library"]

LIBRARIES = ("redis", "valkey")

# What belongs to the client that it was read from, or is set by us.
_NOT_OURS = frozenset(
    (
        "cache",
        "cache_config",
        "connection_pool",
        "decode_responses",
        "event_dispatcher",
        "health_check_interval",
        "himport_registry",
        "protocol",
        "redis_connect_func",
        "retry",
        "retry_on_error",
        "retry_on_timeout",
        "socket_connect_timeout",
        "socket_timeout",
        "valkey_connect_func",
    )
)
_NOT_OURS_EITHER = ("maint_notifications", "orig_", "oss_cluster")


@dataclass(frozen=True)
class Connector:
    """connect() makes a client, without asking the server anything unless it is a cluster; library: whose it is."""

    library: ModuleType
    connect: Callable[[], Any]
    display_name: str  # for messages; without a password


def redis_library(client: object) -> str | None:
    """'redis' or 'valkey' if the client is one of these libraries', by any of its classes."""
    for klass in type(client).__mro__:
        name = klass.__module__.partition(".")[0]
        if name in LIBRARIES:
            return name
    return None


def check_url(url: str) -> str:
    """The host and port in it, or the path of its socket. Needs no library. Raises InvalidMetricError."""
    scheme = url.partition("://")[0]
    try:
        parts = urlsplit(url)
        port = parts.port  # raises when it is no number
        if scheme == "unix":
            return parts.path
        database = parts.path.strip("/")
        if database and not database.isdigit():
            raise ValueError(f"database {database!r} is not a number")
    except ValueError as error:
        raise _wrong(scheme, error) from None
    return f"{parts.hostname or 'localhost'}:{port or 6379}"


def _wrong(scheme: str, error: ValueError) -> InvalidMetricError:
    return InvalidMetricError(
        f"cache URL of scheme {scheme}://: {error}; write {scheme}://[user:password@]host[:port][/database]"
    )


def from_url(url: str, timeout: float) -> Connector:
    """redis://, rediss://, valkey://, valkeys:// or unix://, as redis-py reads them, its options included.

    Raises InvalidMetricError; SyncError when neither redis-py nor valkey-py is installed.
    """
    scheme, _, rest = url.partition("://")
    host = check_url(url)
    library = _library_for(scheme)
    try:
        ours = {"valkey": "redis", "valkeys": "rediss"}.get(scheme, scheme)
        theirs = ours if library.__name__ == "redis" else {"redis": "valkey", "rediss": "valkeys"}.get(ours, ours)
        options = importlib.import_module(f"{library.__name__}.connection").parse_url(f"{theirs}://{rest}")
    except ValueError as error:
        raise _wrong(scheme, error) from None
    limit = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout") if name in options}
    for name in [name for name in options if _left_out(name)]:
        del options[name]
    connection_class = options.pop("connection_class", None)
    settings = {**options, **_settings(library, timeout), **limit}

    def connect() -> Any:
        kwargs = {} if connection_class is None else {"connection_class": connection_class}
        return _standalone(library)(connection_pool=library.ConnectionPool(**kwargs, **settings))

    return Connector(library, connect, f"{scheme}://{host}")


def check_client(client: Any) -> None:
    """Raises InvalidMetricError for one of these libraries' objects that from_client() cannot take."""
    kind = _kind(client)
    if any(".asyncio" in klass.__module__ for klass in type(client).__mro__):
        raise InvalidMetricError(f"cache {kind}: it is asynchronous; give the synchronous client, or its URL")
    if not hasattr(client, "nodes_manager") and getattr(client, "connection_pool", None) is None:
        raise InvalidMetricError(f"cache {kind}: it has no connection pool; give the client itself, or its URL")


def _kind(client: object) -> str:
    return f"{type(client).__module__}.{type(client).__qualname__}"


def from_client(client: Any, timeout: float) -> Connector:
    """A client of redis-py or valkey-py: standalone, of a sentinel's master, or of a cluster."""
    check_client(client)
    name, kind = redis_library(client), _kind(client)
    assert name is not None
    library = sys.modules[name]
    if hasattr(client, "nodes_manager"):
        return Connector(library, lambda: _cluster(library, client, timeout), kind)
    pool = client.connection_pool
    settings = _taken(pool.connection_kwargs) | _settings(library, timeout)

    def connect() -> Any:
        if hasattr(pool, "sentinel_manager"):
            made = type(pool)(
                pool.service_name,
                _sentinels(library, pool.sentinel_manager, timeout),
                connection_class=pool.connection_class,
                is_master=True,
                check_connection=pool.check_connection,
                **settings,
            )
        else:
            made = library.ConnectionPool(connection_class=pool.connection_class, **settings)
        return _standalone(library)(connection_pool=made)

    return Connector(library, connect, kind)


def _sentinels(library: ModuleType, manager: Any, timeout: float) -> Any:
    addresses = [sentinel.connection_pool.connection_kwargs for sentinel in manager.sentinels]
    return importlib.import_module(f"{library.__name__}.sentinel").Sentinel(
        [(each["host"], each["port"]) for each in addresses],
        min_other_sentinels=manager.min_other_sentinels,
        sentinel_kwargs=_taken(manager.sentinel_kwargs) | _settings(library, timeout),
    )


def _cluster(library: ModuleType, client: Any, timeout: float) -> Any:
    manager = client.nodes_manager
    module = importlib.import_module(f"{library.__name__}.cluster")
    nodes = [module.ClusterNode(node.host, node.port) for node in list(manager.startup_nodes.values())]
    settings = _taken(manager.connection_kwargs) | _settings(library, timeout)
    del settings["retry"]
    # Once more, after the library has asked who has the slot now: that is how it follows a failover.
    if library.__name__ == "redis" and _major(library) >= 6:
        settings["retry"] = _retries(library, 1)
    else:
        settings["cluster_error_retry_attempts"] = 1
    cluster = library.RedisCluster if library.__name__ == "redis" else library.ValkeyCluster
    return cluster(
        startup_nodes=nodes,
        require_full_coverage=False,
        address_remap=getattr(manager, "address_remap", None),
        **{name: value for name, value in settings.items() if name not in ("host", "port", "db")},
    )


def let_go(client: Any) -> None:
    """In a child of fork, close the parent's sockets without sending anything.

    The libraries only forget such connections, which leaves open those that are still referenced.
    """
    manager = getattr(client, "nodes_manager", None)
    nodes = [] if manager is None else list(manager.nodes_cache.values())
    clients = [getattr(node, f"{redis_library(client)}_connection", None) for node in nodes] if nodes else [client]
    for each in clients:
        pool = getattr(each, "connection_pool", None)
        free, used = getattr(pool, "_available_connections", ()), getattr(pool, "_in_use_connections", ())
        for connection in (*free, *used):
            connection.disconnect()  # which shuts down only what this process has opened


def _taken(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if not _left_out(name)}


def _left_out(name: str) -> bool:
    return name in _NOT_OURS or name.startswith(_NOT_OURS_EITHER)


def _settings(library: ModuleType, timeout: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "health_check_interval": 0,
        "decode_responses": False,
        "protocol": 2,  # nothing of the newer one is used, and it costs a greeting
        "retry": _retries(library, 0),
    }


def _retries(library: ModuleType, times: int) -> Any:
    backoff = importlib.import_module(f"{library.__name__}.backoff")
    return importlib.import_module(f"{library.__name__}.retry").Retry(backoff.NoBackoff(), times)


def _standalone(library: ModuleType) -> Any:
    return library.Redis if library.__name__ == "redis" else library.Valkey


def _major(library: ModuleType) -> int:
    return int(str(library.__version__).partition(".")[0])


def _library_for(scheme: str) -> ModuleType:
    """redis-py, which speaks to Valkey as well; valkey-py where only that is installed."""
    for name in LIBRARIES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
    raise SyncError(
        f"cache URL of scheme {scheme}://: the package redis is not installed; pip install 'shm_metrics[redis]'"
    )
