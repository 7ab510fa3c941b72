"""The examples of docs/events.md run, and print what they say they print.

The blocks of one section are one program; what follows a `print(...)  # ` is what it prints.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shm_metrics.events import DEFAULT_RULES
from shm_metrics.exporters import exporters
from tests.system.jobs.conftest import required

pytestmark = pytest.mark.slow

TEXT = (Path(__file__).parents[3] / "docs" / "events.md").read_text()
SECTIONS = {
    title: "\n".join(blocks)
    for title, body in re.findall(r"^#+ (.*)\n((?s:.*?))(?=^## |\Z)", TEXT, re.MULTILINE)
    if (blocks := re.findall(r"^```python\n((?s:.*?))^```", body, re.MULTILINE))
}
NEEDS = {"Flask, and any blinker signal": "flask", "Django": "django", "Celery": "celery"}


def test_all_examples_are_found():
    assert len(SECTIONS) == 8
    assert set(NEEDS) <= set(SECTIONS)
    assert sum(code.count("  # ") for code in SECTIONS.values()) > 10


@pytest.mark.parametrize("title", SECTIONS)
def test_an_example_prints_what_it_says(title, python, segment_name):
    if title in NEEDS:
        required(NEEDS[title])
    if "otlp" in SECTIONS[title]:
        required("opentelemetry.proto")
    # Where the examples send to may be there on this machine; so they send to where surely nobody listens.
    code = SECTIONS[title].replace("events-example", segment_name)
    for told, nobody in {":9091": ":1", ":4318": ":1", "/run/datadog/": "/missing/"}.items():
        code = code.replace(told, nobody)
    expected = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert expected
    assert python(code, SHM_METRICS_SEGMENT=segment_name).splitlines() == expected


def test_the_table_names_every_default_rule_and_metric():
    table = TEXT.partition("| event | effect |")[2].partition("\n\n")[0]
    for rule in DEFAULT_RULES:
        (row,) = [line for line in table.splitlines() if line.startswith(f"| `{rule.pattern}` |")]
        for effect in rule.effects:
            assert f"`{effect.metric}`" in row or "the same histogram" in row
            assert all(f"`{field}`" in row for field in effect.fields) or "the same histogram" in row


def test_every_exporter_has_its_line():
    for name in exporters():
        assert f'"{name}"' in SECTIONS["Where the metrics go"]
