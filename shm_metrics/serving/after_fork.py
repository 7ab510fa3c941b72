"""Objects that are renewed in the child of a fork."""

from __future__ import annotations

import weakref
from typing import Protocol

from shm_metrics.runtime import forks

__all__ = ["ForkAware", "renew_in_child"]


class ForkAware(Protocol):
    """An object that holds what a child must not share: a thread that is gone, a listening socket."""

    def after_fork_in_child(self) -> None:
        """Drop or renew what the child must not share."""
        ...


# One fork hook serves all objects, which are held weakly.
_living: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def renew_in_child(thing: ForkAware) -> None:
    """Call `thing.after_fork_in_child()` in every child forked while `thing` lives, before the child's own code."""
    _living.add(thing)


@forks.in_child(forks.STATE)
def _renew_all() -> None:
    for thing in list(_living):
        thing.after_fork_in_child()
