"""Process metrics: what the kernel says of the live workers, read by whoever is scraped.

Lives here: the public names. May not: code.
"""

from shm_metrics.process.families import process_families
from shm_metrics.process.procfs import own_start_ticks, read_process, read_worker
from shm_metrics.process.usage import ProcessUsage, WorkerUsage

__all__ = ["ProcessUsage", "WorkerUsage", "own_start_ticks", "process_families", "read_process", "read_worker"]
