"""docs/cluster.md says of options and of the lease what the code says, and its code runs."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from textwrap import dedent

import pytest

from shm_metrics import SyncConfig, environment
from shm_metrics.cluster.lease import TRANSITIONS

TEXT = (Path(__file__).parents[3] / "docs" / "cluster.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the table whose heading begins so."""
    after = TEXT.split(f"\n| {heading} |")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in after.splitlines()[2:]]


def seconds(told: str) -> float:
    number, _, unit = told.partition(" ")
    return float(number) * {"s": 1, "days": 86_400}[unit]


def test_each_option_stands_there_with_its_variable_and_default():
    said = {re.findall("`(.*?)`", row[1])[0]: row for row in rows("variable")}
    assert said.pop("cache=")[0] == f"`{environment.CACHE_VARIABLE}`"
    assert set(said) == {field.name for field in fields(SyncConfig)} == set(environment._FIELDS)
    for field in fields(SyncConfig):
        variable, default = said[field.name][0].strip("`"), said[field.name][2].strip("`")
        assert variable == environment._FIELDS[field.name][0]
        if isinstance(field.default, float):
            assert seconds(default) == field.default
        else:
            assert default == (field.default or "none")


def test_the_states_of_the_lease_are_those_of_the_code():
    said = {(state, event): following for state, event, following, _ in rows("state")}
    assert said.pop(("any", "CLOSE")) == "CLOSED"
    known = {(state, event): after for state, events in TRANSITIONS.items() for event, after in events.items()}
    assert said == {key: after for key, after in known.items() if key[1] != "CLOSE"}


EXAMPLES = [dedent(block) for block in re.findall(r"^ *```python\n((?s:.*?))^ *```", TEXT, re.MULTILINE)]
HOOKS, IN_CODE, WITHOUT_GUNICORN, READER = EXAMPLES

COUNTED = """
from shm_metrics import Counter, get_backend
Counter("http_requests", "", ["path"]).labels("/a").inc(3)
print(get_backend().sync_to_cache()["success"], get_backend().syncing)
"""
SHOWN = """
print(totals["metrics"]['http_requests_total{path="/a"}']["value"], totals["distributed"])
print(totals["stale_instances"], totals["conflicts"], totals["damaged"])
"""
SERVED = """
import time, urllib.request
deadline = time.monotonic() + 30
while backend.sync_agent.endpoint.port is None and time.monotonic() < deadline:
    time.sleep(0.01)
url = f"http://127.0.0.1:{backend.sync_agent.endpoint.port}/cluster/metrics"
print('cluster:http_requests_total{path="/a"} 3.0' in urllib.request.urlopen(url).read().decode())
backend.unlink()
"""


@pytest.mark.slow
def test_the_examples_run_and_one_reads_what_another_has_published(own_server, segment_name, python):
    cache = own_server("valkey").url
    counting = WITHOUT_GUNICORN.replace("memcached://10.0.0.1:11211,10.0.0.2:11211", cache)
    reading = READER.replace("redis://cache.internal/0", cache).replace("9465", "0").replace("signal.pause()\n", SERVED)
    assert cache in counting
    assert cache in reading
    assert SERVED in reading
    counting = counting.replace('"shop"', repr(segment_name))
    assert python(counting + COUNTED + IN_CODE + SHOWN).splitlines() == ["True True", "3.0 True", "[] [] {}"]
    assert python(reading.replace('"reader"', repr(f"{segment_name}-reader"))) == "True\n"
