"""One HTTP request that is answered in time with a success, or an ExportError.

A socket's own time-out begins anew with each byte that comes or goes, so that a receiver that drips one a second would
hold a push for as long as it likes. Hence each step here gets what is left of the whole.
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
_MOST_TOLD = 500
_MOST_AT_ONCE = 1 << 16


def send(method: str, url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> bytes:
    """The body of the answer. timeout: seconds for all of it together, but for the look-up of the host's name.

    Raises ExportError when there is no answer in time, it is not 2xx, or it is not whole: one that was cut off, or is
    longer than 1 MiB, does not say that all is well.
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
            told, whole = _read(answer)
        finally:
            connection.close()
            connected.end()
    except TimeoutError as error:
        raise ExportError(f"{method} {url}: no answer within {timeout:g} s") from error
    except (OSError, HTTPException, UnicodeError) as error:  # UnicodeError: a host that can be no name
        raise ExportError(f"{method} {url}: {error!r}") from error
    if not 200 <= answer.status < 300:
        text = told[:_MOST_TOLD].decode("utf-8", "replace").strip()
        raise ExportError(f"{method} {url}: {answer.status} {answer.reason}: {text}")
    if not whole:
        raise ExportError(f"{method} {url}: {answer.status}, but the answer is not whole: {len(told)} bytes of it came")
    return told


def _connected(found: list[tuple[Any, ...]], deadline: float) -> socket.socket:
    """A socket to the first of the host's addresses that takes it."""
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
    """What http.client needs of a socket, each step of which ends by the deadline."""

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
        """http.client's end of it, when it knows the length of the answer; the answer may still be on its way."""

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
    """http.client takes headers that are cut off for their end, and what there is of an answer for a success."""

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n") and (size is None or size < 0 or len(line) < size):
            raise ConnectionResetError("the connection was lost before the answer was whole")
        return line


def _read(answer: HTTPResponse) -> tuple[bytes, bool]:
    """The body, or the first MiB of it; and whether that is all of it, as far as the answer says how much it is."""
    try:
        told = answer.read(_MOST_READ)
    except IncompleteRead as error:  # in chunks, and the last of them did not come
        return error.partial, False
    return told, not answer.length and len(told) < _MOST_READ
