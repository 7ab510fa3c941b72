"""The response to a scrape, the same over WSGI, ASGI and the built-in server.

A scrape succeeds in full or fails. If the source raises, the response is status 500 with the reason as text (503 for
FileNotFoundError: no segment yet), never a 200 with some of the families. Prometheus then shows `up == 0` with that
reason instead of series that silently end. Only a family whose name is already taken is left out, with a log message.
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs

from shm_metrics.exposition import SCRAPED, Dropped, Offers, filter_families, negotiate
from shm_metrics.serving.content_coding import accepts_gzip
from shm_metrics.serving.single_flight import InterruptedFlightError, SingleFlight

__all__ = ["Endpoint", "Response", "Source", "names_in_query"]

logger = logging.getLogger(__name__)

# zlib compresses 1.6 MB of exposition to 12% in 4.8 ms at level 1, to 9% in 11.5 ms at level 6, and to 9% in 48 ms at
# level 9. The last 3% would take longer than rendering.
GZIP_LEVEL = 1

ALLOWED_METHODS = "GET, HEAD, OPTIONS"

# Messages that differ each time (an address, a counter in them) must not fill the memory.
MOST_MESSAGES_REMEMBERED = 100

PLAIN_TEXT = "text/plain; charset=utf-8"


class Source(Protocol):
    """Where families come from: a backend, a read-only reader, a prometheus_client registry, a list in a test.

    `collect()` gives what the exposition renders (`AnyFamily`, or prometheus_client's Metric).
    """

    def collect(self) -> Iterable[Any]:
        """Return all families. Raises FileNotFoundError while there is nothing to scrape."""
        ...


class Response(NamedTuple):
    """A complete HTTP response: status code, header fields in order, body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def status_line(self) -> str:
        """The status with its phrase: `200 OK`."""
        return f"{self.status} {HTTPStatus(self.status).phrase}"


class Answering(Protocol):
    """The interface that servers use: an Endpoint, or several behind one port."""

    def answer(
        self,
        accept: str | None = None,
        accept_encoding: str | None = None,
        names: Sequence[str] = (),
        method: str = "GET",
        path: str = "/",
    ) -> Response:
        """Answer one request."""
        ...


class Endpoint:
    """The answers to scrapes of one source; concurrent scrapes that want the same bytes share one rendering.

    A scrape shows values no older than the start of the rendering that it joined, which was still under way when the
    scrape arrived (`single_flight` says why this is sound for Prometheus).

    source: where families come from. offers: the formats that a scraper may select by its Accept header.
    """

    def __init__(self, source: Source, offers: Offers = SCRAPED) -> None:
        self._source = source
        self._offers = offers
        self._flights = SingleFlight()
        self._logged: set[str] = set()

    def answer(
        self,
        accept: str | None = None,
        accept_encoding: str | None = None,
        names: Sequence[str] = (),
        method: str = "GET",
        path: str = "/",
    ) -> Response:
        """Answer one request; block while the rendering runs.

        accept, accept_encoding: the header fields as sent, None when absent.
        names: the values of `name[]`; only samples of these names are shown, or all when there are none.
        method: GET, HEAD or OPTIONS; others get status 405.
        path: distinguishes only a browser's request for `/favicon.ico` from a scrape.

        Never raises for a source that fails: the response has status 500 or 503.
        """
        short = _answer_without_rendering(method, path)
        if short is not None:
            return short
        key, work = self._rendering(accept, accept_encoding, names)
        try:
            response = self._flights.do(key, work)
        except InterruptedFlightError as error:
            response = self._failure(error)
        return _for_method(response, method)

    async def answer_async(
        self,
        accept: str | None = None,
        accept_encoding: str | None = None,
        names: Sequence[str] = (),
        method: str = "GET",
        path: str = "/",
    ) -> Response:
        """Answer one request from an event loop; a thread collects, renders and compresses meanwhile."""
        short = _answer_without_rendering(method, path)
        if short is not None:
            return short
        key, work = self._rendering(accept, accept_encoding, names)
        try:
            response = await self._flights.do_async(key, work)
        except RuntimeError as error:  # interrupted, or no thread to be had
            response = self._failure(error)
        return _for_method(response, method)

    def _rendering(
        self, accept: str | None, accept_encoding: str | None, names: Sequence[str]
    ) -> tuple[tuple[str, bool, tuple[str, ...]], Callable[[], Response]]:
        """Return the key of concurrent requests that share a response, and the work that produces it."""
        chosen = negotiate(accept, self._offers)
        compress = accepts_gzip(accept_encoding)
        wanted = tuple(sorted(set(names)))

        def work() -> Response:
            # Caught here and not by each caller, so that a failure shared by fifty scrapes is logged once.
            try:
                families: Iterable[Any] = self._source.collect()
                if wanted:
                    families = filter_families(families, wanted)
                body = chosen.render(families, on_dropped=self._log_dropped)
            except FileNotFoundError as error:
                return self._nothing_yet(error)
            except Exception as error:
                return self._failure(error)
            headers = [("Content-Type", chosen.content_type), ("Vary", "Accept, Accept-Encoding")]
            if compress:
                body = gzip.compress(body, compresslevel=GZIP_LEVEL, mtime=0)
                headers.append(("Content-Encoding", "gzip"))
            return _response(HTTPStatus.OK, headers, body)

        return (chosen.content_type, compress, wanted), work

    def _nothing_yet(self, error: FileNotFoundError) -> Response:
        # An exporter that started before its application: no error, and no traceback in the log.
        self._log_once(logging.WARNING, f"nothing to scrape: {error}")
        text = f"There are no metrics: {error}\n".encode("utf-8", "backslashreplace")
        return _response(HTTPStatus.SERVICE_UNAVAILABLE, [("Content-Type", PLAIN_TEXT)], text)

    def _failure(self, error: Exception) -> Response:
        # Surrogates (from undecodable file names) would make the response and the log fail too.
        reason = f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace").decode()
        self._log_once(logging.ERROR, f"a scrape failed: {reason}", error)
        text = f"The metrics could not be collected: {reason}\n".encode()
        return _response(HTTPStatus.INTERNAL_SERVER_ERROR, [("Content-Type", PLAIN_TEXT)], text)

    def _log_dropped(self, dropped: Dropped) -> None:
        self._log_once(logging.WARNING, f"the family {dropped.name!r} is left out of scrapes: {dropped.reason}")

    def _log_once(self, level: int, message: str, error: Exception | None = None) -> None:
        if message in self._logged:
            return
        if len(self._logged) >= MOST_MESSAGES_REMEMBERED:
            self._logged.clear()
        self._logged.add(message)
        logger.log(level, "%s (logged once)", message, exc_info=error)


def names_in_query(query: str) -> list[str]:
    """Return the values of `name[]` in a URL's query string, percent-decoded."""
    # Prometheus scrapes without a query, and parse_qs is slow even then.
    return parse_qs(query).get("name[]", []) if query else []


def _answer_without_rendering(method: str, path: str) -> Response | None:
    if method == "OPTIONS":
        return _response(HTTPStatus.OK, [("Allow", ALLOWED_METHODS), ("Content-Type", PLAIN_TEXT)], b"")
    if method not in ("GET", "HEAD"):
        text = f"{method} is not allowed here; metrics are read with GET.\n".encode("utf-8", "backslashreplace")
        return _response(
            HTTPStatus.METHOD_NOT_ALLOWED, [("Allow", ALLOWED_METHODS), ("Content-Type", PLAIN_TEXT)], text
        )
    if path == "/favicon.ico":
        # A browser would otherwise cause a second rendering.
        return _response(HTTPStatus.OK, [("Content-Type", PLAIN_TEXT)], b"")
    return None


def _response(status: HTTPStatus, headers: list[tuple[str, str]], body: bytes) -> Response:
    return Response(int(status), [*headers, ("Content-Length", str(len(body)))], body)


def _for_method(response: Response, method: str) -> Response:
    """Return the response without its body for HEAD; the header fields are those of GET."""
    return response._replace(body=b"") if method == "HEAD" else response
