"""`python -m bench.compare [--quick] [--json FILE]`: us and the peers in one run, as one table.

Exit status: 0 whether or not the targets are met, since a busy machine must not fail a build; 1 if a
measurement could not be made.
"""

from __future__ import annotations

import sys
from dataclasses import asdict

from bench.command import Command
from bench.peers import INTERPRETED, MULTIPROCESS, OURS, RUST
from bench.record import Record
from bench.sections import FULL, QUICK, SECTIONS, Plan
from bench.table import render
from bench.targets import judge, rows

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write the raw results where asked to."""
    description = "Us and the peers in one run, as one table."
    command = Command(
        "bench.compare", description, "fewer and shorter rounds; ends within a minute", SECTIONS, arguments
    )
    plan = QUICK if command.quick else FULL
    record = Record()
    for section in command.sections():
        section(plan, record)
    _require(record)

    table = [row for row in rows(plan) if not command.partial or judge(row, record).value is not None]
    print(command.heading())
    print(render(table, record))
    for note in _notes(record, plan):
        print(note)
    command.write(
        plan,
        compiled_cells=record.builds,
        targets=[asdict(row) | asdict(judge(row, record)) for row in table],
        missing=record.missing,
        errors=record.errors,
        rounds=record.rounds,
    )
    return 1 if record.errors else 0


def _require(record: Record) -> None:
    """A peer that only some interpreters have may be missing; anything else, or the wrong build of ours, may not."""
    for peer, why in record.missing.items():
        if peer != RUST:
            record.error("start", peer, why)
    for peer, wanted in ((OURS, True), (INTERPRETED, False)):
        if record.builds.get(peer, wanted) is not wanted:
            record.error("start", peer, f"the cells are {'interpreted' if wanted else 'compiled'}")


def _notes(record: Record, plan: Plan) -> list[str]:
    """What a reader must know beside the table."""
    notes = ["", "Medians over the rounds; a ratio is the median of the ratios within a round."]
    no_arguments = record.typical("floor_no_arguments", "C no-op")
    if no_arguments is not None:
        notes.append(
            f"The C no-op takes an optional argument, as inc() does; one that takes none: {no_arguments:.1f} ns a call."
        )
    old, young = record.typical("recycled", MULTIPROCESS), record.typical("unrecycled", MULTIPROCESS)
    if old is not None and young is not None:
        notes.append(
            f"client mp after {plan.recycled_of_peer:,} recycled workers (not {plan.recycled:,}): "
            f"{old:,.0f} ms a scrape, {old / young:.1f}x what it is with none."
        )
    numpy = record.typical("import", "numpy")
    if numpy is not None:
        notes.append(f"import numpy, which shm_metrics loads at the first scrape and not before: {numpy:.0f} ms.")
    for figure, workers in (("scrape_wide", 8), ("scrape_mixed", 32)):
        whole = record.typical(f"{figure}_processes", OURS)
        if whole is not None:
            notes.append(
                f"The scrape of {workers} workers with their process metrics, which the peer lacks: {whole:.2f} ms."
            )
    notes += [f"Not measured: {peer}: {why}" for peer, why in record.missing.items()]
    if RUST not in record.missing and record.typical("inc", RUST) is not None:
        notes.append("promrs counts in one process only; nothing can be scraped from its workers.")
    notes += [f"FAILED: {error}" for error in record.errors]
    return notes


if __name__ == "__main__":
    sys.exit(main())
