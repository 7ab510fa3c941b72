"""`python -m tests.conformance`: prometheus_client's own tests, unmodified, on our engine.

Two things are tested, each on the compiled cells and on the interpreted ones: the drop-in, by all that they test of
multiprocess mode, metrics and exposition; and our own classes in place of theirs, by what they test of metrics. The
same tests run on prometheus_client alone as well: what is skipped or fails there is not because of us. Words given as
arguments choose among the runs: `python -m tests.conformance drop-in compiled`.

Exits with 0 when every test passed but those in left_out.py and differences.py, with 1 when not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from shm_metrics.cells import COMPILED
from tests.conformance import upstream
from tests.conformance.differences import DIFFERENCES
from tests.conformance.judging import Outcomes, judge
from tests.conformance.left_out import BY_CHANCE, LEFT_OUT
from tests.conformance.outcomes import PASSED, SKIPPED

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = ("test_multiprocess.py", "test_core.py", "test_exposition.py", "test_asgi.py", "test_wsgi.py")
OWN_FILES = ("test_core.py",)
AT_ONCE = 2


@dataclass(frozen=True)
class Run:
    """One run of pytest. listed: the tests that are known not to pass."""

    title: str
    plugin: str | None
    files: tuple[str, ...]
    listed: Collection[str]
    interpreted: bool = False


CONTROL = Run("prometheus_client alone", None, FILES, ())


def runs() -> list[Run]:
    """What is to be run. Without a compiler only the interpreted half can be had; in CI that is a failure."""
    if not COMPILED:
        if os.environ.get("CI") == "true":
            raise SystemExit("the cells are not compiled, and CI must test them so")
        print("NO COMPILED CELLS: they are not tested")
    differ = [test for difference in DIFFERENCES for test in difference.tests]
    return [
        Run(f"{what}, {'interpreted' if interpreted else 'compiled'} cells", plugin, files, listed, interpreted)
        for what, plugin, files, listed in (
            ("the drop-in", "tests.conformance.drop_in", FILES, LEFT_OUT),
            ("our own classes", "tests.conformance.own_classes", OWN_FILES, differ),
        )
        for interpreted in ((False, True) if COMPILED else (True,))
    ]


def outcomes(run: Run, directory: Path) -> Outcomes:
    """What became of each test."""
    file = directory.parent / f"{run.title}.json"
    inherited = {k: v for k, v in os.environ.items() if not k.upper().startswith(("SHM_METRICS_", "PROMETHEUS_"))}
    command = [sys.executable, "-m", "pytest", "--quiet", "-c", os.devnull, "--rootdir", str(directory)]
    command += ["-p", "no:cacheprovider", "-p", "tests.conformance.outcomes", "--outcomes", str(file)]
    command += [*(("-p", run.plugin) if run.plugin else ()), "--timeout", "60", *run.files]
    done = subprocess.run(
        command,
        cwd=directory,
        env={
            **inherited,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "SHM_METRICS_INTERPRETED": str(int(run.interpreted)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if not file.exists():
        raise SystemExit(f"{run.title}: pytest ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return {test: (outcome, reason) for test, (outcome, reason) in json.loads(file.read_text()).items()}


def named(listed: Collection[str], files: Collection[str]) -> list[str]:
    """Those of the listed tests that are in these files."""
    return [test for test in listed if test.partition("::")[0] in files]


def main() -> int:
    source = upstream.archive(Path(sys.prefix) / "conformance")
    print(f"The tests of {source.name}, unmodified (sha256 {upstream.digest(source)})\n")
    wanted = [run for run in runs() if all(word in run.title for word in sys.argv[1:])]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(AT_ONCE) as pool:
        directory = Path(scratch) / "their_tests"
        upstream.unpack(source, directory)
        control, *rest = pool.map(lambda run: outcomes(run, directory), [CONTROL, *wanted])
        wrong = [f"{path}: no longer what was published" for path in upstream.changed(source, directory)]

    passed = 0
    for run, found in zip(wanted, rest, strict=True):
        expected = {test: control[test] for test in named(control, run.files)}
        here = judge(found, expected, run.listed, named(BY_CHANCE, run.files))
        passes = sum(outcome == PASSED for outcome, _ in found.values())
        print(f"{run.title}: {passes} of {len(expected)} passed, {len(run.listed)} listed below, {len(here)} failed")
        wrong += [f"{run.title}: {line}" for line in here]
        passed += passes

    tell_the_lists(control)
    for line in wrong:
        print(f"FAILED {line}")
    print(f"{passed} passed, {len(wrong)} failed")
    return 1 if wrong else 0


def tell_the_lists(control: Outcomes) -> None:
    """What was not held to pass, and why."""
    skipped = {test: reason for test, (outcome, reason) in control.items() if outcome == SKIPPED}
    for title, tests in (
        (f"Left out of the drop-in's tests ({len(LEFT_OUT)}):", LEFT_OUT),
        ("Passed or not, which says nothing:", BY_CHANCE),
        ("Skipped by their own conditions, on prometheus_client alone too:", skipped),
    ):
        print(f"\n{title}")
        for test, reason in tests.items():
            print(f"  {test}\n      {reason}")
    print(f"\nWhat our own classes do otherwise ({sum(len(each.tests) for each in DIFFERENCES)} tests):")
    for each in DIFFERENCES:
        print(f"  {each.what}\n      {each.why}")
        for test in each.tests:
            print(f"      {test}")
    print()


if __name__ == "__main__":
    sys.exit(main())
