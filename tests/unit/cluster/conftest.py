"""The caches of the cluster's system tests, for the few units that need a real one."""

from __future__ import annotations

from tests.system.cluster.conftest import memcached, redis

__all__ = ["memcached", "redis"]
