"""docs/differences.md tells users of every test of prometheus_client that does not pass, and of no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conformance.differences import DIFFERENCES
from tests.conformance.left_out import BY_CHANCE, LEFT_OUT

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "differences.md"
SECTIONS = {
    "The drop-in": [*LEFT_OUT, *BY_CHANCE],
    "Our own classes": [test for each in DIFFERENCES for test in (*each.tests, *each.older)],
}


def named(section: str) -> list[str]:
    """The tests that a section of the document names."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    return re.findall(r"`(\w+::test_\w+)`", text)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_document_names_the_tests_that_do_not_pass(section):
    assert sorted(named(section)) == sorted(test.partition("::")[2] for test in SECTIONS[section])


def test_no_test_is_listed_twice():
    for listed in SECTIONS.values():
        assert len(set(listed)) == len(listed)
