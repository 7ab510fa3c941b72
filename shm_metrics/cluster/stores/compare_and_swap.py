"""The compare-and-swap loop of the Memcached store: read, decide, write unless the key has changed in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from shm_metrics.cluster.stores.memcached_ring import Ring

__all__ = ["TRIES", "Keep", "Write", "compare_and_swap"]

TRIES = 20
"""Attempts of one compare-and-swap; each is lost to another client that has changed the key."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Write(Generic[Answer]):
    """Replace the value that was read; `answer` is the result if that succeeds. expire: as Memcached takes it."""

    value: bytes
    expire: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Keep(Generic[Answer]):
    """Leave the key as it is; `answer` is the result."""

    answer: Answer


Decide: TypeAlias = "Callable[[Mapping[str, bytes]], Write[Answer] | Keep[Answer] | None]"


def compare_and_swap(ring: Ring, key: str, decide: Decide[Answer], reads: Sequence[str] = ()) -> Answer | None:
    """Return the answer of the first decision that takes effect; None after TRIES attempts that did not.

    decide: takes the values that were read, missing keys left out. It returns a Write, a Keep, or None to read again.
    reads: the keys to read, in this order; only `key` if left out.

    Raises SyncError, and whatever `decide` raises.
    """
    for _ in range(TRIES):
        found = ring.gets(reads or (key,))
        decision = decide({name: value for name, (value, _) in found.items()})
        if isinstance(decision, Keep):
            return decision.answer
        if decision is None:
            continue
        if key in found:
            written = ring.cas(key, decision.value, found[key][1], decision.expire)
        else:
            written = ring.add(key, decision.value, decision.expire)
        if written:
            return decision.answer
    return None
