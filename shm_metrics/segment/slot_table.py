"""The slot table: the state of each series by its first slot, its owner, its age, the removals that rows must follow.

A catalog record says which slots a series was given; the slot table says whether it still has them:
    LIVE      the slot's owner is the series (the hash of its key)
    REMOVED   the same, and the slot map's code has SLOT_REMOVED; it counts from 0 when it is used again
    FREE      the slot has another owner: the record is dead
The numbers of a row count for a series only if the row has followed the removals up to the slot's generation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from shm_metrics.segment import layout as L
from shm_metrics.segment.removals import EVERY_SLOT, Removals
from shm_metrics.segment.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shm_metrics.model.arrays import BoolArray, FloatArray, IntArray, UnsignedArray

__all__ = ["FREE", "LIVE", "REMOVED", "SlotTable", "States"]

LIVE, REMOVED, FREE = 1, 2, 3

_WORDS = L.SLOT_ENTRY_BYTES // L.WORD
_GENERATION = L.SLOT_GENERATION_OFFSET // L.WORD
_OWNER = L.SLOT_OWNER_OFFSET // L.WORD
_CREATED = L.SLOT_CREATED_OFFSET // L.WORD
_BORN = L.SLOT_BORN_OFFSET // L.WORD


class States(NamedTuple):
    """The states of n series, each of shape (n,). free: the record is dead."""

    generation: UnsignedArray
    created: FloatArray
    born: FloatArray
    removed: BoolArray
    free: BoolArray


class SlotTable:
    """Reads the slot table of one segment."""

    def __init__(self, segment: Segment) -> None:
        lay = segment.layout
        region = segment.bytes[lay.slot_table : lay.slot_table + lay.slots * L.SLOT_ENTRY_BYTES]
        self.segment = segment
        self.words = region.cast("Q")
        self.doubles = region.cast("d")
        self._removals = Removals(segment)

    def generation(self, slot: int) -> int:
        """Return the generation of the slot's last removal or reuse, even if this table does not show it yet."""
        newest = self._removals.newest()
        if newest is not None and newest.slot == slot:
            return max(newest.generation, self.words[slot * _WORDS + _GENERATION])
        return self.words[slot * _WORDS + _GENERATION]

    def newest_generation(self) -> int:
        """Return the generation of the newest removal of all."""
        return self._removals.generation

    def removed_since(self, seen: int) -> dict[int, int] | None:
        """Return slot -> generation of what was removed or reused after `seen`; None if that is no longer known."""
        if self._removals.generation == seen:
            return {}
        found = self._removals.since(seen)
        if found is None or any(removal.slot == EVERY_SLOT for removal in found):
            return None
        return {removal.slot: removal.generation for removal in found}

    def generations(self, slots: IntArray) -> UnsignedArray:
        """Return the generations of many slots: shape (n,)."""
        import numpy as np

        newest = self._removals.newest()
        found: UnsignedArray = np.frombuffer(self.words, np.uint64).reshape(-1, _WORDS)[slots, _GENERATION]
        if newest is not None:
            found[(slots == newest.slot) & (found < newest.generation)] = newest.generation
        return found

    def owner(self, slot: int) -> int:
        return self.words[slot * _WORDS + _OWNER]

    def created(self, slot: int) -> float:
        return self.doubles[slot * _WORDS + _CREATED]

    def born(self, slot: int) -> float:
        return self.doubles[slot * _WORDS + _BORN]

    def state(self, slot: int, hash_: int) -> int:
        """Return LIVE, REMOVED or FREE, the state of the series with this hash and first slot."""
        if self.words[slot * _WORDS + _OWNER] != hash_:
            return FREE
        if self.segment.codes[slot] & L.SLOT_REMOVED:
            return REMOVED
        newest = self._removals.newest()
        if (
            newest is None
            or newest.slot != slot
            or newest.reset
            or newest.generation <= self.words[slot * _WORDS + _GENERATION]
        ):
            return LIVE
        return REMOVED  # its remover was killed, or is about to write here

    def states(self, slots: Sequence[int], hashes: Sequence[int]) -> States:
        """Return the states of many series at once."""
        import numpy as np

        newest = self._removals.newest()
        at = np.array(slots, np.intp)
        entries = np.frombuffer(self.words, np.uint64).reshape(-1, _WORDS)[at]
        values = entries.view(np.float64)
        generation = self.generations(at)
        removed = (np.frombuffer(self.segment.codes, np.uint8)[at] & L.SLOT_REMOVED) != 0
        if newest is not None and not newest.reset:
            removed |= (at == newest.slot) & (entries[:, _GENERATION] < newest.generation)
        free = entries[:, _OWNER] != np.array(hashes, np.uint64)
        return States(generation, values[:, _CREATED].copy(), values[:, _BORN].copy(), removed, free)
