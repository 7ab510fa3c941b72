"""The cells of this process by the slot that they write to."""

from __future__ import annotations

import weakref
from typing import Any

from shm_metrics.runtime.call_lock import CallLock, NestedCallError

__all__ = ["BoundCells"]

_Entries = list[tuple[int, "weakref.ref[Any]"]]


class BoundCells:
    """Weak references to cells by slot."""

    def __init__(self) -> None:
        self._by_slot: dict[int, _Entries] = {}
        self._added = 0
        self._most = 1024
        self._lock = CallLock()

    def add(self, slot: int, hash_: int, cell: Any) -> None:
        """Note that the cell writes to `slot`, for the series with this hash."""
        self._by_slot.setdefault(slot, []).append((hash_, weakref.ref(cell)))
        self._added += 1
        if self._added > self._most:
            try:
                self._lock.run(self._drop_dead)
            except NestedCallError:
                pass  # it interrupts just that

    def renew(self) -> None:
        """Replace a lock that another thread held, in a forked child."""
        self._lock.renew()

    def _drop_dead(self) -> None:
        for entries in list(self._by_slot.values()):
            looked_at = len(entries)
            # In place: what another thread appends meanwhile stays behind the replaced part.
            entries[:looked_at] = [entry for entry in entries[:looked_at] if entry[1]() is not None]
        self._added = sum(map(len, self._by_slot.values()))
        self._most = max(1024, 2 * self._added)

    def at(self, slot: int) -> list[tuple[int, Any]]:
        """Return (hash, cell) of the cells that were bound to `slot`; they may have gone elsewhere since."""
        found: dict[int, tuple[int, Any]] = {}  # of a cell that was bound here twice, the last time counts
        for hash_, reference in list(self._by_slot.get(slot, ())):
            cell = reference()
            if cell is not None:
                found[id(cell)] = hash_, cell
        return list(found.values())

    def slots(self) -> list[int]:
        return list(self._by_slot)

    def all(self) -> list[Any]:
        return [cell for slot in self.slots() for _, cell in self.at(slot)]
