"""CacheStrategy: what a cache can do, and how hosts coordinate by it."""

from __future__ import annotations

import secrets
from typing import Any

from shm_metrics.cluster.capabilities import (
    CAPABILITIES,
    STORE_CLASS,
    clear_detectors,
    declare_cache_capabilities,
    find_capabilities,
    register_detector,
)
from shm_metrics.cluster.stores.protocol import DISTRIBUTED_ATOMIC, DISTRIBUTED_BASIC, LOCAL_ONLY
from shm_metrics.errors import InvalidMetricError

__all__ = ["CacheStrategy", "clear_detectors", "declare_cache_capabilities", "register_detector"]


class CacheStrategy:
    """What a cache can do. Made by CacheStrategy.detect(); it does not change.

    distributed: other hosts see what is written.
    atomic_increment: numbers are added to on the server.
    locking: a lock whose owner the server checks in the same step as the write that it guards.
    ttl_inspection: the server tells when a key expires.
    namespace_support, compression_support, key_transformation: what the client does to keys and values.
    store_class: the name of the client's class; the scheme of a URL; "file"; "" for no cache.
    instance_id: 32 hex digits, the id of the one who coordinates by it.
    """

    __slots__ = ("_said", "instance_id")

    def __init__(self, capabilities: dict[str, Any], instance_id: str = "") -> None:
        self._said = capabilities
        self.instance_id = instance_id or secrets.token_hex(16)

    @classmethod
    def detect(cls, client: Any, *, instance_id: str = "") -> CacheStrategy:
        """Of a client, a URL, a file path, or None for no cache; nothing is sent to the cache.

        instance_id: a random one if left out.

        Asked are, in this order: what the client's class declares (declare_cache_capabilities), the registered
        detectors, what we know of redis-py, valkey-py, pymemcache and Django's caches, and the methods of the class,
        which never show that it is distributed. The first that says something is believed. If a detector fails, the
        cache counts as local_only, with one warning in the log.
        """
        return cls(find_capabilities(client), instance_id)

    # Also reached from here, so that one import is enough.
    declare_cache_capabilities = staticmethod(declare_cache_capabilities)
    register_detector = staticmethod(register_detector)
    clear_detectors = staticmethod(clear_detectors)

    @property
    def distributed(self) -> bool:
        return self.supports("distributed")

    @property
    def atomic_increment(self) -> bool:
        return self.supports("atomic_increment")

    @property
    def locking(self) -> bool:
        return self.supports("locking")

    @property
    def ttl_inspection(self) -> bool:
        return self.supports("ttl_inspection")

    @property
    def namespace_support(self) -> bool:
        return self.supports("namespace_support")

    @property
    def compression_support(self) -> bool:
        return self.supports("compression_support")

    @property
    def key_transformation(self) -> bool:
        return self.supports("key_transformation")

    @property
    def store_class(self) -> str:
        return str(self._said[STORE_CLASS])

    @property
    def coordination_mode(self) -> str:
        """distributed_atomic: a write is one step with the check of the lease that allows it; distributed_basic:
        compare-and-set loops; local_only: one host."""
        if not self.distributed:
            return LOCAL_ONLY
        return DISTRIBUTED_ATOMIC if self.locking and self.atomic_increment else DISTRIBUTED_BASIC

    def supports(self, name: str) -> bool:
        """Whether it has the capability. Raises InvalidMetricError for a name that is none."""
        if name not in CAPABILITIES:
            raise InvalidMetricError(f"no capability {name!r}; there are {', '.join(CAPABILITIES)}")
        return bool(self._said[name])

    def export_capabilities(self) -> dict[str, Any]:
        """All of it, for a JSON document."""
        return {
            **{name: self.supports(name) for name in CAPABILITIES},
            STORE_CLASS: self.store_class,
            "coordination_mode": self.coordination_mode,
            "instance_id": self.instance_id,
        }

    def __repr__(self) -> str:
        having = ", ".join(name for name in CAPABILITIES if self.supports(name))
        return f"<CacheStrategy {self.coordination_mode} of {self.store_class or 'no cache'}: {having or 'nothing'}>"
