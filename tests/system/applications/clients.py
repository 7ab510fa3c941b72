"""Clients that know exactly what became of each request, though a worker dies in the middle of them."""

from __future__ import annotations

import http.client
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from demo.load import get

CRASH = "/crash"


@dataclass
class Tally:
    """answered: complete answers, by (path, status). broken: requests without one, by path."""

    answered: Counter[tuple[str, int]] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.answered + other.answered, self.broken + other.broken)

    def ask(self, port: int, path: str) -> None:
        try:
            status, _ = get(port, path)
        except (OSError, http.client.HTTPException):
            self.broken[path] += 1
        else:
            self.answered[path, status] += 1


def run_clients(
    port: int, clients: int, requests: int, paths: Sequence[str], *, halfway: Callable[[], None], at_rest: bool
) -> Tally:
    """`clients` threads send `requests` requests, the paths in turn.

    halfway: called once in the middle. at_rest: while no request is under way; the load goes on as soon as it returns.
        Otherwise one client calls it while the others go on.
    """
    turns = itertools.count()
    tallies = [Tally() for _ in range(clients)]
    meeting = threading.Barrier(clients, halfway)  # the last to come calls it while the others wait

    def client(tally: Tally) -> None:
        met = not at_rest
        while (turn := next(turns)) < requests:
            if turn >= requests // 2 and not met:
                meeting.wait()
                met = True
            if turn == requests // 2 and not at_rest:
                halfway()
            tally.ask(port, paths[turn % len(paths)])

    threads = [threading.Thread(target=client, args=(tally,), daemon=True) for tally in tallies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(tallies, Tally())
