"""Segments that released versions wrote: opened, shown and counted on by this one."""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shm_metrics import Counter, MetricsBackend
from shm_metrics.segment import layout as L
from shm_metrics.segment.layout import parse_header

GOLDEN = Path(__file__).parent / "golden"
OPENED = [f"segment-{L.VERSION}"]
"""The formats that this version opens. Of others it says so: test_segment.py."""


def golden_page(path: Path) -> str:
    spec = importlib.util.spec_from_file_location("golden_write", GOLDEN / "write.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.page(str(path)))


@pytest.fixture(params=OPENED)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A copy of the segment, and the page that the version that wrote it showed."""
    path = tmp_path / "segment"
    path.write_bytes(gzip.decompress((GOLDEN / f"{request.param}.gz").read_bytes()))
    return path, (GOLDEN / f"{request.param}.txt").read_text()


def test_the_format_of_this_version_has_a_golden_segment() -> None:
    assert (GOLDEN / f"segment-{L.VERSION}.gz").exists(), (
        "run tests/unit/segment/golden/write.py and commit what it writes"
    )


def test_a_golden_segment_shows_the_same_page(golden: tuple[Path, str]) -> None:
    path, page = golden
    assert golden_page(path) == page


def test_a_golden_segment_of_another_boot_shows_the_same_page(golden: tuple[Path, str]) -> None:
    path, page = golden
    data = bytearray(path.read_bytes())
    header = replace(parse_header(bytes(data), len(data), "golden"), boot_id=b"another boot id!").pack()
    data[: len(header)] = header
    path.write_bytes(data)
    assert golden_page(path) == page


def test_a_golden_segment_is_counted_on(golden: tuple[Path, str]) -> None:
    path, _ = golden
    backend = MetricsBackend(path=str(path), keep=True, process_metrics=False)
    jobs = Counter("jobs", "Jobs done.", ["shop"], registry=backend)
    jobs.labels("a").inc(3)
    jobs.labels("new").inc()
    backend.histogram("seconds", "Seconds a job takes.", buckets=[1, 2], shop="a").observe(0.5)
    backend.gauge("g_shared").inc(2)
    snapshot = backend.snapshot()
    assert [snapshot.value("jobs_total", shop=shop) for shop in ("a", "ü", "new")] == [5.0, 0.5, 1.0]
    assert snapshot.value("g_shared") == 7.0
    family = snapshot.family("seconds")
    assert family is not None
    assert family.sums is not None
    assert (float(family.values.sum()), family.sums.tolist()) == (4.0, [101.5])
    backend.close()
