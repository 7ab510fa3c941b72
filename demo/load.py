"""Clients: threads that ask one page after another and remember what became of each request."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["Tally", "get", "run_clients"]

TIMEOUT_SECONDS = 30.0


@dataclass
class Tally:
    """What clients know. answered: complete answers, by page. broken: no answer, or half of one, by page."""

    answered: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.answered + other.answered, self.broken + other.broken, max(self.seconds, other.seconds))


def get(port: int, page: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """(status, body) of one request on a connection of its own. Raises OSError or http.client.HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", page, headers={"Connection": "close", **(headers or {})})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def run_clients(
    port: int,
    clients: int,
    requests: int,
    pages: Sequence[str],
    *,
    progress: Callable[[int], None] | None = None,
) -> Tally:
    """`clients` threads send `requests` requests in all, the pages in turn; the tally of them.

    progress: told now and then how many requests have been made; runs in the calling thread.
    """
    turns = itertools.count()
    tallies = [Tally() for _ in range(clients)]

    def client(tally: Tally) -> None:
        while (turn := next(turns)) < requests:
            page = pages[turn % len(pages)]
            try:
                status, _ = get(port, page)
            except (OSError, http.client.HTTPException):
                tally.broken[page] += 1
            else:
                (tally.answered if status == 200 else tally.broken)[page] += 1

    began = time.perf_counter()
    threads = [threading.Thread(target=client, args=(tally,), daemon=True) for tally in tallies]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.1)
            if progress is not None:
                progress(sum(tally.answered.total() + tally.broken.total() for tally in tallies))
    result = sum(tallies, Tally())
    result.seconds = time.perf_counter() - began
    return result
