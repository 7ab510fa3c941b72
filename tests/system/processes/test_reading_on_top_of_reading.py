"""A signal handler that reads what is just being read."""

from __future__ import annotations

import signal
from collections.abc import Callable

from shm_metrics import MetricsBackend


def test_a_signal_handler_reads_on_top_of_a_scrape(attach: Callable[..., MetricsBackend]) -> None:
    backend = attach()
    counter = backend.counter("done_total", by="handler")
    for number in range(200):
        backend.counter("done_total", by=str(number)).inc()
    backend.snapshot()  # what reading needs is imported at the first time
    read: list[float] = []

    def handler(*_: object) -> None:
        counter.inc()
        assert counter.value == len(read) + 1
        read.append(backend.snapshot().value("done_total", by="handler") or 0.0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.001)

    before = signal.signal(signal.SIGVTALRM, handler)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.001)
    try:
        while len(read) < 200:
            backend.snapshot()
            backend.counter("new_total", number=len(read)).value
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)
    assert read == [float(number) for number in range(1, len(read) + 1)]
