"""What a store says when it refuses a write: the same words, whichever store it is."""

from __future__ import annotations

from shm_metrics.cluster.stores.protocol import Grant, OldSequenceError
from shm_metrics.errors import LockLostError

__all__ = ["fenced", "lease_lost", "newer_is_there"]


def lease_lost(told: str, grant: Grant) -> LockLostError:
    """told: which store, for people."""
    return LockLostError(f"{told}: the lease of {grant.scope} is no longer {grant.owner}'s")


def fenced(told: str, grant: Grant) -> LockLostError:
    return LockLostError(f"{told}: {grant.scope} was written under a later grant than {grant.token}")


def newer_is_there(told: str, instance: str, there: int, sequence: int) -> OldSequenceError:
    return OldSequenceError(f"{told}: instance {instance} has sequence {there} already, {sequence} is older", there)
