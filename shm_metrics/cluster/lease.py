"""A lease as its contender sees it: when to ask, when to renew, and when it has expired.

The time to live counts from the moment *before* the granting request was sent. So the lease never lasts longer here
than in the cache, whatever the network does, and it expires without any reply.

    state      event      next       the event
    FREE       ASK        ASKING     a request for it is sent
    ASKING     GRANTED    HELD       this process holds it
    ASKING     REFUSED    FREE       another process holds it
    ASKING     FAILED     FREE       no reply: if it was granted, it expires by itself
    HELD       RENEW      RENEWING   a third of the time to live has passed
    HELD       RENEWED    HELD       a publish has renewed it
    HELD       DENIED     FREE       a publish was refused: this process no longer holds it
    HELD       EXPIRED    FREE       its time to live has passed
    HELD       RELEASE    FREE       this process releases it
    RENEWING   RENEWED    HELD
    RENEWING   DENIED     FREE
    RENEWING   FAILED     HELD       no reply: it is held until its time to live has passed
    any        CLOSE      CLOSED     for good
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Protocol

from shm_metrics.cluster.stores.protocol import Grant, LeaseRefused
from shm_metrics.errors import LockLostError

__all__ = ["ASKING", "CLOSED", "FREE", "HELD", "RENEWING", "TRANSITIONS", "Lease", "LeaseStore"]

FREE, ASKING, HELD, RENEWING, CLOSED = "FREE", "ASKING", "HELD", "RENEWING", "CLOSED"

TRANSITIONS: dict[str, dict[str, str]] = {
    FREE: {"ASK": ASKING, "CLOSE": CLOSED},
    ASKING: {"GRANTED": HELD, "REFUSED": FREE, "FAILED": FREE, "CLOSE": CLOSED},
    HELD: {
        "RENEW": RENEWING,
        "RENEWED": HELD,
        "DENIED": FREE,
        "EXPIRED": FREE,
        "RELEASE": FREE,
        "CLOSE": CLOSED,
    },
    RENEWING: {"RENEWED": HELD, "DENIED": FREE, "FAILED": HELD, "CLOSE": CLOSED},
    CLOSED: {},
}

RENEWALS_IN_A_LIFE = 3

# How long a contender waits when the store cannot say when the lease expires, and how much contenders are spread.
_LOOK_SECONDS = 0.5
_SPREAD = 0.25


class LeaseStore(Protocol):
    """What a lease needs of a store."""

    def acquire(self, scope: str, owner: str, ttl: float) -> Grant | LeaseRefused: ...
    def renew(self, grant: Grant, ttl: float) -> bool: ...
    def release(self, grant: Grant) -> bool: ...


class Lease:
    """One contender for one scope. ttl: seconds. now: a monotonic clock. Not thread-safe: use it from one thread."""

    def __init__(
        self,
        store: LeaseStore,
        scope: str,
        owner: str,
        ttl: float,
        *,
        now: Callable[[], float] = time.monotonic,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self.scope = scope
        self.owner = owner
        self.ttl = ttl
        self.state = FREE
        self._store = store
        self._now = now
        self._spread = spread
        self._grant: Grant | None = None
        self._deadline = 0.0
        self._due = now()
        """When to ask or to renew next."""

    # -- what it is -----------------------------------------------------------------------------------------------

    @property
    def held(self) -> bool:
        """Whether this process holds the lease now."""
        if self.state == HELD and self._now() >= self._deadline:
            self._to("EXPIRED")
        return self.state == HELD

    @property
    def grant(self) -> Grant:
        """The grant to pass with each write. Raise LockLostError when the lease is not held."""
        if not self.held or self._grant is None:
            raise LockLostError(f"lease {self.scope}: not held by {self.owner}")
        return self._grant

    @property
    def seconds_to_wait(self) -> float:
        """Seconds until the next tick() has something to do."""
        end = min(self._due, self._deadline) if self.state == HELD else self._due
        return max(0.0, end - self._now())

    # -- what becomes of it ---------------------------------------------------------------------------------------

    def tick(self) -> bool:
        """Ask or renew if it is due; return whether the lease is held. Raise SyncError."""
        if self.state != CLOSED and (self.held or self.state == FREE) and self._now() >= self._due:
            if self.state == HELD:
                self._renew()
            else:
                self._ask()
        return self.held

    def ask_now(self) -> None:
        """Make the next tick() ask without waiting."""
        if self.state == FREE:
            self._due = self._now()

    def _ask(self) -> None:
        sent = self._now()
        self._to("ASK")
        try:
            answer = self._store.acquire(self.scope, self.owner, self.ttl)
        except BaseException:  # a lease left in state ASKING would never ask again
            self._to("FAILED")
            self._due = self._now() + self._pause(self.ttl / RENEWALS_IN_A_LIFE)
            raise
        if isinstance(answer, Grant):
            self._grant = answer
            self._to("GRANTED")
            self._held_since(sent)
            return
        self._to("REFUSED")
        longest = self.ttl / RENEWALS_IN_A_LIFE
        remaining = _LOOK_SECONDS if answer.remaining is None else answer.remaining
        if answer.watched:
            # Early and not late: what a look misses of the holder's last renewal is added to the time to live.
            wait = min(remaining, longest, _LOOK_SECONDS) * (1 - _SPREAD * self._spread())
        else:
            wait = self._pause(min(remaining, longest))
        self._due = self._now() + wait

    def _pause(self, seconds: float) -> float:
        """Return `seconds` plus a random amount, so that contenders do not all ask at the same moment."""
        return seconds + _SPREAD * self._spread()

    def _renew(self) -> None:
        assert self._grant is not None
        sent = self._now()
        self._to("RENEW")
        try:
            ours = self._store.renew(self._grant, self.ttl)
        except BaseException:
            self._to("FAILED")
            self._due = self._now() + self.ttl / RENEWALS_IN_A_LIFE / RENEWALS_IN_A_LIFE
            raise
        if ours:
            self._to("RENEWED")
            self._held_since(sent)
        else:
            self._to("DENIED")

    def renewed(self, sent: float) -> None:
        """Note that a write sent at `sent` has renewed the lease."""
        if self.held:
            self._to("RENEWED")
            self._held_since(sent)

    def denied(self) -> None:
        """Note that a write was refused: the lease is lost."""
        if self.state == HELD:
            self._to("DENIED")

    def release(self) -> None:
        """Release the lease, so that the next holder need not wait for it to expire. Raise SyncError."""
        if self.held:
            assert self._grant is not None
            grant = self._grant
            self._to("RELEASE")
            self._store.release(grant)

    def close(self) -> None:
        """Close the lease for good, without a request to the cache."""
        if self.state != CLOSED:
            self._to("CLOSE")

    def _held_since(self, sent: float) -> None:
        self._deadline = sent + self.ttl
        self._due = sent + self.ttl / RENEWALS_IN_A_LIFE

    def _to(self, event: str) -> None:
        following = TRANSITIONS[self.state].get(event)
        if following is None:
            raise AssertionError(f"lease {self.scope}: {event} in state {self.state}")
        self.state = following
        if following in (FREE, CLOSED):
            self._grant = None
            self._due = self._now()
