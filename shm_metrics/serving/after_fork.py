"""What must be renewed in the child of a fork, and by whom.

Lives here: one hook for the interpreter and the weak list of those it tells. May not: any knowledge of what they renew.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["ForkAware", "tell_in_child"]


class ForkAware(Protocol):
    """Something that holds what a child must not share: a thread that is gone, a listening socket."""

    def after_fork_in_child(self) -> None: ...


# os.register_at_fork has no way back, so it is called once, and things come and go through a weak set.
_living: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def tell_in_child(thing: ForkAware) -> None:
    """Call `thing.after_fork_in_child()` in every child forked while `thing` lives, before the child's own code."""
    _living.add(thing)


def _tell_all() -> None:
    for thing in list(_living):
        thing.after_fork_in_child()


os.register_at_fork(after_in_child=_tell_all)
