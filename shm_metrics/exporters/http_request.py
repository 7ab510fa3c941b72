"""One HTTP request that is answered in time with a success, or an ExportError.

Lives here: the request and its deadline. May not: know what is sent, follow redirects, or try
again (the schedule does).
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from shm_metrics.errors import ExportError, InvalidMetricError

__all__ = ["check_seconds", "check_url", "send"]

_MOST_READ = 1 << 20
_MOST_TOLD = 500


def check_url(url: str) -> str:
    """`url` without a slash at its end. Raises InvalidMetricError for what is no http(s) URL."""
    parts = urlsplit(url if isinstance(url, str) else "")
    try:
        parts.port  # noqa: B018  # raises for what is no port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InvalidMetricError(f"url {url!r}: give http://HOST:PORT or https://HOST:PORT, and a path if there is one")
    return url.rstrip("/")


def check_seconds(name: str, value: float) -> float:
    """`value`. Raises InvalidMetricError unless it is a number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise InvalidMetricError(f"{name}={value!r}: give seconds, more than 0")
    return float(value)


def send(method: str, url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> bytes:
    """The body of the answer (at most 1 MiB of it). timeout: seconds for all of it together.

    Raises ExportError when there is no answer in time, or it is not 2xx.
    """
    parts, deadline = urlsplit(url), time.monotonic() + timeout
    host = parts.hostname or ""
    connection = (
        HTTPSConnection(host, parts.port, timeout=timeout, context=ssl.create_default_context())
        if parts.scheme == "https"
        else HTTPConnection(host, parts.port, timeout=timeout)
    )
    try:
        connection.request(method, parts.path or "/", body, dict(headers))
        answer = connection.getresponse()
        told = _read(answer, connection.sock, deadline)
    except TimeoutError as error:
        raise ExportError(f"{method} {url}: no answer within {timeout:g} s") from error
    except (OSError, HTTPException) as error:
        raise ExportError(f"{method} {url}: {error!r}") from error
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        text = told[:_MOST_TOLD].decode("utf-8", "replace").strip()
        raise ExportError(f"{method} {url}: {answer.status} {answer.reason}: {text}")
    return told


def _read(answer: HTTPResponse, sock: socket.socket | None, deadline: float) -> bytes:
    """In pieces, so that a receiver that answers a byte a second does not get a time-out a byte."""
    told = b""
    while len(told) < _MOST_READ:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if sock is not None:
            try:
                sock.settimeout(left)
            except OSError:
                pass  # closed, once the whole answer is buffered
        piece = answer.read1(1 << 16)
        if not piece:
            break
        told += piece
    return told
