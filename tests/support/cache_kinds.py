"""The stores under test, each as several contenders of one cluster have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shm_metrics.cluster.store_factory import open_store
from shm_metrics.cluster.stores.protocol import CLUSTER, Grant, segment_scope
from tests.support.waiting import until

KINDS = ("valkey", "redis", "memcached", "local")
INSTANCE = "0" * 31 + "1"
OTHER = "0" * 31 + "2"
SCOPE = segment_scope(INSTANCE)
TTL = 30.0


class Clock:
    """Durations as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Cluster:
    """open() is one more contender's store; forget() is a flush of the cache."""

    def __init__(self, kind: str, open_: Callable[[], Any], forget: Callable[[], None], clock: Clock) -> None:
        self.kind = kind
        self._open = open_
        self.forget = forget
        self._clock = clock
        self.opened: list[Any] = []

    def open(self) -> Any:
        store = self._open()
        if hasattr(store, "_clock"):
            store._clock = self._clock
        self.opened.append(store)
        return store

    def pass_term(self, asker: Any, scope: str, ttl: float) -> None:
        """Wait until a lease that nobody renews has run out, as whoever asks for it sees it."""
        asker.acquire(scope, "watcher", ttl)
        if self.kind == "memcached":
            self._clock.now += ttl + 0.001
        else:
            until(lambda: asker._client.exists(asker.key("lease", scope)) == 0, seconds=ttl + 5)

    def close(self) -> None:
        for store in self.opened:
            store.close()


def opened(url: str, namespace: str, timeout: float = 2.0) -> Any:
    """A store in a cache; the segment is asked for by the local one only."""
    return open_store(url, namespace=namespace, segment=None, timeout=timeout)  # type: ignore[arg-type]


def exercise(store: Any) -> None:
    """Something of everything; whatever can be wrong with a client shows here."""
    grant = store.acquire(SCOPE, "one", TTL)
    assert isinstance(grant, Grant)
    assert store.renew(grant, TTL)
    store.publish(grant, INSTANCE, b"\xff\0blob", 1, TTL)
    assert store.instances() == {INSTANCE: 1}
    assert store.fetch([INSTANCE, OTHER]) == {INSTANCE: b"\xff\0blob"}
    fold = store.acquire(CLUSTER, "one", TTL)
    assert store.commit_fold(fold, 0, b"\xfe\0record", 1, {INSTANCE: b"\xff\0blob"}, {INSTANCE: 1})
    assert store.retired() == b"\xfe\0record"
    assert store.tombstones({INSTANCE: 1}) == {INSTANCE: b"\xff\0blob"}
    assert store.instances() == {}
    assert store.release(fold)
    assert store.release(grant)
