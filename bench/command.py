"""A benchmark as a command: its arguments, what stands above its table, and its results as a file."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any, Generic, TypeVar

from bench.machine import describe, versions

__all__ = ["Command"]

Section = TypeVar("Section", bound=Callable[..., Any])


class Command(Generic[Section]):
    """arguments: of the command line, sys.argv's if None. packages: to name the versions of, beside the usual ones."""

    def __init__(
        self,
        module: str,
        description: str,
        quick: str,
        sections: Sequence[Section],
        arguments: list[str] | None,
        packages: tuple[str, ...] = (),
    ) -> None:
        parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
        parser.add_argument("--quick", action="store_true", help=quick)
        parser.add_argument("--json", metavar="FILE", help="write the raw results, the machine and the versions there")
        names = [section.__name__ for section in sections]
        parser.add_argument("--only", choices=names, action="append", help="this part alone (may be said again)")
        options = parser.parse_args(arguments)
        self.quick: bool = options.quick
        self.partial: bool = bool(options.only)
        self._chosen = [section for section in sections if not options.only or section.__name__ in options.only]
        self._file: str | None = options.json
        self._called = ["python", "-m", module, *(sys.argv[1:] if arguments is None else arguments)]
        self._machine, self._versions = describe(), versions(*packages)
        self._seconds = 0.0

    def sections(self) -> Iterator[Section]:
        """Those to run, each announced when it is its turn."""
        begun = time.monotonic()
        for section in self._chosen:
            print(f"[{time.monotonic() - begun:4.0f} s] {section.__name__.replace('_', ' ')}", file=sys.stderr)
            yield section
        self._seconds = time.monotonic() - begun

    def heading(self) -> str:
        """On what, with what, and for how long it was measured."""
        machine = self._machine
        return (
            f"\n{machine['processor']}, {machine['cores']} cores, {machine['python']}, Linux {machine['kernel']}\n"
            + ", ".join(f"{package} {version}" for package, version in self._versions.items())
            + f"\n{'quick' if self.quick else 'full'} run of {self._seconds:.0f} s, "
            + f"load at its start {machine['load_at_start']:.1f}\n"
        )

    def write(self, plan: Any, **results: Any) -> None:
        """The file that was asked for, if one was. plan: a dataclass."""
        if self._file is None:
            return
        document = {
            "command": self._called,
            "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(self._seconds, 1),
            "machine": self._machine,
            "versions": self._versions,
            "plan": asdict(plan),
            **results,
        }
        with open(self._file, "w") as file:
            json.dump(document, file, indent=1)
            file.write("\n")
