"""Blobs, leases and the retired record in Redis or Valkey: each write is one script, one step, one round trip.

All keys of a namespace share a hash tag: a Redis Cluster keeps them in one slot, and a script may touch several.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from shm_metrics.cluster.stores import redis_client, redis_scripts
from shm_metrics.cluster.stores.protocol import (
    BLOB_SECONDS,
    DISTRIBUTED_ATOMIC,
    NO_FOLD,
    NO_TOMBSTONES,
    Grant,
    LeaseRefused,
    guarded_instance,
)
from shm_metrics.cluster.stores.redis_client import Connector
from shm_metrics.cluster.stores.refusals import fenced, lease_lost, newer_is_there
from shm_metrics.errors import InvalidMetricError, SyncError

__all__ = ["RedisStore"]

FETCHED_AT_ONCE = 100  # keys of one MGET: bounds what the server puts together for one reply


class RedisStore:
    """namespace: any text; blob_ttl: seconds that a blob outlives its last publish."""

    strategy = DISTRIBUTED_ATOMIC

    def __init__(self, connector: Connector, namespace: str, *, blob_ttl: float = BLOB_SECONDS) -> None:
        if not namespace:
            raise InvalidMetricError("cache namespace '': give a name, the same on every host of the cluster")
        self.round_trips = 0
        self._connector = connector
        self._client: Any = None
        self._closed = False
        self._pid = os.getpid()
        self._blob_ms = _ms(blob_ttl)
        # A brace in the name would end the tag early, or make it empty: then the keys would lie in many slots.
        plain = namespace.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
        self._prefix = b"{%s}:" % plain.encode()

    def key(self, kind: str, name: str = "") -> bytes:
        """The key under which something is kept."""
        return self._prefix + (f"{kind}:{name}" if name else kind).encode()

    # -- the lease ------------------------------------------------------------------------------------------------

    def acquire(self, scope: str, owner: str, ttl: float) -> Grant | LeaseRefused:
        instance = guarded_instance(scope)
        guarded = self.key("retired") if instance is None else self.key("blob", instance)
        granted, answer = self._run(
            redis_scripts.ACQUIRE,
            [self._lease(scope), self.key("fence", scope), guarded],
            [owner, _ms(ttl), self._blob_ms],
        )
        if granted:
            return Grant(scope, owner, int(answer))
        return LeaseRefused(max(int(answer), 0) / 1000)

    def renew(self, grant: Grant, ttl: float) -> bool:
        return bool(self._run(redis_scripts.RENEW, [self._lease(grant.scope)], [_holder(grant), _ms(ttl)]))

    def release(self, grant: Grant) -> bool:
        return bool(self._run(redis_scripts.RELEASE, [self._lease(grant.scope)], [_holder(grant)]))

    def _lease(self, scope: str) -> bytes:
        return self.key("lease", scope)

    # -- blobs ----------------------------------------------------------------------------------------------------

    def publish(self, grant: Grant, instance: str, blob: bytes, sequence: int, ttl: float) -> None:
        keys = [self._lease(grant.scope), self.key("blob", instance), self.key("instances")]
        arguments = [
            _holder(grant),
            _ms(ttl),
            instance,
            redis_scripts.digits(sequence),
            redis_scripts.digits(grant.token),
            blob,
            self._blob_ms,
        ]
        answer = bytes(self._run(redis_scripts.PUBLISH, keys, arguments))
        if answer.isdigit():
            raise newer_is_there(self._connector.display_name, instance, int(answer), sequence)
        self._check_fence(answer, grant)

    def instances(self) -> dict[str, int]:
        found = self._call("HGETALL", self.key("instances"))
        return {name.decode(): int(sequence) for name, sequence in found.items()}

    def fetch(self, instances: Iterable[str]) -> dict[str, bytes]:
        found = self._many((instance, self.key("blob", instance)) for instance in instances)
        return {instance: value[redis_scripts.HEAD :] for instance, value in found.items()}

    # -- what is left of instances that are gone ------------------------------------------------------------------

    def retired(self) -> bytes | None:
        value = self._call("GET", self.key("retired"))
        return None if value is None else bytes(value[redis_scripts.HEAD :])

    def retired_mark(self) -> str | None:
        head = self._call("GETRANGE", self.key("retired"), 0, redis_scripts.HEAD - 1)
        return bytes(head).decode("ascii", "replace") if head else None

    def tombstones(self, folded: Mapping[str, int]) -> dict[str, bytes]:
        return self._many((instance, self._tombstone(instance, sequence)) for instance, sequence in folded.items())

    def commit_fold(
        self,
        grant: Grant,
        expected_version: int,
        record: bytes,
        version: int,
        tombstones: Mapping[str, bytes],
        gone: Mapping[str, int],
        forget: Mapping[str, int] = NO_FOLD,
    ) -> bool:
        keys = [self._lease(grant.scope), self.key("retired"), self.key("instances")]
        keys += [self._tombstone(instance, gone[instance]) for instance in tombstones]
        keys += [self._tombstone(instance, sequence) for instance, sequence in forget.items()]
        keys += [self.key("blob", instance) for instance in gone]
        arguments: list[Any] = [
            _holder(grant),
            redis_scripts.digits(expected_version),
            redis_scripts.digits(version),
            redis_scripts.digits(grant.token),
            record,
        ]
        arguments += [len(tombstones), len(forget), *tombstones.values()]
        for instance, sequence in gone.items():
            arguments += [instance, redis_scripts.digits(sequence)]
        answer = bytes(self._run(redis_scripts.COMMIT_FOLD, keys, arguments))
        if answer == b"other":
            return False
        self._check_fence(answer, grant)
        return True

    def restore_retired(
        self, record: bytes, version: int, tombstones: Mapping[tuple[str, int], bytes] = NO_TOMBSTONES
    ) -> None:
        keys = [self.key("retired"), *(self._tombstone(instance, sequence) for instance, sequence in tombstones)]
        self._run(redis_scripts.RESTORE, keys, [redis_scripts.digits(version), record, *tombstones.values()])

    def _tombstone(self, instance: str, sequence: int) -> bytes:
        return self.key("tomb", f"{instance}:{sequence}")

    # -- asking ---------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            redis_client.let_go(client)

    def close(self) -> None:
        self._closed = True
        client, self._client = self._client, None
        if client is not None and self._pid == os.getpid():
            client.close()
            pool = getattr(client, "connection_pool", None)
            if pool is not None:
                pool.disconnect()  # close() leaves one that was given to the client as it is

    def _check_fence(self, answer: bytes, grant: Grant) -> None:
        if answer == b"lost":
            raise lease_lost(self._connector.display_name, grant)
        if answer == b"fenced":
            raise fenced(self._connector.display_name, grant)

    def _many(self, named: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        asked = list(named)
        for first in range(0, len(asked), FETCHED_AT_ONCE):
            some = asked[first : first + FETCHED_AT_ONCE]
            values = self._call("MGET", *(key for _, key in some))
            found.update((name, value) for (name, _), value in zip(some, values, strict=True) if value is not None)
        return found

    def _run(self, script: redis_scripts.Script, keys: list[bytes], arguments: list[Any]) -> Any:
        no_script = self._connector.library.exceptions.NoScriptError
        try:
            return self._ask("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except no_script:
            return self._call("EVAL", script.text, len(keys), *keys, *arguments)
        except self._errors() as error:
            raise self._sync_error(error) from error

    def _call(self, *command: Any) -> Any:
        try:
            return self._ask(*command)
        except self._errors() as error:
            raise self._sync_error(error) from error

    def _ask(self, *command: Any) -> Any:
        """Send a command; retry once after a broken connection, for every command is idempotent.

        A time-out is not retried: the caller has waited long enough.
        """
        broken = self._connector.library.exceptions.ConnectionError
        try:
            return self._ask_once(*command)
        except broken:
            return self._ask_once(*command)

    def _ask_once(self, *command: Any) -> Any:
        if self._closed:  # a scrape that waited during close() must not open a connection that is never closed
            raise SyncError(f"{self._connector.display_name}: closed")
        if self._pid != os.getpid():  # forked: the parent's connections are the parent's
            self._client, self._pid = None, os.getpid()
        if self._client is None:
            self._client = self._connector.connect()
        self.round_trips += 1
        return self._client.execute_command(*command)

    def _errors(self) -> tuple[type[Exception], ...]:
        exceptions = self._connector.library.exceptions
        if self._connector.library.__name__ == "redis":
            return (exceptions.RedisError, exceptions.RedisClusterException, OSError)
        return (exceptions.ValkeyError, exceptions.ValkeyClusterException, OSError)

    def _sync_error(self, error: Exception) -> SyncError:
        return SyncError(f"{self._connector.display_name}: {type(error).__name__}: {error}")


def _holder(grant: Grant) -> bytes:
    return b"%s %s" % (redis_scripts.digits(grant.token), grant.owner.encode())


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))
