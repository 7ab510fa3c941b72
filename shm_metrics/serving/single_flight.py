"""Callers that ask for the same thing at the same time share one run of the work.

Guarantees:

- of one key, at most one run is under way in a process at any moment (a run that asks for its own key excepted);
- a caller gets the result of a run that had not ended when it called: nothing is cached beyond a run, so what it
  gets is older than its call by less than one run;
- callers of one key, one after another, get results in the order of their runs: a result never goes back in time.

For Prometheus this is sound. It stamps a scrape with the time it sent the request; a scrape that joins a rendering
shows values read up to one rendering (milliseconds) before that stamp, less than the jitter of scraping itself, and
a counter never falls between two scrapes of one server, because the second began after the first had ended.
Waiting for a *fresh* run instead would double the worst latency just when scrapes pile up because they are slow.

There is no lock. The table is a dict whose keys are hashed and compared in C, so `setdefault` is one atomic step: a
signal handler, a greenlet switch or a fork at any point finds it whole. What a fork would leave behind is a flight
whose pilot exists only in the parent:

    parent, thread A    boards key K and begins to render
    parent, thread B    forks
    child               a scrape asks for K, finds A's flight, and waits for a thread that is not there, for ever

so the child starts with an empty table.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

from shm_metrics.serving.after_fork import renew_in_child

__all__ = ["InterruptedFlightError", "SingleFlight"]

T = TypeVar("T")


class InterruptedFlightError(RuntimeError):
    """The shared run was ended by an exception for its thread only: KeyboardInterrupt, SystemExit."""


class _Flight:
    """One run of the work, and the future its joiners wait on."""

    __slots__ = ("outcome", "pilot")

    def __init__(self, pilot: int | None) -> None:
        self.pilot = pilot
        self.outcome: Future[Any] = Future()
        # A running future refuses cancel(): a client that goes away must not take the result from the others.
        self.outcome.set_running_or_notify_cancel()


class SingleFlight:
    """Shares concurrent runs by key, between threads, greenlets and asyncio tasks.

    Locks and futures are made at each flight and not at import, so gevent may patch `threading` at any time before.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight] = {}
        renew_in_child(self)

    def after_fork_in_child(self) -> None:
        """Forget the runs whose threads exist only in the parent."""
        self._flights = {}

    def do(self, key: Hashable, work: Callable[[], T]) -> T:
        """Run `work` here, or wait for the run of `key` that is under way; return its result or raise its exception."""
        me = threading.get_ident()
        mine = _Flight(me)
        flight = self._flights.setdefault(key, mine)
        if flight is mine:
            self._fly(key, mine, work)
        elif flight.pilot == me:
            # The work asked for itself (a collector that scrapes its own endpoint): waiting would never end.
            return work()
        result: T = flight.outcome.result()
        return result

    async def do_async(self, key: Hashable, work: Callable[[], T]) -> T:
        """Run or join from an event loop: the work runs in a thread, and joining takes no thread.

        The thread is not from the loop's executor, which may be busy just when metrics are needed.
        """
        import asyncio

        mine = _Flight(None)
        flight = self._flights.setdefault(key, mine)
        if flight is mine:
            thread = threading.Thread(
                target=self._fly_in_thread, args=(key, mine, work), name="shm_metrics-render", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:  # no more threads: this flight would never land
                self._land(key, mine)
                mine.outcome.set_exception(error)
        result: T = await asyncio.wrap_future(flight.outcome)
        return result

    def _fly(self, key: Hashable, flight: _Flight, work: Callable[[], Any]) -> None:
        try:
            result = work()
        except Exception as error:
            self._land(key, flight)
            flight.outcome.set_exception(error)
        except BaseException as error:
            self._land(key, flight)
            flight.outcome.set_exception(InterruptedFlightError(f"the shared run ended with {error!r}; ask again"))
            raise
        else:
            # Removed from the table first: a caller that comes after the result must not get that result.
            self._land(key, flight)
            flight.outcome.set_result(result)

    def _fly_in_thread(self, key: Hashable, flight: _Flight, work: Callable[[], Any]) -> None:
        flight.pilot = threading.get_ident()
        try:
            self._fly(key, flight, work)
        except BaseException:  # the joiners get an InterruptedFlightError; this thread has no caller
            return

    def _land(self, key: Hashable, flight: _Flight) -> None:
        # In a child that was forked by the work itself, the table is new, and the key may belong to another flight.
        if self._flights.get(key) is flight:
            del self._flights[key]
