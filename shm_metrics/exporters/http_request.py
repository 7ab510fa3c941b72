"""One HTTP request that succeeds within a time limit, or raises ExportError.

The time-out of a socket restarts with each byte, so a receiver that sends one byte a second could delay a push for
ever. Here each step gets what is left of the time for the whole request.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import Any
from urllib.parse import urlsplit

from shm_metrics.errors import ExportError

__all__ = ["send"]

_MOST_READ = 1 << 20
_MOST_QUOTED = 500
_MOST_AT_ONCE = 1 << 16


def send(method: str, url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> bytes:
    """Send a request and return the body of the response.

    timeout: seconds for the whole request, except for the resolution of the host's name.

    Raise ExportError when there is no response in time, its status is not 2xx, or it is incomplete. Success requires a
    complete response: one that is cut off or longer than 1 MiB fails.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        found = socket.getaddrinfo(host, parts.port or (443 if parts.scheme == "https" else 80), 0, socket.SOCK_STREAM)
        deadline = time.monotonic() + timeout
        connection: HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection = HTTPSConnection(host, parts.port, context=context)
            connected = _InTime(_connected(found, deadline), deadline)
            try:
                connected.socket = context.wrap_socket(connected.socket, server_hostname=host)
            except BaseException:
                connected.end()
                raise
        else:
            connection = HTTPConnection(host, parts.port)
            connected = _InTime(_connected(found, deadline), deadline)
        connection.sock = connected
        try:
            connection.request(method, parts.path or "/", body, {**headers, "Connection": "close"})
            answer = connection.getresponse()
            content, whole = _read(answer)
        finally:
            connection.close()
            connected.end()
    except TimeoutError as error:
        raise ExportError(f"{method} {url}: no answer within {timeout:g} s") from error
    except (OSError, HTTPException, UnicodeError) as error:  # UnicodeError: a host that can be no name
        raise ExportError(f"{method} {url}: {error!r}") from error
    if not 200 <= answer.status < 300:
        text = content[:_MOST_QUOTED].decode("utf-8", "replace").strip()
        raise ExportError(f"{method} {url}: {answer.status} {answer.reason}: {text}")
    if not whole:
        raise ExportError(
            f"{method} {url}: {answer.status}, but the answer is not whole: {len(content)} bytes were received"
        )
    return content


def _connected(found: list[tuple[Any, ...]], deadline: float) -> socket.socket:
    """Return a socket connected to the first of the host's addresses that accepts it."""
    failed: OSError | None = None
    for family, kind, protocol, _, address in found:
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(_left(deadline))
            made.connect(address)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.settimeout(_left(deadline))  # for the handshake of TLS
            return made
        except OSError as error:
            made.close()
            failed = error
        except BaseException:
            made.close()
            raise
    raise failed or OSError("the host has no address")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _InTime:
    """The part of a socket that http.client uses; each step ends by the deadline."""

    def __init__(self, made: socket.socket, deadline: float) -> None:
        self.socket = made
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self.socket.settimeout(_left(self._deadline))
            rest = rest[self.socket.send(rest[:_MOST_AT_ONCE]) :]

    def recv_into(self, buffer: Any) -> int:
        self.socket.settimeout(_left(self._deadline))
        return self.socket.recv_into(buffer)

    def makefile(self, mode: str) -> io.BufferedReader:
        return _WholeLines(_Reading(self))

    def close(self) -> None:
        """Do nothing: http.client calls this once it knows the length of the response, which may still arrive."""

    def end(self) -> None:
        self.socket.close()


class _Reading(io.RawIOBase):
    def __init__(self, of: _InTime) -> None:
        self._of = of

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._of.recv_into(buffer)


class _WholeLines(io.BufferedReader):
    """Raises on lines that are cut off, which http.client would accept as the end of the headers."""

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n") and (size is None or size < 0 or len(line) < size):
            raise ConnectionResetError("the connection was lost before the answer was whole")
        return line


def _read(answer: HTTPResponse) -> tuple[bytes, bool]:
    """Return the body, or its first MiB, and whether it is complete, as far as the response states its length."""
    try:
        content = answer.read(_MOST_READ)
    except IncompleteRead as error:  # in chunks, and the last of them did not come
        return error.partial, False
    return content, not answer.length and len(content) < _MOST_READ
