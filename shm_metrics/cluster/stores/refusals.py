"""The errors of refused writes, the same for every store."""

from __future__ import annotations

from shm_metrics.cluster.stores.protocol import Grant, OldSequenceError
from shm_metrics.errors import LockLostError

__all__ = ["fenced", "lease_lost", "newer_is_there"]


def lease_lost(store: str, grant: Grant) -> LockLostError:
    """Return the error for a lease that is no longer the grant's. store: its name in messages."""
    return LockLostError(f"{store}: the lease of {grant.scope} is no longer {grant.owner}'s")


def fenced(store: str, grant: Grant) -> LockLostError:
    return LockLostError(f"{store}: {grant.scope} was written under a later grant than {grant.token}")


def newer_is_there(store: str, instance: str, there: int, sequence: int) -> OldSequenceError:
    return OldSequenceError(f"{store}: instance {instance} has sequence {there} already, {sequence} is older", there)
