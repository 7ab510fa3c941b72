"""The command line: `python -m shm_metrics COMMAND`, or `shm-metrics COMMAND`.

Lives here: the parser, and what every failure looks like. May not: know what a command does; each is a module with a
`HELP` line, `add_arguments(parser)` and `run(arguments)`, which gives the exit status.

Exit status: 0 done; 1 it could not be done; 2 there is nothing by that name, or the command line makes no sense; 130
Ctrl-C came first.
"""

from __future__ import annotations

import argparse
import io
import platform
import sys
from collections.abc import Sequence

from shm_metrics import __version__
from shm_metrics.cli import dump, push, serve
from shm_metrics.errors import InvalidMetricError, MetricsError
from shm_metrics.native.implementation import COMPILED

__all__ = ["main"]

COMMANDS = {"dump": dump, "push": push, "serve": serve}

FAILED = 1
NOTHING_THERE = 2
INTERRUPTED = 130  # as a shell says it of SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status. arguments: those of sys.argv if left out."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # paths are printed in any locale, as on standard error
    asked = _parser().parse_args(arguments)
    try:
        status: int = asked.run(asked)
    except BrokenPipeError:
        return FAILED  # the reader of our output (`| head`) has closed it
    except KeyboardInterrupt:
        return INTERRUPTED
    except (FileNotFoundError, InvalidMetricError) as error:
        return _failed(error, NOTHING_THERE)
    except (MetricsError, OSError) as error:
        return _failed(error, FAILED)
    return status


def _failed(error: Exception, status: int) -> int:
    print(f"shm_metrics: {error}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shm-metrics",
        description="Look into metrics segments, serve and send them.",
        epilog=(
            "Exit status: 0 done; 1 it could not be done; 2 an invalid command line, or no such segment (serve waits "
            "for it instead)."
        ),
    )
    cells = "compiled" if COMPILED else "interpreted"
    version = f"shm_metrics {__version__}, {cells} cells, Python {platform.python_version()}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
