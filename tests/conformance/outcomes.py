"""A pytest plugin that writes down what became of each test: `--outcomes FILE`, a JSON object.

version    of the prometheus_client that was tested
tests      node id -> [outcome, reason]
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

PASSED, SKIPPED, FAILED = "passed", "skipped", "failed"
_WORSE = (PASSED, SKIPPED, FAILED)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", required=True, type=Path, help="where to write what became of each test")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder(config.getoption("--outcomes")), "conformance-recorder")


class Recorder:
    """Keeps the worst of what is reported of a test: it has passed when nothing about it has failed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._outcomes: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._keep(report.nodeid, report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome != PASSED:  # a module that could not be imported, or that skips itself
            self._keep(report.nodeid, report)

    def pytest_sessionfinish(self) -> None:
        self._file.write_text(json.dumps({"version": version("prometheus_client"), "tests": self._outcomes}))

    def _keep(self, nodeid: str, report: Any) -> None:
        before, _ = self._outcomes.get(nodeid, (PASSED, ""))
        if nodeid not in self._outcomes or _WORSE.index(report.outcome) > _WORSE.index(before):
            self._outcomes[nodeid] = (report.outcome, _reason(report))


def _reason(report: Any) -> str:
    """One line: why it was skipped, or the error."""
    if report.outcome == SKIPPED and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    told = crash.message if crash is not None else str(report.longrepr or "")
    return next(iter(told.strip().splitlines()), "")
