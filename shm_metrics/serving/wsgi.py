"""The WSGI edge (PEP 3333)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from shm_metrics.serving.endpoint import Endpoint, Source, names_in_query

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["make_wsgi_app"]


def make_wsgi_app(source: Source) -> WSGIApplication:
    """Return a WSGI application that answers every path with the metrics of `source`."""
    endpoint = Endpoint(source)

    def metrics_app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        response = endpoint.answer(
            environ.get("HTTP_ACCEPT"),
            environ.get("HTTP_ACCEPT_ENCODING"),
            names_in_query(environ.get("QUERY_STRING", "")),
            environ["REQUEST_METHOD"],
            environ.get("PATH_INFO", "/"),
        )
        start_response(response.status_line, response.headers)
        return [response.body]

    return metrics_app
