"""`dump`: a segment's metrics on standard output, once."""

from __future__ import annotations

import argparse
import sys

from shm_metrics.cli.target import add_target, read_target
from shm_metrics.exposition import FORMATS

__all__ = ["HELP", "add_arguments", "run"]

HELP = "print the metrics of a segment, of a dead application too"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser)
    parser.add_argument("--format", choices=sorted(FORMATS), default="text", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    backend = read_target(arguments)
    if sys.stdout is None:
        raise OSError("standard output is closed")
    body = FORMATS[arguments.format].render(backend.collect())
    # Not sys.stdout.buffer: under PYTHONUNBUFFERED that may write a part and not say so.
    with open(sys.stdout.fileno(), "wb", closefd=False) as out:
        out.write(body if body.endswith(b"\n") else body + b"\n")
    backend.close()
    return 0
