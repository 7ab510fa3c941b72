"""Process metrics of all live workers, as families.

| family | over the live workers |
|---|---|
| `process_cpu_seconds_total` | sum, and what the dead ones used: it never falls |
| `process_resident_memory_bytes`, `process_virtual_memory_bytes` | sum; pages shared by several count for each |
| `process_open_fds`, `process_threads` | sum |
| `process_max_fds` | minimum: the limit is one process's, and the lowest is reached first |
| `process_start_time_seconds` | earliest |
| `shm_metrics_workers` | how many there are, those included whose /proc cannot be read |

The names are prometheus_client's where it has them, so that dashboards go on working; its figures are one worker's.
A worker that cannot be read is left out of a sum, and a family of which nothing is known is left out: a wrong
zero is worse than a gap.

Asked for per worker, each figure comes a second time as `shm_metrics_worker_*{row,pid,role}`: under names of their own,
because `sum(process_cpu_seconds_total)` would count a worker twice if it were one more series of the same family.
The next worker takes over a row but not a pid, so recycling makes new series of these: store the sums for long, and use
these to find the one worker that misbehaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from shm_metrics.model.families import COUNTER, GAUGE, Sample, SampleFamily
from shm_metrics.runtime.process_usage import ProcessUsage, WorkerUsage

__all__ = ["process_families"]

Combine: TypeAlias = Callable[[list[float]], float]


def _whole_ticks(seconds: list[float]) -> float:
    """Return the sum, independent of the order: a counter that falls by 1e-16 would count as reset.

    The kernel counts CPU time in hundredths of a second; a millionth is far from both that and the rounding error.
    """
    return round(sum(seconds), 6)


class _Figure(NamedTuple):
    """One figure of a process and how it becomes a family.

    name: of the family that combines the workers; per_worker_name: of the family with a series for each.
    documentation: completed with whose figure it is.
    """

    name: str
    per_worker_name: str
    documentation: str
    whose: str
    combine: Combine
    read: Callable[[ProcessUsage], float | None]
    type: str = GAUGE


_CPU = _Figure(
    "process_cpu_seconds",
    "shm_metrics_worker_cpu_seconds",
    "User and system CPU seconds",
    "of all workers, dead ones included",
    _whole_ticks,
    lambda usage: usage.cpu_seconds,
    COUNTER,
)

_GAUGES = (
    _Figure(
        "process_resident_memory_bytes",
        "shm_metrics_worker_resident_memory_bytes",
        "Resident memory in bytes",
        "of all live workers, shared pages counted for each",
        sum,
        lambda usage: usage.resident_bytes,
    ),
    _Figure(
        "process_virtual_memory_bytes",
        "shm_metrics_worker_virtual_memory_bytes",
        "Virtual memory in bytes",
        "of all live workers",
        sum,
        lambda usage: usage.virtual_bytes,
    ),
    _Figure(
        "process_open_fds",
        "shm_metrics_worker_open_fds",
        "Open file descriptors",
        "of all live workers",
        sum,
        lambda usage: usage.open_fds,
    ),
    _Figure(
        "process_max_fds",
        "shm_metrics_worker_max_fds",
        "Most file descriptors that one process may open",
        "the lowest limit of the live workers",
        min,
        lambda usage: usage.max_fds,
    ),
    _Figure(
        "process_threads",
        "shm_metrics_worker_threads",
        "Threads",
        "of all live workers",
        sum,
        lambda usage: usage.threads,
    ),
    _Figure(
        "process_start_time_seconds",
        "shm_metrics_worker_start_time_seconds",
        "Start time in seconds since the Unix epoch",
        "the earliest of the live workers",
        min,
        lambda usage: usage.start_time,
    ),
)


def process_families(
    workers: Sequence[WorkerUsage], retired_cpu_seconds: float = 0.0, per_worker: bool = False
) -> list[SampleFamily]:
    """Return the families of the table above.

    workers: the live ones, each once.
    retired_cpu_seconds: what the workers that are no longer in `workers` had used. A worker must go over from the one
        to the other within one call: in neither, the counter falls; in both, it counts double.
    per_worker: give the families of each worker too.
    """
    families = [_count_of(workers)]
    if not workers or retired_cpu_seconds or any(worker.usage for worker in workers):
        families.append(_combined(_CPU, [retired_cpu_seconds, *_known(_CPU, workers)]))
    for figure in _GAUGES:
        values = _known(figure, workers)
        if values:
            families.append(_combined(figure, values))
    if per_worker:
        families.extend(_each(figure, workers) for figure in (_CPU, *_GAUGES) if _known(figure, workers))
    return families


def _known(figure: _Figure, workers: Sequence[WorkerUsage]) -> list[float]:
    values = (figure.read(worker.usage) for worker in workers if worker.usage is not None)
    return [value for value in values if value is not None]


def _combined(figure: _Figure, values: list[float]) -> SampleFamily:
    sample = Sample(_sample_name(figure.name, figure.type), {}, float(figure.combine(values)))
    return SampleFamily(figure.name, f"{figure.documentation}, {figure.whose}.", figure.type, [sample])


def _each(figure: _Figure, workers: Sequence[WorkerUsage]) -> SampleFamily:
    name = _sample_name(figure.per_worker_name, figure.type)
    samples = []
    for worker in workers:
        value = None if worker.usage is None else figure.read(worker.usage)
        if value is not None:
            labels = {"pid": str(worker.pid), "role": worker.role, "row": str(worker.row)}
            samples.append(Sample(name, labels, float(value)))
    return SampleFamily(figure.per_worker_name, f"{figure.documentation}, of one live worker.", figure.type, samples)


def _count_of(workers: Sequence[WorkerUsage]) -> SampleFamily:
    name = "shm_metrics_workers"
    return SampleFamily(name, "Live worker processes.", GAUGE, [Sample(name, {}, float(len(workers)))])


def _sample_name(family: str, type: str) -> str:
    return f"{family}_total" if type == COUNTER else family
