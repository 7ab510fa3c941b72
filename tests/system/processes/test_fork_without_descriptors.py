"""A fork in a process that may open no more files: the child has no row, and must not write into its parent's."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable
from typing import Any

from shm_metrics import MetricsBackend
from tests.support.processes import Child


def test_a_child_that_can_open_no_file_never_writes_into_its_parents_row(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    known = backend.counter("known_total", of="parent")
    known.inc()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def work(link: Any) -> int | None:
        known.inc(10)
        backend.counter("new_total", of="child").inc(5)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        while not backend._writer.repair():  # its own thread may be at it, as closing gave back a descriptor
            pass
        return backend.row

    spare: list[int] = []
    highest = max(int(descriptor) for descriptor in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                spare.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(2):
            os.close(spare.pop())  # for the two ends of the pipe to the child
        child = fork(work)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in spare:
            os.close(descriptor)
    assert child.result() not in (None, backend.row)
    row, slot = known.place()
    assert row.read(slot) == 1  # ours
    assert known.value == 11
    assert backend.counter("new_total", of="child").value == 5
