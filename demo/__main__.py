"""`python -m demo`: gunicorn, real requests, a worker killed on the way; then what was sent and what was counted.

Exits with 0 when every request was counted exactly once, with 1 when not.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from demo.killer import Killer
from demo.load import Tally, get, run_clients
from demo.report import Comparison, Findings, report
from demo.scrape import Scrape
from demo.server import Gunicorn
from shm_metrics.segment.location import locate_segment

REQUESTS = 6000
CLIENTS = 6
WORKERS = 4
MAX_REQUESTS = 500
PAGES = ("/", "/search", "/order", "/search", "/")
STOCK = 10_000
SCRAPES = 20
EXCERPT = re.compile(
    r"(# (HELP|TYPE) )?"
    r"(shop_requests_total|shop_stock|process_cpu_seconds_total|shm_metrics_workers |shm_metrics_rows_used)"
    r"|# (HELP|TYPE) shop_request_seconds|shop_request_seconds_\w+\{(le=\"[^\"]*\",)?page=\"/order\""
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the shop running until Ctrl-C")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="how many the clients send (%(default)s)")
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    found = None
    try:
        with shop() as server:
            say(
                f"gunicorn {version('gunicorn')} at {server.url}: {WORKERS} workers, each replaced after about "
                f"{MAX_REQUESTS} requests."
            )
            try:
                found = run(server, asked.requests)
            except (OSError, http.client.HTTPException, RuntimeError) as error:
                say(f"The demo failed: {error!r}\nThe end of gunicorn's log:\n\n{server.log_end()}")
                return 1
            say("\n" + report(found))
            if asked.keep:
                keep(server)
    except KeyboardInterrupt:
        say("\nStopped; the segment is removed.")
        if found is None:
            return 128 + signal.SIGINT
    return 0 if found.exact else 1


def say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def shop() -> Iterator[Gunicorn]:
    """The application under gunicorn, with a segment of its own that is removed in the end."""
    segment = f"demo-{os.getpid()}"
    environ = {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "DEMO_WORKERS": str(WORKERS),
        "DEMO_MAX_REQUESTS": str(MAX_REQUESTS),
    }
    with tempfile.TemporaryDirectory(prefix="shm_metrics-demo-") as directory:
        try:
            with Gunicorn("demo.app:app", segment, Path(directory), environ=environ) as server:
                yield server
        finally:
            locate_segment(segment).unlink()


def run(server: Gunicorn, requests: int) -> Findings:
    """Send the load, kill a worker in the middle of it, and compare."""
    get(server.port, f"/restock?articles={STOCK}")
    say(f"{CLIENTS} clients send {requests:,} requests ...")
    killer = Killer(server.port, when=requests // 2)
    with Progress(requests) as progress:

        def advance(done: int) -> None:
            progress.show(done)
            killer.look(done)

        tally = run_clients(server.port, CLIENTS, requests, PAGES, progress=advance)
        killer.finish()
    return compare(server, tally, killer)


class Progress:
    """A bar on a terminal, nothing elsewhere."""

    WIDTH = 50

    def __init__(self, total: int) -> None:
        self.total = total
        self.shown = sys.stdout.isatty()

    def show(self, done: int) -> None:
        if self.shown:
            full = self.WIDTH * done // self.total
            print(f"\r  [{'#' * full}{'.' * (self.WIDTH - full)}] {done:,}", end="", flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown:
            print("\r\x1b[K", end="", flush=True)


def compare(server: Gunicorn, tally: Tally, killer: Killer) -> Findings:
    """What the clients know beside what a scrape says."""
    scrapes = [Scrape(server.port) for _ in range(SCRAPES)]
    last = scrapes[-1]
    remarks = {"/hold": f"kill -9 {killer.killed[0]} in the middle of its answer", "/restock": "sets the stock"}
    known = {**tally.answered, "/restock": 1, "/hold": len(killer.killed)}
    timed = sum(tally.answered.values())
    count = sum(last.value(f'shop_request_seconds_count{{page="{page}"}}') for page in tally.answered)
    infinite = sum(last.value(f'shop_request_seconds_bucket{{le="+Inf",page="{page}"}}') for page in tally.answered)
    return Findings(
        requests=[
            Comparison(page, sent, last.value(f'shop_requests_total{{page="{page}"}}'), remarks.get(page, ""))
            for page, sent in known.items()
        ],
        others=[
            Comparison("histogram, _count", timed, count, "over the three pages that are timed"),
            Comparison("histogram, +Inf", timed, infinite, "the same, as it must be"),
            Comparison(
                "stock", STOCK - tally.answered["/order"], last.value("shop_stock"), "any worker takes from one number"
            ),
            Comparison("in progress", 0, last.value("shop_requests_in_progress"), "what was killed is not in progress"),
        ],
        broken=tally.broken.total(),
        load_seconds=tally.seconds,
        workers_started=len(set(server.booted())),
        workers_alive=len(server.workers()),
        workers_killed=len(killer.killed),
        rows_used=int(last.value("shm_metrics_rows_used")),
        rows=int(last.value("shm_metrics_rows")),
        rows_taken_over=int(last.value("shm_metrics_reaped_rows_total")),
        segment_path=locate_segment(f"demo-{os.getpid()}").path,
        segment_bytes=int(last.value("shm_metrics_segment_bytes")),
        scrapes_agree=len({scrape.about("shop_") for scrape in scrapes}) == 1,
        scrapes=SCRAPES,
        scrape_seconds=min(scrape.seconds for scrape in scrapes),
        collect_seconds=min(
            filter(None, (scrape.value("shm_metrics_last_scrape_seconds") for scrape in scrapes)), default=0.0
        ),
        excerpt=[line for line in last.text.splitlines() if EXCERPT.match(line)],
    )


def keep(server: Gunicorn) -> None:
    """Wait until somebody stops it."""
    say(
        f"\nThe shop stays open:\n\n"
        f"    {server.url}/          pages: / /search /order\n"
        f"    {server.url}/metrics   what Prometheus would scrape\n\n"
        f"Ctrl-C (or: kill {os.getpid()}) closes it and removes the segment."
    )
    server.process.wait()


if __name__ == "__main__":
    sys.exit(main())
