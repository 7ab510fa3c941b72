"""`python -m tests.conformance`: prometheus_client's own tests, unmodified, on our engine.

Two things are tested, each on the compiled cells and on the interpreted ones: the drop-in, by all that they test of
multiprocess mode, metrics and exposition; and our own classes in place of theirs, by what they test of metrics. Then
both again, on the compiled cells, with the oldest prometheus_client that we admit. The same tests run on
prometheus_client alone as well: what is skipped or fails there is not because of us.

Words given as arguments choose among the runs: `python -m tests.conformance 0.26 drop-in compiled`.

Exits with 0 when every test passed but those in left_out.py and differences.py, with 1 when not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from shm_metrics.native.implementation import COMPILED
from tests.conformance import upstream
from tests.conformance.differences import DIFFERENCES
from tests.conformance.judging import Outcomes, judge, judge_older
from tests.conformance.left_out import BY_CHANCE, LEFT_OUT
from tests.conformance.outcomes import FAILED, PASSED, SKIPPED

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(sys.prefix) / "conformance"
FILES = ("test_multiprocess.py", "test_core.py", "test_exposition.py", "test_asgi.py", "test_wsgi.py")
OWN_FILES = ("test_core.py",)
AT_ONCE = 2


@dataclass(frozen=True)
class Run:
    """One run of pytest on prometheus_client `version`. listed: the tests that are known not to pass."""

    version: str
    what: str
    plugin: str | None
    files: tuple[str, ...] = FILES
    listed: Collection[str] = ()
    interpreted: bool = False

    @property
    def title(self) -> str:
        cells = ", interpreted cells" if self.interpreted else ", compiled cells" if self.plugin else ""
        return f"prometheus_client {self.version}, {self.what}{cells}"


def runs() -> list[Run]:
    """What is to be run. Without a compiler only the interpreted half can be had; in CI that is a failure."""
    if not COMPILED:
        if os.environ.get("CI") == "true":
            raise SystemExit("the cells are not compiled, and CI must test them so")
        print("NO COMPILED CELLS: they are not tested")
    newest, oldest = upstream.installed_version(), upstream.OLDEST
    found = []
    for version, interpreted in ((newest, False), (newest, True), (oldest, False)):
        older = version == oldest != newest
        differ = [test for each in DIFFERENCES for test in (*each.tests, *(each.older if older else ()))]
        if COMPILED or interpreted:
            found += [
                Run(version, "the drop-in", "tests.conformance.drop_in", FILES, LEFT_OUT, interpreted),
                Run(version, "our own classes", "tests.conformance.own_classes", OWN_FILES, differ, interpreted),
            ]
    return [run for run in found if all(word in run.title for word in sys.argv[1:])]


def outcomes(run: Run, scratch: Path) -> Outcomes:
    """What became of each test."""
    tests, file = tests_of(run.version, scratch), scratch / f"{run.title}.json"
    library = upstream.library(CACHE, run.version)
    inherited = {k: v for k, v in os.environ.items() if not k.upper().startswith(("SHM_METRICS_", "PROMETHEUS_"))}
    command = [sys.executable, "-m", "pytest", "--quiet", "-c", os.devnull, "--rootdir", str(tests)]
    command += ["-p", "no:cacheprovider", "-p", "tests.conformance.outcomes", "--outcomes", str(file)]
    command += [*(("-p", run.plugin) if run.plugin else ()), "--timeout", "60", *run.files]
    done = subprocess.run(
        command,
        cwd=tests,
        env={
            **inherited,
            "PYTHONPATH": os.pathsep.join([*([str(library)] if library else []), str(ROOT)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "SHM_METRICS_INTERPRETED": str(int(run.interpreted)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if not file.exists():
        raise SystemExit(f"{run.title}: pytest ended with {done.returncode}\n{done.stdout}{done.stderr}")
    told = json.loads(file.read_text())
    if told["version"] != run.version:
        raise SystemExit(f"{run.title}: {told['version']} was tested")
    return {test: (outcome, reason) for test, (outcome, reason) in told["tests"].items()}


def tests_of(version: str, scratch: Path) -> Path:
    """Where the tests of that version are unpacked."""
    return scratch / f"their_tests-{version}"


def named(listed: Collection[str], files: Collection[str]) -> list[str]:
    """Those of the listed tests that are in these files."""
    return [test for test in listed if test.partition("::")[0] in files]


def main() -> int:
    wanted = runs()
    versions = sorted({run.version for run in wanted}, reverse=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    wrong = []
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(AT_ONCE) as pool:
        scratch = Path(name)
        for version in versions:
            upstream.library(CACHE, version)
            source = upstream.archive(CACHE, version)
            print(f"The tests of {source.name}, unmodified (sha256 {upstream.digest(source)})")
            upstream.unpack(source, tests_of(version, scratch))
        controls = [Run(version, "alone", None) for version in versions]
        told = list(pool.map(lambda run: outcomes(run, scratch), [*controls, *wanted]))
        alone, rest = dict(zip(versions, told, strict=False)), told[len(versions) :]
        for version in versions:
            changed = upstream.changed(upstream.archive(CACHE, version), tests_of(version, scratch))
            wrong += [f"{path} of {version}: no longer what was published" for path in changed]

    passed = 0
    print()
    for run, found in zip(wanted, rest, strict=True):
        control = alone[run.version]
        expected = {test: control[test] for test in named(control, run.files)}
        verdict = judge if run.version == upstream.installed_version() else judge_older
        here = verdict(found, expected, run.listed, named(BY_CHANCE, run.files))
        passes = sum(outcome == PASSED for outcome, _ in found.values())
        print(f"{run.title}: {passes} of {len(expected)} passed, {len(here)} failed")
        wrong += [f"{run.title}: {line}" for line in here]
        passed += passes

    if os.environ.get("CI") == "true":
        skipped = _reasons({upstream.installed_version(): alone.get(upstream.installed_version(), {})}, SKIPPED)
        wrong += [f"{test}: not run, and CI must test all: {reason}" for test, reason in skipped.items()]
    tell_the_lists(alone)
    for line in wrong:
        print(f"FAILED {line}")
    print(f"{passed} passed, {len(wrong)} failed")
    return 1 if wrong else 0


def tell_the_lists(alone: Mapping[str, Outcomes]) -> None:
    """What was not held to pass, and why. alone: version -> what became of its tests without us."""
    for title, tests in (
        (f"Left out of the drop-in's tests ({len(LEFT_OUT)}):", LEFT_OUT),
        ("Passed or not, which says nothing:", BY_CHANCE),
        ("Skipped by their own conditions, on prometheus_client alone too:", _reasons(alone, SKIPPED)),
        ("Failed on prometheus_client alone:", _reasons(alone, FAILED)),
    ):
        print(f"\n{title}")
        for test, reason in tests.items():
            print(f"  {test}\n      {reason}")
    print(f"\nWhat our own classes do otherwise ({sum(len(each.tests) for each in DIFFERENCES)} tests):")
    for each in DIFFERENCES:
        print(f"  {each.what}\n      {each.why}")
        for test in each.tests:
            print(f"      {test}")
        for test in each.older:
            print(f"      {test} ({upstream.OLDEST})")
    print()


def _reasons(alone: Mapping[str, Outcomes], wanted: str) -> dict[str, str]:
    return {
        f"{version} {test}": reason
        for version, found in alone.items()
        for test, (outcome, reason) in found.items()
        if outcome == wanted
    }


if __name__ == "__main__":
    sys.exit(main())
