"""What a figure was measured on: without it a figure says nothing."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata

__all__ = ["describe", "versions"]

PACKAGES = ("shm_metrics", "prometheus_client", "promrs", "numpy", "posix_ipc")


def describe() -> dict[str, object]:
    """Processor, cores that this process may use, memory, kernel, interpreter."""
    return {
        "processor": _first("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "built_with": platform.python_compiler(),
        "free_threaded": not getattr(sys, "_is_gil_enabled", lambda: True)(),
        "load_at_start": os.getloadavg()[0],
    }


def versions(*more: str) -> dict[str, str]:
    """The installed version of everything that was measured."""
    found = {}
    for package in (*PACKAGES, *more):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _first(path: str, name: str) -> str:
    with open(path) as lines:
        for line in lines:
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return "unknown"
