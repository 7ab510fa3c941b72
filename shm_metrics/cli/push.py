"""`push`: a segment's metrics to a receiver, once: at the end of a job, or from cron."""

from __future__ import annotations

import argparse
import json
from typing import Any

from shm_metrics.cli.target import add_target, read_target
from shm_metrics.errors import InvalidMetricError
from shm_metrics.exporters import exporter
from shm_metrics.exposition import FORMATS

__all__ = ["HELP", "add_arguments", "run"]

HELP = "send the metrics of a segment to a receiver, once"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser)
    parser.add_argument(
        "--to", required=True, metavar="EXPORTER", help="pushgateway, statsd, otlp, or another that is installed"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the exporter, see docs/exporters.md; url=http://127.0.0.1:9091, port=8125, grouping.instance=a",
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.to in FORMATS:
        raise InvalidMetricError(f"--to {arguments.to}: that is a document, which is sent nowhere; dump prints it")
    sending = exporter(arguments.to, **_options(arguments.option))
    backend = read_target(arguments)
    sent = sending.export(backend)
    backend.close()
    print(f"{arguments.to}: {len(sent)} bytes of {backend.place.path}")
    return 0


def _options(words: list[str]) -> dict[str, Any]:
    """`a=1` and `b.c=x` as {"a": 1, "b": {"c": "x"}}: a value is JSON where it can be, else text."""
    options: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise InvalidMetricError(f"--option {word!r}: give NAME=VALUE")
        outer, dot, inner = name.partition(".")
        if dot:
            options.setdefault(outer, {})[inner] = value
            continue
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options
