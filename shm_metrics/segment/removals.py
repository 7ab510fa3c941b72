"""The ring of removals: which series each generation removed.

A removal is one store: the generation. The ring names the series of a generation before that is stored. Every worker
compares the generation at each update; when it has moved, the worker zeroes in its own row what was removed since.
A process that is more than the ring behind reads the generation of every slot.
"""

from __future__ import annotations

from typing import NamedTuple

from shm_metrics.segment import layout as L
from shm_metrics.segment.segment import Segment

__all__ = ["EVERY_SLOT", "Removal", "Removals"]

_GENERATION = L.GENERATION_OFFSET // L.WORD

EVERY_SLOT = L.RESET - 1
"""In place of a slot: many series were removed at once, and the slot table says which."""


class Removal(NamedTuple):
    """One removal.

    slot: the first slot of the series. reused: its slots went to another series, or are free for one.
    reset: the series is not hidden, it only restarts from 0.
    """

    generation: int
    slot: int
    reused: bool
    reset: bool = False


class Removals:
    """Reads and writes the ring of one segment."""

    def __init__(self, segment: Segment) -> None:
        lay = segment.layout
        self._header = segment.words
        self._slots = lay.slots
        self._ring = segment.bytes[lay.removals : lay.removals + L.REMOVALS * L.WORD].cast("Q")

    @property
    def generation(self) -> int:
        return self._header[_GENERATION]

    def newest(self) -> Removal | None:
        """Return the newest removal; None before the first."""
        generation = self._header[_GENERATION]
        return self._at(generation) if generation else None

    def since(self, generation: int) -> list[Removal] | None:
        """Return the removals after `generation` in order; None if the ring no longer has all of them."""
        newest = self._header[_GENERATION]
        if newest - generation >= L.REMOVALS:
            return None
        found = [self._at(each) for each in range(generation + 1, newest + 1)]
        return found if self._header[_GENERATION] - generation < L.REMOVALS else None

    def _at(self, generation: int) -> Removal:
        entry = self._ring[generation % L.REMOVALS]
        slot = entry & ~(L.REUSED | L.RESET)
        slot = slot if slot < self._slots else EVERY_SLOT
        return Removal(generation, slot, bool(entry & L.REUSED), bool(entry & L.RESET))

    def note(self, generation: int, slot: int, flags: int) -> None:
        """Record the removal of `generation`, before that is published. The caller holds the catalog lock."""
        self._ring[generation % L.REMOVALS] = slot | flags
