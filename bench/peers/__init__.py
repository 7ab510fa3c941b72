"""The systems that are measured side by side, each behind the same few names.

Lives here: who they are and what each needs in its environment. May not: anything that measures.
A peer is imported only in a process of its own (bench/subject.py): prometheus_client reads its environment on import.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = [
    "DROP_IN",
    "FLOOR",
    "INTERPRETED",
    "MULTIPROCESS",
    "OURS",
    "PEERS",
    "RUST",
    "SINGLE",
    "Entry",
    "Peer",
    "load",
]

OURS = "shm_metrics"
INTERPRETED = "shm_metrics interpreted"
DROP_IN = "drop-in"
FLOOR = "C no-op"
SINGLE = "client single"
MULTIPROCESS = "client multiprocess"
RUST = "promrs"


class Peer(Protocol):
    """What a measurement asks of a system; the constructors are prometheus_client's."""

    Counter: Callable[..., Any]
    Gauge: Callable[..., Any]
    Histogram: Callable[..., Any]

    def render(self) -> bytes:
        """One scrape: the text of everything that all processes counted."""

    def close(self) -> None:
        """Give back whatever outlives the process."""


@dataclass(frozen=True)
class Entry:
    """One system: its module here, and the environment that its process is started in.

    shared: the environment variable that names the place which several processes share, if any.
    shares_directory: that place is a directory, which must exist before the start.
    """

    module: str
    environment: tuple[tuple[str, str], ...] = ()
    shared: str = ""
    shares_directory: bool = False


PEERS = {
    OURS: Entry("ours", shared="SHM_METRICS_SEGMENT"),
    INTERPRETED: Entry("ours", (("SHM_METRICS_INTERPRETED", "1"),), shared="SHM_METRICS_SEGMENT"),
    DROP_IN: Entry("drop_in", shared="SHM_METRICS_SEGMENT"),
    FLOOR: Entry("floor"),
    SINGLE: Entry("client"),
    MULTIPROCESS: Entry("client", shared="PROMETHEUS_MULTIPROC_DIR", shares_directory=True),
    RUST: Entry("rust"),
}


def load(name: str) -> Peer:
    """The peer of that name, ready for use in this process; ImportError where it is not installed."""
    module = importlib.import_module(f"bench.peers.{PEERS[name].module}")
    peer: Peer = module.Peer()
    return peer
