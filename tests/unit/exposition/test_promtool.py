"""The real promtool reads what we write."""

from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from prometheus_client.core import GaugeHistogramMetricFamily, InfoMetricFamily

from shm_metrics.exposition import render_text
from shm_metrics.model.families import GAUGE, STATESET, SUMMARY, Family, FamilySnapshot, SeriesLabels
from tests.support.families import counter, histogram, pages

PROMTOOL = shutil.which("promtool")

pytestmark = pytest.mark.skipif(
    PROMTOOL is None and not os.environ.get("CI"),
    reason="promtool is not installed (Debian: apt-get install prometheus)",
)

UNREADABLE = 1
"""promtool's exit status for text that it cannot parse; 3 is for advice on names and help."""


def check(text: bytes) -> subprocess.CompletedProcess[bytes]:
    assert PROMTOOL is not None, "CI needs promtool: install Debian's prometheus"
    return subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)


def test_promtool_has_nothing_to_say_about_a_page_of_all_types():
    one = SeriesLabels([(("name", 'a "quoted"\\ value\nof two lines, \U0001f600'),)])
    page = [
        counter(values=[0, 1.5, 1e6, 1e21]),
        FamilySnapshot(Family("temperature_celsius", GAUGE, "Help with \\ and\nnew line."), one, np.array([np.nan])),
        histogram(),
        FamilySnapshot(Family("size_bytes", SUMMARY, "Sizes."), one, np.array([3.0]), np.array([-np.inf])),
        FamilySnapshot(Family("mode", STATESET, "Mode.", states=("on", "off")), one, np.zeros(1)),
        InfoMetricFamily("build", "Build.", value={"version": "1.0"}),
        GaugeHistogramMetricFamily("queue_seconds", "Ages.", buckets=[("1.0", 1), ("+Inf", 2)], gsum_value=3),
    ]
    result = check(render_text(page))
    assert (result.returncode, result.stdout + result.stderr) == (0, b"")


@settings(max_examples=settings.default.max_examples // 4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pages())
def test_promtool_can_read_every_page(page):
    result = check(render_text(page))
    assert result.returncode != UNREADABLE, result.stderr


def test_promtool_reads_a_page_whose_families_were_merged():
    result = check(render_text([counter(), counter(values=[1.0, 2.0]), histogram(), histogram()]))
    assert (result.returncode, result.stdout + result.stderr) == (0, b"")


def test_promtool_does_notice_a_broken_page():
    assert check(render_text([counter()]) * 2).returncode == UNREADABLE
