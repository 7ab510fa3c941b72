"""`python -m demo.migration`: an application of prometheus_client under gunicorn, before and after the one line.

The application is not changed (demo/existing.py). Before: gunicorn as it is. After: the hook in gunicorn's
configuration and SHM_METRICS_PROMETHEUS=1. Exits with 0 when all scrapes after are the same and exact.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from demo.load import get, run_clients
from demo.server import CONF, Gunicorn
from shm_metrics.segment.location import locate_segment

REQUESTS = 1000
SERIES = 'http_requests_total{path="/orders"}'
SCRAPES = 4


def main() -> int:
    before = Path(__file__).with_name("existing_conf.py")
    print(f"{REQUESTS:,} requests to 4 workers of gunicorn, then {SCRAPES} scrapes; a worker killed; {SCRAPES} more.\n")
    show("as it is", before, {})
    exact = show("with the hook and SHM_METRICS_PROMETHEUS=1", CONF, {"SHM_METRICS_PROMETHEUS": "1"})
    return 0 if exact else 1


def show(title: str, conf: Path, environ: dict[str, str]) -> bool:
    """Run it once; whether every scrape said what was sent."""
    print(f"-- {title}")
    segment = f"demo-migration-{os.getpid()}"
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environ = {"PYTHONPATH": path, "DEMO_WORKERS": "4", "SHM_METRICS_PROMETHEUS": "", **environ}
    with tempfile.TemporaryDirectory(prefix="shm_metrics-demo-") as directory:
        try:
            with Gunicorn("demo.existing:app", segment, Path(directory), conf=conf, environ=environ) as server:
                run_clients(server.port, 4, REQUESTS, ("/orders",))
                seen = scrapes(server)
                killed = server.workers()[0]
                os.kill(killed, signal.SIGKILL)
                print(f"   (worker {killed} killed)")
                seen += scrapes(server)
        finally:
            locate_segment(segment).unlink()
    return set(seen) == {str(float(REQUESTS))}


def scrapes(server: Gunicorn) -> list[str]:
    """The series' value in each of several scrapes, or that it is not there."""
    seen = []
    for _ in range(SCRAPES):
        _, page = get(server.port, "/metrics")
        found = [line for line in page.decode().splitlines() if line.startswith(SERIES)]
        print(f"   {found[0] if found else '(no such series)'}")
        seen.append(found[0].rpartition(" ")[2] if found else "")
    return seen


if __name__ == "__main__":
    sys.exit(main())
