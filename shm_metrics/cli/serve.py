"""`serve`: the exporter process."""

from __future__ import annotations

import argparse
import logging
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from shm_metrics import serving
from shm_metrics.cli.target import add_target, others_there, target
from shm_metrics.errors import SegmentError
from shm_metrics.scrape.observer import SegmentObserver
from shm_metrics.segment.layout import DEFAULT_ROWS, DEFAULT_SLOTS, Layout
from shm_metrics.serving.httpd import MAX_PORT

__all__ = ["HELP", "add_arguments", "run"]

HELP = (
    "answer Prometheus for a segment, and keep its totals while no worker lives; a segment that does not exist is "
    "waited for, and scrapes get 503 meanwhile"
)

PORT = 9464
LOOK_SECONDS = 0.25
ENDING = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger("shm_metrics.serve")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    parser.add_argument("--port", type=_port, default=PORT, help="default: %(default)s; 0 takes a free one")
    parser.add_argument(
        "--create",
        action="store_true",
        help="make the segment if there is none, so that even a job that ends before the first scrape is counted",
    )
    parser.add_argument("--rows", type=int, default=DEFAULT_ROWS, help="with --create: workers at once (%(default)s)")
    parser.add_argument("--slots", type=int, default=DEFAULT_SLOTS, help="with --create: numbers to keep (%(default)s)")


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > MAX_PORT:  # a greater one would be taken modulo 65,536
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from 0 to {MAX_PORT}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    exporter = SegmentObserver(
        target(arguments),
        create=Layout(arguments.rows, arguments.slots) if arguments.create else None,
        process_metrics=not arguments.no_process_metrics,
        per_worker=arguments.per_worker,
    )
    with _stop_signal() as stop:
        try:
            server, thread = serving.start_http_server(arguments.port, arguments.host, source=exporter)
        except OSError as error:
            raise OSError(f"cannot listen on {arguments.host} port {arguments.port}: {error.strerror}") from error
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        print(f"serving {exporter.place.path} at http://{host}:{server.server_port}/metrics", flush=True)
        try:
            _watch_until_stopped(exporter, stop)
        finally:
            server.shutdown()
            thread.join()
            exporter.close()
    return 0


def _watch_until_stopped(exporter: SegmentObserver, stop: socket.socket) -> None:
    """Attach to the current segment and log changes of it, until `stop` is readable."""
    before = ""
    while True:
        try:
            now = f"present at {exporter.place.path}, incarnation {exporter.attach()}"
        except (FileNotFoundError, SegmentError) as error:
            now = f"waiting: {error}"
        if now != before:
            # Names are per user: a command that another user started would wait for ever.
            log.info("%s%s", now, others_there(exporter.place) if now.startswith("waiting") else "")
        before = now
        if select.select([stop], [], [], LOOK_SECONDS)[0]:
            return


@contextmanager
def _stop_signal() -> Iterator[socket.socket]:
    """Yield a socket that becomes readable on SIGTERM or SIGINT, without interrupting anything.

    Not a mask and sigwait: a thread of numpy would receive the signal and die of it.
    """
    stop, sender = socket.socketpair()
    with stop, sender:
        sender.setblocking(False)
        before = [(number, signal.signal(number, lambda *_: None)) for number in ENDING]
        signal.set_wakeup_fd(sender.fileno())
        try:
            yield stop
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before:
                signal.signal(number, handler)
