"""`python -m demo.cluster`: two hosts and a cache; a leader is killed, a host is shut down, and the total stays exact.

A host is a gunicorn with a segment of its own. All it is told of the cluster are variables of its environment.
Exits with 0 when each total was what the clients had sent; with 1 when not, and in CI also when there is no cache.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.cache import MissingCacheError, cache_server, free_port
from demo.load import Tally, get, run_clients
from demo.server import Gunicorn
from shm_metrics import MetricsBackend
from shm_metrics.segment.location import locate_segment

HOSTS = ("a", "b")
WORKERS = 3
CLIENTS = 3
REQUESTS = {"a": 1500, "b": 1000}
PAGES = ("/", "/search", "/order", "/search", "/")
REQUESTS_LAST = 300
INTERVAL = 0.5
LEASE_TTL = 2.0
PATIENCE_SECONDS = 15.0
EXCERPT = re.compile(r"cluster:(shop_requests_total|shop_request_seconds_count|shm_metrics_instances )")


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with cluster() as found:
            try:
                return 0 if play(found) else 1
            except (OSError, http.client.HTTPException, RuntimeError) as error:
                say(f"The second act failed: {error!r}")
                for name, host in found.hosts.items():
                    say(f"The end of the log of host {name}:\n\n{host.server.log_end()}\n")
                return 1
    except MissingCacheError as error:
        say(f"THE SECOND ACT WAS NOT RUN: {error}.")
        return 1 if os.environ.get("CI") == "true" else 0
    except (OSError, RuntimeError) as error:
        say(f"The second act could not begin: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nStopped; the segments are removed.")
        return 128 + signal.SIGINT


def say(text: str) -> None:
    print(text, flush=True)


@dataclass
class Host:
    """segment: its name; port: which its leader serves; sent: what its clients know."""

    server: Gunicorn
    segment: str
    port: int
    sent: Tally

    @property
    def instance(self) -> str:
        backend = MetricsBackend(self.segment, read_only=True)
        try:
            return backend.instance_id
        finally:
            backend.close()


@dataclass
class Cluster:
    """cache: what it is. onlooker: a backend that counts nothing; anybody who knows the cache may ask it."""

    cache: str
    hosts: dict[str, Host]
    onlooker: MetricsBackend

    def export(self) -> dict[str, Any]:
        told = self.onlooker.export_distributed_metrics()
        if not told["distributed"]:
            raise RuntimeError(told["warning"])
        return told

    def leader(self, host: Host) -> int:
        """The pid of the worker that published the host last; 0 if nobody did."""
        return int(self.export()["instances"].get(host.instance, {}).get("pid", 0))


@contextmanager
def cluster() -> Iterator[Cluster]:
    """The hosts and their cache, in a directory that is removed in the end, as the segments are."""
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory(prefix="shm_metrics-demo-") as name, ExitStack() as stack:
        directory = Path(name)
        url, told = stack.enter_context(cache_server(directory))
        hosts = {}
        for host in HOSTS:
            segment, port = f"demo-{os.getpid()}-{host}", free_port()
            (directory / host).mkdir()
            environ = {
                "PYTHONPATH": path,
                "DEMO_WORKERS": str(WORKERS),
                "SHM_METRICS_CACHE": url,
                "SHM_METRICS_NAMESPACE": "demo",
                "SHM_METRICS_SYNC_INTERVAL": str(INTERVAL),
                "SHM_METRICS_LEASE_TTL": str(LEASE_TTL),
                "SHM_METRICS_EXPORT_PORT": str(port),
            }
            stack.callback(locate_segment(segment).unlink)
            server = stack.enter_context(Gunicorn("demo.app:app", segment, directory / host, environ=environ))
            hosts[host] = Host(server, segment, port, Tally())
        onlooker = MetricsBackend(path=directory / "onlooker", cache=url, namespace="demo")
        stack.callback(onlooker.close)
        yield Cluster(told, hosts, onlooker)


def play(found: Cluster) -> bool:
    """The act; whether each total was exact."""
    a, b = found.hosts["a"], found.hosts["b"]
    say(
        f"Second act: {len(HOSTS)} hosts, each a gunicorn with {WORKERS} workers and a segment, and a cache: "
        f"{found.cache}.\n"
        f"One worker of each host publishes its segment every {INTERVAL:g} s, under a lease of {LEASE_TTL:g} s.\n\n"
        f"{'':32}{'sent to a':>10}{'to b':>8}{'together':>10}{'cluster':>10}"
    )
    exact = compare(found, "load on both", load(found))
    leader = until(lambda: found.leader(a), "a has a leader")
    os.kill(leader, signal.SIGKILL)
    killed = time.monotonic()
    with ThreadPoolExecutor(1) as beside:
        sent = beside.submit(load, found)
        heir = until(lambda: (pid := found.leader(a)) != leader and pid, "another worker leads a")
        taken = time.monotonic() - killed
    exact &= compare(found, f"kill -9 {leader}, a's leader", sent.result())
    sent_last = load(found, {"b": REQUESTS_LAST})
    b.server.close()
    exact &= compare(found, "b is shut down", sent_last)
    page = until(lambda: "cluster:" in (text := cluster_page(a)) and text, "the new leader serves its port")
    say(
        f"\nHost a       led by worker {leader} until it was killed, and by worker {heir} {taken:.1f} s later.\n"
        f"Host b       its master published what came last, when its workers were gone.\n\n"
        f"From http://127.0.0.1:{a.port}/cluster/metrics, which the leader of a serves:\n"
    )
    say("\n".join(f"    {line}" for line in page.splitlines() if EXCERPT.match(line)) + "\n")
    say("Each total of the cluster was exactly what was sent." if exact else "THE TOTALS DIFFER.")
    return exact


def load(found: Cluster, requests: Mapping[str, int] = REQUESTS) -> bool:
    """Requests to the hosts; whether all were answered."""
    for name, count in requests.items():
        host = found.hosts[name]
        host.sent = host.sent + run_clients(host.server.port, CLIENTS, count, PAGES)
    return not any(host.sent.broken.total() for host in found.hosts.values())


def compare(found: Cluster, what: str, answered: bool) -> bool:
    """Print a line: what the clients know, and what the cluster says as soon as the last publish can be there."""
    known = sum((host.sent for host in found.hosts.values()), Tally()).answered
    wanted = {
        **{f'shop_requests_total{{page="{page}"}}': float(count) for page, count in known.items()},
        **{f'shop_request_seconds{{page="{page}"}}': float(count) for page, count in known.items()},
    }
    said: dict[str, float] = {}

    def right() -> bool:
        metrics = found.export()["metrics"]
        said.update({name: number(metrics.get(name, {})) for name in wanted})
        return said == wanted

    try:
        until(right, what)
        exact = answered
    except RuntimeError:
        exact = False
    total = sum(value for name, value in said.items() if name.startswith("shop_requests_total"))
    each = [host.sent.answered.total() for host in found.hosts.values()]
    say(f"  {what:<30}{each[0]:>10,}{each[1]:>8,}{sum(each):>10,}{total:>10,.10g}{'' if exact else '   <-- differs'}")
    if not exact:
        say("\n".join(f"      {name}: {wanted[name]:,.10g} sent, {said[name]:,.10g} counted" for name in wanted))
    return exact


def number(series: dict[str, Any]) -> float:
    """A counter's total, or a histogram's count."""
    return float(series.get("value", series.get("count", 0.0)))


def cluster_page(host: Host) -> str:
    try:
        return get(host.port, "/cluster/metrics")[1].decode()
    except (OSError, http.client.HTTPException):
        return ""


def until(condition: Callable[[], Any], what: str) -> Any:
    """What `condition` gives, once that is something. Raises RuntimeError when nothing comes of it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {PATIENCE_SECONDS:g} s: {what}")
        time.sleep(0.05)
    return found


if __name__ == "__main__":
    sys.exit(main())
