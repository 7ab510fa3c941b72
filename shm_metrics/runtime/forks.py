"""Fork hooks with priorities, and the detection of forks that CPython does not see.

A child that goes on writing in its parent's row silently loses counts, its own and its parent's. Therefore:

    os.fork(), multiprocessing   CPython runs the hooks (os.register_at_fork)
    uWSGI                        forks in C without CPython's hooks, unless `py-call-osafterfork` is set; but it calls
                                 `uwsgi.post_fork_hook` in each child, which runs the hooks
    others that fork in C        detected by the child's pid, when it makes a series or is scraped; a warning says that
                                 what it counted before may be lost
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from bisect import insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from types import ModuleType
from typing import Any

from shm_metrics.runtime.signals import DEFERRED

__all__ = [
    "LOCKS",
    "ROWS",
    "STATE",
    "TASKS",
    "THREADS",
    "before_fork",
    "block_forks",
    "detect_unannounced_fork",
    "in_child",
    "in_parent",
]

log = logging.getLogger("shm_metrics")

_HOOK = "post_fork_hook"

Hook = Callable[[], None]

LOCKS, ROWS, STATE, TASKS, THREADS = range(5)
"""When a function runs in a child, lowest first.

LOCKS    free the locks that the parent's threads held
ROWS     claim a row for the child
STATE    reset what counts or is shown again in the child, which needs the row
TASKS    reset periodic tasks, which need all of that
THREADS  start threads: an earlier one might use what another hook has not reset yet
"""

_in_child: list[tuple[int, Hook]] = []
_preparations: list[Hook] = []
_ends: list[Hook] = []
_pid = os.getpid()


def in_child(priority: int) -> Callable[[Hook], Hook]:
    """Decorator: run the function in every child, before the child's own code, in the order of the priorities.

    priority: LOCKS, ROWS, STATE, TASKS or THREADS; of equal ones the function that was registered first runs first.
    """

    def register(function: Hook) -> Hook:
        insort(_in_child, (priority, function), key=itemgetter(0))
        return function

    return register


def before_fork(function: Hook) -> Hook:
    """Decorator: run `function` before every fork that CPython knows of."""
    _preparations.append(function)
    return function


def in_parent(function: Hook) -> Hook:
    """Decorator: run `function` in the parent after every such fork, one that failed too."""
    _ends.append(function)
    return function


def detect_unannounced_fork() -> None:
    """Run the hooks now, if this process is a child in which they did not run. Takes 50 ns."""
    # Twice: a fork between the two sides of the first comparison runs the hooks, and then the sides differ.
    if os.getpid() == _pid or os.getpid() == _pid:
        return
    _run()
    log.warning(
        "shm_metrics: process %d was forked without CPython's hooks (PyOS_AfterFork_Child); what was "
        "counted here until now may be lost. Load the application after the fork, or call os.fork()",
        _pid,
    )


def _run() -> None:
    global _pid
    _pid = os.getpid()
    # A copy: a hook that loads a module may register one for the next child.
    _run_all(tuple(function for _, function in _in_child))


def _run_all(functions: tuple[Hook, ...]) -> None:
    interruption: BaseException | None = None
    for function in functions:
        for _ in range(_MOST_TRIES):
            try:
                function()
            except Exception:  # the process must live, and the others have their turn
                log.exception("shm_metrics: at a fork")
            except BaseException as error:
                # A KeyboardInterrupt of a signal handler: without the rest, a child writes in its parent's row.
                interruption = error
                continue
            break
    if interruption is not None:
        raise interruption


@contextmanager
def block_forks() -> Iterator[None]:
    """Make os.fork() wait, at most a few seconds, while the block runs.

    For a thread that imports modules. A child forked during an import has half-made modules, and module locks held by
    a thread that does not exist in it: its own import of them hangs or fails.
    """
    with _no_fork:
        yield


_MOST_TRIES = 3  # of a function that is interrupted: who presses Ctrl-C again and again wants to end
_MOST_SECONDS = 10.0  # more than any import takes; a fork that never comes would be worse than what it waits for
_no_fork = threading.RLock()  # re-entrant: what is imported may fork


# Blocked from before a fork until parent and child have run their functions: CPython drops an exception that a signal
# handler raises in one of them, and the process goes on with what was left undone.
_masks = threading.local()


def _defer_signals() -> None:
    _masks.before = None
    # In two steps: a handler may come in on top of each, and what is blocked must not stay so.
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    signal.pthread_sigmask(signal.SIG_BLOCK, DEFERRED)


def _deliver_signals() -> None:
    before, _masks.before = getattr(_masks, "before", None), None
    if before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _before() -> None:
    _defer_signals()
    _no_fork.acquire(timeout=_MOST_SECONDS)
    _run_all(tuple(_preparations))


def _after_in_parent() -> None:
    try:
        _run_all(tuple(_ends))
    finally:
        _allow_forks()
        _deliver_signals()


def _after_in_child() -> None:
    try:
        _allow_forks()  # first: _run() starts threads
        _run()
    finally:
        _deliver_signals()


def _allow_forks() -> None:
    global _no_fork
    try:
        _no_fork.release()
    except RuntimeError:  # the wait timed out: another thread owns it, which does not exist in a child
        if os.getpid() != _pid:
            _no_fork = threading.RLock()


def _run_unless_done() -> None:
    # With `py-call-osafterfork` CPython has run the hooks already; and without a master, worker 1 is no child at all.
    if os.getpid() != _pid:
        _run()


def _join_uwsgi(module: ModuleType) -> None:
    """Run the hooks after uWSGI's forks, also if other code (uwsgidecorators) assigns `uwsgi.post_fork_hook`."""

    def hook() -> None:
        _run_unless_done()
        theirs = module.__dict__.get(_THEIRS)
        if theirs is not None:
            theirs()

    class Hooked(type(module)):  # type: ignore[misc]  # the module's own class, with one attribute that is watched
        @property
        def post_fork_hook(self) -> Any:
            try:
                return self.__dict__[_THEIRS]
            except KeyError:
                raise AttributeError(f"module 'uwsgi' has no attribute {_HOOK!r}") from None

        @post_fork_hook.setter
        def post_fork_hook(self, theirs: Any) -> None:
            self.__dict__[_THEIRS] = theirs

        @post_fork_hook.deleter
        def post_fork_hook(self) -> None:
            del self.__dict__[_THEIRS]

    if _HOOK in module.__dict__:
        module.__dict__[_THEIRS] = module.__dict__[_HOOK]
    module.__dict__[_HOOK] = hook  # where uWSGI, in C, looks it up
    module.__class__ = Hooked


_THEIRS = "_shm_metrics_post_fork_hook_of_others"

os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
_uwsgi = sys.modules.get("uwsgi")  # a process of uWSGI has it from the start; elsewhere it may be some test's stand-in
if isinstance(_uwsgi, ModuleType):
    _join_uwsgi(_uwsgi)
