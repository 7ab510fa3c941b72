"""What a store answers to whoever asks for a lease.

Lives here: two values. May not: decide anything.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Grant", "Refused"]


@dataclass(frozen=True, slots=True)
class Grant:
    """`scope` is the owner's. token: greater than that of any grant of this scope before."""

    scope: str
    owner: str
    token: int


@dataclass(frozen=True, slots=True)
class Refused:
    """It is somebody else's. remaining: seconds until it runs out, where the store can tell."""

    remaining: float | None = None
