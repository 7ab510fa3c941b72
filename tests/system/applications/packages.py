"""What each package counts of requests whose answers are known."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.samples import Sample

from tests.system.applications.clients import CRASH, Tally
from tests.system.applications.pages import Page

Expected = Iterator[tuple[str, dict[str, str], int]]


@dataclass(frozen=True)
class Scrapes:
    """Scrapes that the application itself got, begun and ended when it made a page."""

    begun: int
    ended: int


@dataclass(frozen=True)
class Package:
    """One application in this directory, and how its package counts.

    paths: what the clients ask for. families: the names that are the application's, as a regular expression.
    expected(tally, scrapes): (sample's name, some of its labels, value), for each that is known.
    not_moved(sample): a scrape, which some packages count like any request, does not move it.
    """

    module: str
    paths: tuple[str, ...]
    families: str
    expected: Callable[[Tally, Scrapes], Expected]
    not_moved: Callable[[Sample], bool] = lambda sample: True

    def steady(self, sample: Sample) -> bool:
        """The sample is the application's, and every page of an application at rest must say the same of it."""
        return re.match(self.families, sample.name) is not None and self.not_moved(sample)

    def differing(self, page: Page, tally: Tally, scrapes: Scrapes) -> list[str]:
        """What the page says otherwise than expected, a line for each."""
        return [
            f"{name}{labels}: {page.total(name, **labels)}, expected {expected}"
            for name, labels, expected in self.expected(tally, scrapes)
            if page.total(name, **labels) != expected
        ]


def histogram(name: str, labels: dict[str, str], count: int) -> Expected:
    yield f"{name}_count", labels, count
    yield f"{name}_bucket", {**labels, "le": "+Inf"}, count


# -- Flask ------------------------------------------------------------------------------------------------------------

NOT_TRACKED = ("/skip", "/status/418")


def flask_expected(tally: Tally, scrapes: Scrapes) -> Expected:
    of_status: dict[int, int] = {}
    for (path, status), count in tally.answered.items():
        tracked = 0 if path in NOT_TRACKED else count
        of_status[status] = of_status.get(status, 0) + tracked
        labels = {"method": "GET", "path": path, "status": str(status)}
        yield from histogram("flask_http_request_duration_seconds", labels, tracked)
    for status, count in of_status.items():
        yield "flask_http_request_total", {"method": "GET", "status": str(status)}, count
    errors = tally.answered["/error", 500]
    yield "flask_http_request_exceptions_total", {"method": "GET", "status": "500"}, errors
    yield "orders_by_kind_total", {"kind": "books"}, tally.answered["/orders/books", 200]
    teapots = tally.answered["/status/418", 418]
    yield "requests_by_status_count", {"status": "418"}, teapots
    yield from histogram("requests_by_status_and_path", {"status": "418", "path": "/status/418"}, teapots)
    yield "in_progress", {}, 0


FLASK = Package(
    "flask_app",
    paths=("/", "/orders/books", "/skip", "/status/418", "/gone", "/nowhere", "/error", "/"),
    families="flask_|orders_by_kind|requests_by_status|in_progress|app_info",
    expected=flask_expected,
    not_moved=lambda s: "pid" not in s.labels,  # a worker that comes up adds a value of its own
)

# -- FastAPI ----------------------------------------------------------------------------------------------------------

ASYNC_PATHS = ("/", "/threads", "/orders/books", "/slow", "/gone", "/nowhere", "/error", "/")
TEMPLATES = {"/orders/books": "/orders/{kind}", "/nowhere": "none"}


def fastapi_expected(tally: Tally, scrapes: Scrapes) -> Expected:
    for (path, status), count in tally.answered.items():
        handler = TEMPLATES.get(path, path)
        yield "http_requests_total", {"handler": handler, "method": "GET", "status": str(status)}, count
        yield from histogram("http_request_duration_seconds", {"handler": handler, "method": "GET"}, count)
        yield "http_response_size_bytes_count", {"handler": handler}, count
        yield "inprogress", {"handler": handler, "method": "GET"}, 0
    yield from histogram("http_request_duration_highr_seconds", {}, tally.answered.total() + scrapes.ended)
    # The worker that died of it had it in progress.
    yield "inprogress", {"handler": CRASH}, 0


FASTAPI = Package(
    "fastapi_app",
    paths=ASYNC_PATHS,
    families="http_|inprogress",
    expected=fastapi_expected,
    not_moved=lambda s: s.labels.get("handler", "/metrics") != "/metrics",
)

# -- Starlette --------------------------------------------------------------------------------------------------------


def starlette_expected(tally: Tally, scrapes: Scrapes) -> Expected:
    for (path, status), count in tally.answered.items():
        if path != "/nowhere":  # without a route it is not counted
            labels = {"method": "GET", "path": TEMPLATES.get(path, path), "status_code": str(status)}
            yield "starlette_requests_total", labels, count
            yield from histogram("starlette_request_duration_seconds", labels, count)
    yield "orders_total", {"kind": "books"}, tally.answered["/orders/books", 200]
    # Not what the worker that died had in progress.
    yield "starlette_requests_in_progress", {}, scrapes.begun - scrapes.ended


STARLETTE = Package(
    "starlette_app",
    paths=ASYNC_PATHS,
    families="starlette_|orders_",
    expected=starlette_expected,
    not_moved=lambda s: s.labels.get("path") != "/metrics" and s.name != "starlette_requests_in_progress",
)

# -- Django -----------------------------------------------------------------------------------------------------------

VIEWS = {"/": "main", "/orders/books": "orders", "/forbidden": "forbidden", "/error": "error"}
NO_VIEW = "<unnamed view>"


def django_expected(tally: Tally, scrapes: Scrapes) -> Expected:
    answered, crashed = tally.answered.total(), tally.broken[CRASH]
    yield "django_http_requests_before_middlewares_total", {}, answered + crashed + scrapes.begun
    yield "django_http_responses_before_middlewares_total", {}, answered + scrapes.ended
    yield from histogram("django_http_requests_latency_including_middlewares_seconds", {}, answered + scrapes.ended)
    yield "django_http_requests_total_by_method_total", {"method": "GET"}, answered + crashed + scrapes.begun
    for (path, status), count in tally.answered.items():
        view = VIEWS.get(path)
        if view:
            labels = {"view": view, "transport": "http", "method": "GET"}
            yield "django_http_requests_total_by_view_transport_method_total", labels, count
        labels = {"view": view or NO_VIEW, "status": str(status), "method": "GET"}
        yield "django_http_responses_total_by_status_view_method_total", labels, count
        if status == 200:
            labels = {"view": view or NO_VIEW, "method": "GET"}
            yield from histogram("django_http_requests_latency_seconds_by_view_method", labels, count)
    labels = {"view": "crash", "transport": "http", "method": "GET"}
    yield "django_http_requests_total_by_view_transport_method_total", labels, crashed
    errors = tally.answered["/error", 500]
    yield "django_http_exceptions_total_by_type_total", {"type": "RuntimeError"}, errors
    yield "django_http_exceptions_total_by_view_total", {"view": "error"}, errors
    orders = tally.answered["/orders/books", 200]
    yield "django_db_execute_total", {"alias": "default", "vendor": "sqlite"}, orders


def django_not_moved(sample: Sample) -> bool:
    if "view" in sample.labels:
        return sample.labels["view"] != "prometheus-django-metrics"
    return "type" in sample.labels or sample.name.startswith("django_db")


DJANGO = Package(
    "django_app",
    paths=("/", "/orders/books", "/forbidden", "/nowhere", "/error", "/"),
    families="django_",
    expected=django_expected,
    not_moved=django_not_moved,
)
