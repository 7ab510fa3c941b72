"""A real Prometheus scrapes the demo's shop, and answers what was sent."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.killer import Killer
from demo.load import get, run_clients
from demo.scrape import Scrape
from demo.server import Gunicorn
from tests.support.running import ROOT
from tests.support.waiting import PATIENCE_SECONDS, until

pytestmark = pytest.mark.slow

CONFIG = """
global:
  scrape_interval: 500ms
  scrape_timeout: 500ms
scrape_configs:
  - job_name: shop
    static_configs:
      - targets: ["127.0.0.1:{port}"]
"""
REQUESTS = 1800
CLIENTS = 4
WINDOW_SECONDS = 120
PAGES = ("/", "/search", "/order", "/search", "/")
MAX_REQUESTS = 250
COUNTERS = (
    "shop_requests_total",
    "shop_request_seconds_bucket",
    "shop_request_seconds_sum",
    "process_cpu_seconds_total",
)


def program(name: str) -> str:
    """Where a program of Prometheus is. Without it the test is skipped, in CI it fails."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed (Debian: apt-get install prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must test against the real one: {reason}")
        pytest.skip(reason)
    return found


class Prometheus:
    """A Prometheus that scrapes one port of this machine. flags: more of its command line."""

    def __init__(self, directory: Path, scraped_port: int, *flags: str) -> None:
        self.log = directory / "prometheus.log"
        config = directory / "prometheus.yml"
        config.write_text(CONFIG.format(port=scraped_port))
        command = [
            program("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'data'}",
            *flags,
        ]
        # It cannot be given a socket: a port that is free now may be taken by another test in the next moment.
        for _ in range(5):
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(
                    [*command, f"--web.listen-address=127.0.0.1:{self.port}"], stdout=log, stderr=log
                )
            until(lambda: self.process.poll() is not None or self.ready(), "prometheus is ready")
            if self.process.poll() is None:
                return
        pytest.fail(self.log.read_text())

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=PATIENCE_SECONDS):
                return True
        except (urllib.error.URLError, ConnectionError):
            return False

    def query(self, expression: str) -> list[dict[str, object]]:
        """The result vector of an instant query."""
        return self.ask("query", query=expression)["result"]

    def ask(self, what: str, **parameters: object) -> Any:
        """The data of any answer of its API."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def number(self, expression: str) -> float | None:
        """The only value of an instant query; None while there is none."""
        result = self.query(expression)
        assert len(result) <= 1, result
        return float(result[0]["value"][1]) if result else None

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def shop(segment_name: str, tmp_path: Path, environ: dict[str, str]) -> Iterator[Gunicorn]:
    told = {**environ, "DEMO_WORKERS": "4", "DEMO_MAX_REQUESTS": str(MAX_REQUESTS)}
    with Gunicorn("demo.app:app", segment_name, tmp_path, environ=told) as server:
        yield server


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[..., Prometheus]]:
    running: list[Prometheus] = []

    def start(scraped_port: int, *flags: str) -> Prometheus:
        running.append(Prometheus(tmp_path, scraped_port, *flags))
        return running[-1]

    yield start
    for each in running:
        each.close()


def quantile(q: float, scrape: Scrape, page: str) -> float:
    """histogram_quantile() as Prometheus documents it: linear within the bucket in which the rank falls."""
    bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1]
    counts = [scrape.value(f'shop_request_seconds_bucket{{le="{bound!r}",page="{page}"}}') for bound in bounds]
    rank = q * scrape.value(f'shop_request_seconds_bucket{{le="+Inf",page="{page}"}}')
    low, below = 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=True):
        if count >= rank:
            return low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, count
    return bounds[-1]


def test_prometheus_answers_what_was_sent(shop, prometheus):
    for page in set(PAGES):
        get(shop.port, page)  # so that each series has a sample from before the load
    server = prometheus(shop.port)
    until(lambda: server.number("sum(shop_requests_total)") == len(set(PAGES)), "the first samples are there")

    killer = Killer(shop.port, when=REQUESTS // 2)
    tally = run_clients(shop.port, CLIENTS, REQUESTS, PAGES, progress=killer.look)
    killer.finish()
    assert (tally.answered.total(), len(killer.killed)) == (REQUESTS, 1)
    sent = len(set(PAGES)) + REQUESTS + 1

    until(lambda: server.number("sum(shop_requests_total)") == sent, "the last sample is what was sent")
    for page, answered in tally.answered.items():
        assert server.number(f'shop_requests_total{{page="{page}"}}') == answered + 1
    assert server.number('shop_requests_total{page="/hold"}') == 1
    assert server.number("sum(shop_request_seconds_count)") == sent - 1
    assert server.number("shop_requests_in_progress") == 0

    until(lambda: server.number("up") == 1, "the shop is up")
    for counter in COUNTERS:
        assert server.number(f"sum(count_over_time({counter}[5m]))") > 2
        assert server.number(f"sum(resets({counter}[5m]))") == 0, f"{counter} fell when a worker died"
    assert len(set(shop.booted())) > 5
    assert server.number("shm_metrics_rows_used") <= 5

    # Its samples span the load, with rest before and after: their difference is what was sent. Prometheus stretches
    # that by at most half a sample at each end, whatever scrapes were late.
    rate = server.number(f'sum(rate(shop_requests_total{{page!="/hold"}}[{WINDOW_SECONDS}s]))')
    assert REQUESTS - 0.001 <= rate * WINDOW_SECONDS <= REQUESTS * 1.5

    at_rest = Scrape(shop.port)
    for q in (0.5, 0.9):
        asked = f'histogram_quantile({q}, sum by (le) (shop_request_seconds_bucket{{page="/search"}}))'
        assert server.number(asked) == pytest.approx(quantile(q, at_rest, "/search"), rel=1e-9)
        rates = f'rate(shop_request_seconds_bucket{{page="/search"}}[{WINDOW_SECONDS}s])'
        # The page sleeps 3 ms on average: half of the answers take more than 2 ms, and few more than a multiple of it.
        assert 0.001 < server.number(f"histogram_quantile({q}, sum by (le) ({rates}))") < 0.1


def test_promtool_has_nothing_to_say_about_the_demo(shop):
    promtool = program("promtool")
    for page in (*PAGES, "/restock?articles=5"):
        get(shop.port, page)
    text = Scrape(shop.port).text
    assert "shop_request_seconds_bucket" in text
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_without_prometheus_the_tests_are_skipped_but_in_ci_they_fail(monkeypatch):
    monkeypatch.setenv("PATH", str(ROOT / "nowhere"))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install prometheus"):
        program("prometheus")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="apt-get install prometheus"):
        program("prometheus")
