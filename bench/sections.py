"""The measurements of a run, in order: which peers, in which places, in which rounds.

Every figure is taken in rounds, and within a round from one peer after the other (A B A B, never A A B B), so that
what disturbs the machine for a while disturbs all of them, and a ratio is taken within a round.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench.calls import CALLS
from bench.peers import DROP_IN, FLOOR, INTERPRETED, MULTIPROCESS, OURS, RUST, SINGLE
from bench.record import Record
from bench.subject import ROOT, Missing, Subject, SubjectError, subject

__all__ = ["FULL", "QUICK", "SECTIONS", "Plan"]


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    rounds: int
    call_seconds: float
    call_repeat: int
    scrape_rounds: int
    recycled: int
    recycled_of_peer: int
    rate_seconds: float
    import_rounds: int
    memory_rounds: int
    label_sets: int = 200
    untouched: int = 10_000


FULL = Plan(
    rounds=9,
    call_seconds=0.05,
    call_repeat=5,
    scrape_rounds=9,
    recycled=10_000,
    recycled_of_peer=1_000,
    rate_seconds=1.0,
    import_rounds=31,
    memory_rounds=5,
)
QUICK = Plan(
    rounds=5,
    call_seconds=0.01,
    call_repeat=3,
    scrape_rounds=3,
    recycled=1_000,
    recycled_of_peer=100,
    rate_seconds=0.4,
    import_rounds=9,
    memory_rounds=1,
)


@contextmanager
def _opened(record: Record, *peers: str) -> Iterator[dict[str, Subject]]:
    """The processes of those peers that can be had; who cannot is noted."""
    with ExitStack() as stack:
        subjects = {}
        for peer in peers:
            try:
                subjects[peer] = stack.enter_context(subject(peer))
            except Missing as why:
                record.missing[peer] = str(why)
            except SubjectError as error:
                record.error("start", peer, str(error))
        if OURS in subjects:
            record.builds[OURS] = subjects[OURS].about["compiled cells"]
        if INTERPRETED in subjects:
            record.builds[INTERPRETED] = subjects[INTERPRETED].about["compiled cells"]
        yield subjects


def calls(plan: Plan, record: Record) -> None:
    """The hot path."""
    with _opened(record, FLOOR, OURS, INTERPRETED, DROP_IN, SINGLE, MULTIPROCESS, RUST) as subjects:
        for _ in range(plan.rounds):
            for key in ("floor", "floor_no_arguments", *CALLS, "by_name", "event", "event_by_hand"):
                for peer, process in subjects.items():
                    if (peer == FLOOR) != key.startswith("floor"):
                        continue
                    if key in ("by_name", "event") and peer not in (OURS, INTERPRETED):
                        continue
                    record.ask(key, peer, process.call, key=key, seconds=plan.call_seconds, repeat=plan.call_repeat)


def first_use(plan: Plan, record: Record) -> None:
    """Label sets that nobody has used before."""
    with _opened(record, OURS, INTERPRETED, SINGLE, MULTIPROCESS) as subjects:
        for _ in range(plan.rounds):
            for type_ in ("Counter", "Histogram"):
                for peer, process in subjects.items():
                    record.ask(
                        f"first_{type_.lower()}", peer, process.first_use, type=type_, label_sets=plan.label_sets
                    )


def scrapes(plan: Plan, record: Record) -> None:
    """Two crowds of living workers, scraped from the process that forked them."""
    for figure, shape in (
        ("scrape_wide", {"workers": 8, "counters": 10_000, "histograms": 0}),
        ("scrape_mixed", {"workers": 32, "counters": 1_000, "histograms": 100}),
    ):
        with _opened(record, OURS, DROP_IN, MULTIPROCESS) as subjects:
            for peer, process in subjects.items():
                record.ask(f"{figure}_bytes", peer, process.crowd, **shape)
            for _ in range(plan.scrape_rounds):
                for peer, process in subjects.items():
                    record.ask(figure, peer, process.scrape, repeat=1 if peer == MULTIPROCESS else 5)
                if OURS in subjects:
                    whole = subjects[OURS].scrape
                    record.ask(f"{figure}_processes", OURS, whole, repeat=5, processes=True)


def recycled(plan: Plan, record: Record) -> None:
    """A crowd behind which thousands of workers have died, beside the same crowd with no past."""
    for peer, workers in ((OURS, plan.recycled), (MULTIPROCESS, plan.recycled_of_peer)):
        with _opened(record, peer) as old, _opened(record, peer) as young:
            twins = [(figure, of[peer]) for figure, of in (("recycled", old), ("unrecycled", young)) if of]
            for figure, process in twins:
                record.ask(f"{figure}_bytes", peer, process.crowd, workers=4, counters=1_000, histograms=100)
            for figure, process in twins:
                if figure == "recycled":
                    record.ask("", peer, process.recycle, workers=workers)
            for _ in range(plan.scrape_rounds * 3):
                for figure, process in twins:
                    record.ask(figure, peer, process.scrape, repeat=5 if peer == OURS else 1)


def rates(plan: Plan, record: Record) -> None:
    """Two processes on one segment beside one; both need a core of their own."""
    with _opened(record, OURS, MULTIPROCESS) as subjects:
        for _ in range(plan.rounds):
            for peer, process in subjects.items():
                for processes in (1, 2):
                    record.ask(f"rate_{processes}", peer, process.rate, processes=processes, seconds=plan.rate_seconds)


def imports(plan: Plan, record: Record) -> None:
    """Milliseconds inside a new interpreter's import statement; the first round fills the caches and is dropped.

    Ours names the classes: they are loaded when asked for, and `import shm_metrics` alone would load nothing.
    """
    code = "from time import perf_counter as now; start = now(); {}; print(now() - start)"
    statements = {
        OURS: "from shm_metrics import Counter, Gauge, Histogram, MetricsBackend",
        SINGLE: "import prometheus_client",
        "numpy": "import numpy",
    }
    # Installed packages have their bytecode; a tree must be let to keep it too.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for round_ in range(plan.import_rounds + 1):
        for peer, statement in statements.items():
            done = subprocess.run(
                [sys.executable, "-c", code.format(statement)],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                record.error("import", peer, done.stderr)
            elif round_:
                record.add("import", peer, float(done.stdout) * 1e3)


def memory(plan: Plan, record: Record) -> None:
    """What a worker pays for series that others made: its private bytes beside them, less those beside one series."""
    for peer in (OURS, MULTIPROCESS):
        for _ in range(plan.memory_rounds):
            with _opened(record, peer) as hosts:
                for host in hosts.values():
                    bytes_ = {}
                    for series in (1, plan.untouched):
                        record.ask("", peer, host.series, count=series)
                        bytes_["forked", series] = record.ask("", peer, host.private_bytes_of_forked)
                        with subject(peer, beside=host) as guest:
                            bytes_["joined", series] = record.ask("", peer, guest.private_bytes)
                    for how in ("forked", "joined"):
                        few, many = bytes_[how, 1], bytes_[how, plan.untouched]
                        if few is not None and many is not None:
                            record.add(f"memory_{how}", peer, (many - few) / 1024)


SECTIONS: Sequence[Callable[[Plan, Record], None]] = (calls, first_use, scrapes, recycled, rates, imports, memory)
