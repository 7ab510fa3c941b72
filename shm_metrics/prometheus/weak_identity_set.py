"""A set of weak references, by identity.

By identity: a subclass of a metric may define equality in any way. Not a WeakSet, which cannot be iterated while
another thread adds to it, as a request with a new label does during a scrape.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

__all__ = ["WeakIdentitySet"]


class WeakIdentitySet:
    """A set, by identity, that keeps nothing alive."""

    def __init__(self) -> None:
        self._held: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def add(self, item: Any) -> None:
        self._held[id(item)] = item

    def discard(self, item: Any) -> None:
        if item in self:
            del self._held[id(item)]

    def __contains__(self, item: Any) -> bool:
        return self._held.get(id(item)) is item

    def __iter__(self) -> Iterator[Any]:
        """Those that are there now; what is added meanwhile is not among them."""
        for reference in self._held.valuerefs():
            item = reference()
            if item is not None:
                yield item
