"""Parse the texts of /proc (man 5 proc_pid_stat, proc_pid_limits, proc_stat).

Each function raises ValueError for a text that does not match the manual page.
"""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["ProcessStat", "parse_boot_time", "parse_open_files_limit", "parse_stat"]

# Positions after the command's closing parenthesis; the manual page counts from 1 and has two fields before these.
_FIRST_FIELD = 3
_UTIME = 14 - _FIRST_FIELD
_STIME = 15 - _FIRST_FIELD
_NUM_THREADS = 20 - _FIRST_FIELD
_STARTTIME = 22 - _FIRST_FIELD
_VSIZE = 23 - _FIRST_FIELD
_RSS = 24 - _FIRST_FIELD

_OPEN_FILES_LIMIT = b"Max open files"
_BOOT_TIME = b"btime"


class ProcessStat(NamedTuple):
    """The fields of /proc/PID/stat that become metrics, in the kernel's units."""

    cpu_ticks: int
    threads: int
    start_ticks: int
    virtual_bytes: int
    resident_pages: int


def parse_stat(text: bytes) -> ProcessStat:
    """Read /proc/PID/stat.

    The command may hold anything, spaces, parentheses and line breaks too; no other field holds a parenthesis, so
    the last one is where it ends.
    """
    fields = text[text.rindex(b")") + 1 :].split()
    if len(fields) <= _RSS:
        raise ValueError(f"/proc/PID/stat ends after {len(fields) + _FIRST_FIELD - 1} fields: {text!r}")
    return ProcessStat(
        cpu_ticks=int(fields[_UTIME]) + int(fields[_STIME]),
        threads=int(fields[_NUM_THREADS]),
        start_ticks=int(fields[_STARTTIME]),
        virtual_bytes=int(fields[_VSIZE]),
        resident_pages=int(fields[_RSS]),
    )


def parse_open_files_limit(text: bytes) -> float:
    """Return the soft limit of open files from /proc/PID/limits; infinite when unlimited."""
    start = text.index(_OPEN_FILES_LIMIT) + len(_OPEN_FILES_LIMIT)
    soft = text[start:].split(maxsplit=1)[0]
    return math.inf if soft == b"unlimited" else float(int(soft))


def parse_boot_time(text: bytes) -> int:
    """Return when the machine started, in whole Unix seconds, from /proc/stat."""
    for line in text.splitlines():
        name, _, value = line.partition(b" ")
        if name == _BOOT_TIME:
            return int(value)
    raise ValueError("/proc/stat has no line btime")
