"""How an application is deployed, and the running deployment as a test sees it from outside."""

from __future__ import annotations

import http.client
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path

from demo.server import Gunicorn
from tests.support.running import HOOKS, ROOT, Uvicorn
from tests.support.waiting import PATIENCE_SECONDS, until
from tests.system.applications.clients import CRASH, Tally, run_clients
from tests.system.applications.packages import Package, Scrapes
from tests.system.applications.pages import Page

LINE = "import shm_metrics.prometheus; shm_metrics.prometheus.install()\n"
DEPLOYED = "deployed"  # the module as it is run: no name of a file here, whatever the current directory is
WORKERS = 3
CLIENTS = 4
REQUESTS = 240
UVICORN_WORKER = "uvicorn_worker.UvicornWorker"
UVICORN = "uvicorn --workers"


@dataclass(frozen=True)
class Deployment:
    """package: the application. server: a worker class of gunicorn, or UVICORN.

    installed: "first" or "last", where in the application's file LINE is put; "by the hook", the file is left as it is,
        gunicorn's configuration has the two lines of our hook, and the environment SHM_METRICS_PROMETHEUS=1; "not".
    multiproc_dir: the environment has PROMETHEUS_MULTIPROC_DIR, as deployments of these packages have today.
    crash_at_rest: nothing else may be under way in the worker that dies; needed where a worker answers several requests
        at a time and may have counted one that it has not answered yet, or the other way about.
    conf: more of gunicorn's configuration. edits: in the application's file, (this, by that).
    """

    package: Package
    server: str
    attribute: str = "app"
    installed: str = "first"
    preload: bool = False
    multiproc_dir: bool = False
    crash_at_rest: bool = True
    workers: int = WORKERS
    conf: str = ""
    edits: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        words = [self.package.module.removesuffix("_app"), self.server]
        words += ["line last"] if self.installed == "last" else ["hook"] if self.installed == "by the hook" else []
        words += ["preload"] if self.preload else []
        words += ["multiproc dir"] if self.multiproc_dir else []
        words += [] if self.crash_at_rest else ["killed at work"]
        return ", ".join(words)

    @property
    def interface(self) -> str:
        return "asgi" if self.server in (UVICORN, UVICORN_WORKER) else "wsgi"

    def start(self, segment: str, directory: Path) -> Running:
        """Write its files into `directory`, and start it."""
        source = Path(__file__).with_name(f"{self.package.module}.py").read_text()
        for this, that in self.edits:
            assert this in source
            source = source.replace(this, that)
        text = {"first": LINE + source, "last": source + LINE}.get(self.installed, source)
        (directory / f"{DEPLOYED}.py").write_text(text)
        settings = {
            "workers": self.workers,
            "worker_class": self.server,
            "preload_app": self.preload,
            "threads": 4 if self.server == "gthread" else 1,
            "graceful_timeout": 2,
            "control_socket_disable": True,
        }
        conf = directory / "gunicorn.conf.py"
        hooks = HOOKS if self.installed == "by the hook" else ""
        conf.write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()) + self.conf + hooks)
        environ = {
            "APPLICATION": f"{DEPLOYED}:{self.attribute}",
            "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "WEB_CONCURRENCY": str(self.workers),
        }
        if self.installed == "by the hook":
            environ["SHM_METRICS_PROMETHEUS"] = "1"
        (directory / "multiproc").mkdir()
        if self.multiproc_dir:
            environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory / "multiproc")
        kind = Uvicorn if self.server == UVICORN else Gunicorn
        server = kind(
            f"tests.system.applications.signed:{self.interface}", segment, directory, conf=conf, environ=environ
        )
        return Running(self, server)


class Running:
    """A deployment that runs. pages: what it answered to each scrape."""

    def __init__(self, deployment: Deployment, server: Gunicorn) -> None:
        self.deployment = deployment
        self.package = deployment.package
        self.server = server
        self.pages: list[Page] = []

    def load(self) -> Tally:
        """Real requests from several threads, and a worker that dies of one of them."""
        # Without our hook nobody is present but the workers: one that dies before the others are up ends the segment's
        # life, as it should.
        self.pages_of_two_workers()
        crash = Tally()

        def halfway() -> None:
            if self.deployment.crash_at_rest:
                self.scrape()
            crash.ask(self.server.port, CRASH)
            if self.deployment.crash_at_rest:
                self.scrape()

        tally = run_clients(
            self.server.port,
            CLIENTS,
            REQUESTS,
            self.package.paths,
            halfway=halfway,
            at_rest=self.deployment.crash_at_rest,
        )
        return tally + crash

    def scrape(self) -> Page:
        """The page of whichever worker answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE_SECONDS)
        connection.request("GET", "/metrics", headers={"Connection": "close"})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        assert response.status == 200, text
        self.pages.append(Page(text, int(response.headers["X-Pid"])))
        return self.pages[-1]

    def exact_page(self, tally: Tally) -> Page:
        """A page that shows exactly what `tally` says.

        Some packages count a request after they have answered it, so the last ones may come a moment later.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            scrapes = Scrapes(len(self.pages) + 1, len(self.pages))
            page = self.scrape()
            differing = self.package.differing(page, tally, scrapes)
            if not differing:
                return page
            assert time.monotonic() < deadline, "\n".join(differing) + f"\n{tally}\n{page.text}"

    def pages_of_two_workers(self) -> list[Page]:
        """Pages of two different workers, scraped one after the other with nothing but scrapes in between."""
        seen: dict[int, Page] = {}

        def two() -> bool:
            page = self.scrape()
            seen[page.pid] = page
            return len(seen) > 1

        until(two, "two different workers answer")
        return list(seen.values())

    def fallen(self) -> list[str]:
        """Each number of the application's counters and histograms that was smaller in a later scrape."""
        found = []
        for before, after in itertools.pairwise(self.pages):
            now = after.counts()
            found += [f"{key}: {n}, then {now.get(key)}" for key, n in before.counts().items() if now.get(key, 0) < n]
        return found
