"""The usage of one process, as read from /proc."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ProcessUsage", "WorkerUsage"]


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """One process at one moment.

    start_ticks: clock ticks from boot to its start. With the pid it is the process's identity: pids recur,
        but not both together.
    cpu_seconds: user and system time since its start, of all its threads, without its children.
    resident_bytes: with the pages it shares with others, the code and a preloaded application among them.
    open_fds, max_fds, start_time: None where the kernel does not tell us (max_fds: infinite where unlimited).
    start_time: Unix seconds.
    """

    pid: int
    start_ticks: int
    cpu_seconds: float
    resident_bytes: int
    virtual_bytes: int
    threads: int
    open_fds: int | None = None
    max_fds: float | None = None
    start_time: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerUsage:
    """One live worker. usage: None where its /proc cannot be seen (an exporter in another pid namespace)."""

    row: int
    pid: int
    role: str = ""
    usage: ProcessUsage | None = None
