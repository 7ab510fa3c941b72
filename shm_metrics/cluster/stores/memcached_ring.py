"""The Memcached servers of a cluster: which one has a key, and one connection to each.

A key stays with its server. pymemcache's HashClient removes a failing server from its ring and asks another one for its
keys. Hosts that see the failure at different moments would then keep the same lease on two servers. Here requests fail
until the server is back, empty like a flushed one.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from typing import Any, TypeVar
from urllib.parse import unquote

from shm_metrics.errors import InvalidMetricError, SyncError

__all__ = ["CHUNKS_AT_ONCE", "Ring", "Servers", "is_pymemcache"]

KEYS_AT_ONCE = 200  # of one request
CHUNKS_AT_ONCE = 50  # an answer of up to 50 MB
DEFAULT_PORT = 11211
LONGEST_PREFIX = 50  # ours are at most 191 bytes, Memcached takes 250

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Servers:
    """addresses: (host, port), or the path of a Unix socket; options: as pymemcache's Client takes them."""

    addresses: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def display_name(self) -> str:
        return f"memcached://{','.join(_name(address) for address in self.addresses)}"

    @classmethod
    def from_url(cls, url: str) -> Servers:
        """memcached://host[:port][,host[:port]...], or memcached:///path/of/socket."""
        rest = url.partition("://")[2]
        if rest.startswith("/"):
            return cls((unquote(rest),))
        addresses = []
        for each in rest.rstrip("/").split(","):
            host, separator, port = each.rpartition(":")
            if not separator or each.endswith("]"):
                host, port = each, str(DEFAULT_PORT)
            if not host or "@" in host or "/" in each or not (port.isdigit() and 0 < int(port) < 65536):
                shown = "..." if "@" in each else repr(each)
                raise InvalidMetricError(
                    f"cache URL of scheme memcached://: {shown} is not host[:port]; "
                    "write memcached://host[:port][,host[:port]], without user, password or path"
                )
            addresses.append((host.strip("[]"), int(port)))
        return cls(tuple(addresses))

    @classmethod
    def from_client(cls, client: Any) -> Servers:
        """A Client, PooledClient, HashClient or RetryingClient of pymemcache; it is read, never used."""
        client = getattr(client, "_client", client)
        ring = getattr(client, "clients", None)
        if ring is None:
            each = [client]
        else:
            each = list(ring.values())
            if not each:
                raise InvalidMetricError(f"cache {type(client).__qualname__}: it has no server")
        taken = ("no_delay", "socket_module", "socket_keepalive", "tls_context", "key_prefix")
        options = {name: getattr(each[0], name) for name in taken}
        if len(options["key_prefix"]) > LONGEST_PREFIX:
            raise InvalidMetricError(
                f"cache {type(client).__qualname__}: key_prefix of {len(options['key_prefix'])} bytes leaves no room "
                f"for keys; use one of at most {LONGEST_PREFIX}, or give the servers as a URL"
            )
        return cls(tuple(one.server for one in each), options)


def is_pymemcache(client: object) -> bool:
    return any(klass.__module__.partition(".")[0] == "pymemcache" for klass in type(client).__mro__)


def _name(address: Any) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)


class Ring:
    """The servers, and what can be asked of them. Raises SyncError."""

    def __init__(self, servers: Servers, timeout: float) -> None:
        try:
            base = importlib.import_module("pymemcache.client.base")
        except ModuleNotFoundError as error:
            if error.name != "pymemcache":
                raise
            raise SyncError(
                "cache memcached://: the package pymemcache is not installed; pip install 'shm_metrics[memcached]'"
            ) from None
        self.display_name = servers.display_name
        self.round_trips = 0
        self._servers = replace(servers, options={"no_delay": True, **servers.options})
        self._timeout = timeout
        self._client_class = base.Client
        root = importlib.import_module("pymemcache.exceptions")
        self._broken = (ConnectionError, root.MemcacheUnexpectedCloseError)
        self._errors = (OSError, root.MemcacheError)
        self._pid = -1
        self._closed = False
        self._connect()

    def _connect(self) -> None:
        """One client a server: a client is a connection, or will be one when it is used."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        options = {**self._servers.options, "timeout": self._timeout, "connect_timeout": self._timeout}
        self._clients = {
            _name(address): self._client_class(address, default_noreply=False, **options)
            for address in self._servers.addresses
        }

    def get(self, keys: Iterable[str], at_once: int = KEYS_AT_ONCE) -> dict[str, bytes]:
        return self._many(keys, lambda some, client: client.get_many(some), at_once)

    def gets(self, keys: Iterable[str]) -> dict[str, tuple[bytes, bytes]]:
        """key -> (value, what cas() wants to see again)"""
        return self._many(keys, lambda some, client: client.gets_many(some), KEYS_AT_ONCE)

    def set(self, values: Mapping[str, bytes], expire: int) -> None:
        for key, value in values.items():
            # One by one: a client that sends many before it reads any reply can deadlock with the server.
            if not self._ask(self._server_of(key), partial(_set, key, value, expire)):
                raise SyncError(f"{self.display_name}: {key} was not stored")

    def add(self, key: str, value: bytes, expire: int) -> bool:
        """False: it is there. After a broken connection also when it was this call that put it there."""
        return bool(self._ask(self._server_of(key), lambda client: client.add(key, value, expire=expire)))

    def cas(self, key: str, value: bytes, unique: bytes, expire: int) -> bool:
        """False: it changed or is gone. After a broken connection also when it was this call that changed it."""
        return bool(self._ask(self._server_of(key), lambda client: client.cas(key, value, unique, expire=expire)))

    def delete(self, keys: Iterable[str]) -> None:
        for server, some in self._by_server(keys).items():
            self._ask(server, partial(_delete, some))

    def touch(self, keys: Iterable[str], expire: int) -> bool:
        """Whether all of them are there; nothing of them is sent. They count as used, and expire so late."""
        return all(self._ask(self._server_of(key), partial(_touch, key, expire)) for key in keys)

    def close(self) -> None:
        """Close the connections for good. A request under way still gets its reply, or an error."""
        self._closed = True
        self._disconnect()

    def _disconnect(self) -> None:
        for client in self._clients.values():
            client.close()

    def __del__(self) -> None:
        # A child of fork forgets the store of its parent without closing it. Takes no lock: this may run at any moment.
        if hasattr(self, "_clients"):
            self._disconnect()

    def _many(
        self, keys: Iterable[str], ask: Callable[[list[str], Any], dict[str, Answer]], at_once: int
    ) -> dict[str, Answer]:
        found: dict[str, Answer] = {}
        for server, all_ in self._by_server(keys).items():
            for first in range(0, len(all_), at_once):
                some = all_[first : first + at_once]
                found.update(self._ask(server, partial(ask, some)))
        return found

    def _by_server(self, keys: Iterable[str]) -> dict[str, list[str]]:
        lists: dict[str, list[str]] = {}
        for key in keys:
            lists.setdefault(self._server_of(key), []).append(key)
        return lists

    def _server_of(self, key: str) -> str:
        """Return the server with the greatest hash: the same on every host, whatever the order of the servers."""
        return max(self._clients, key=lambda name: blake2b(f"{name} {key}".encode(), digest_size=8).digest())

    def _ask(self, server: str, call: Callable[[Any], Answer]) -> Answer:
        if self._pid != os.getpid():  # forked: connections stay with the parent, and a thread of it may hold the lock
            self._disconnect()
            self._connect()
        if not self._lock.acquire(timeout=2 * self._timeout):  # a signal handler may run on top of the holder
            raise SyncError(f"memcached://{server}: another call waits for an answer")
        try:
            client = self._clients[server]
            try:
                try:
                    return self._ask_once(client, call)
                except self._broken:
                    # Once more: the server may have been restarted since, and every request is idempotent. A time-out
                    # is not retried: the caller has waited long enough.
                    return self._ask_once(client, call)
            except BaseException:
                client.close()  # what is still under way must not answer the next call
                raise
        except self._errors as error:
            raise SyncError(f"memcached://{server}: {type(error).__name__}: {error}") from error
        finally:
            if self._closed:
                self._disconnect()
            self._lock.release()

    def _ask_once(self, client: Any, call: Callable[[Any], Answer]) -> Answer:
        if self._closed:  # a scrape that waited during close() must not open a connection that is never closed
            raise SyncError(f"{self.display_name}: closed")
        self.round_trips += 1
        try:
            return call(client)
        except self._broken:
            client.close()
            raise


def _set(key: str, value: bytes, expire: int, client: Any) -> bool:
    return bool(client.set(key, value, expire=expire))


def _touch(key: str, expire: int, client: Any) -> bool:
    return bool(client.touch(key, expire, noreply=False))


def _delete(keys: list[str], client: Any) -> bool:
    return bool(client.delete_many(keys))
