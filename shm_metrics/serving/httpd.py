"""A small HTTP/1.1 server in a thread of its own, for programs without a web server.

Metrics servers run unattended for months, so:

- a client that connects and sends nothing (not even its TLS handshake) occupies one thread for IDLE_SECONDS, and never
  the accepting loop;
- after `shutdown()` and the end of the thread the port is free, and no kept-alive connection is served;
- a child of fork closes the sockets that it inherited. Otherwise the port would stay in use after the parent's death,
  and connections would wait in the queue of a server without a thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from shm_metrics.serving.after_fork import renew_in_child
from shm_metrics.serving.endpoint import Answering, Endpoint, Source, names_in_query

__all__ = ["MAX_PORT", "MetricsServer", "start_http_server"]

logger = logging.getLogger(__name__)

# Twice Prometheus' default scrape interval of a minute, so that its connection is still there at the next scrape.
IDLE_SECONDS = 120
MAX_PORT = 65_535


def start_http_server(
    port: int,
    addr: str = "127.0.0.1",
    *,
    source: Source,
    certfile: str | None = None,
    keyfile: str | None = None,
    client_cafile: str | None = None,
    client_capath: str | None = None,
    client_auth_required: bool = False,
) -> tuple[MetricsServer, threading.Thread]:
    """Serve the metrics of `source` from a daemon thread.

    port: 0 takes a free one; `server.server_port` tells which.
    addr: a host name, IPv4 or IPv6 address to listen on; only this machine reaches the default.
    certfile, keyfile: PEM files; with a certificate the server speaks HTTPS.
    client_cafile, client_capath: authorities whose client certificates are accepted.
    client_auth_required: refuse clients without such a certificate (with no authority named: the system's).

    Returns the server and its thread; `server.shutdown(); thread.join()` ends both and frees the port.
    Raises OSError when the address cannot be listened on, ValueError when the port or the TLS arguments make no sense.
    """
    if not 0 <= int(port) <= MAX_PORT:  # getaddrinfo would take it modulo 65,536
        raise ValueError(f"port {port}: give a whole number from 0 to {MAX_PORT}")
    context = _tls_context(certfile, keyfile, client_cafile, client_capath, client_auth_required)
    server = MetricsServer(addr, port, Endpoint(source), context)
    thread = threading.Thread(target=server.serve_until_shutdown, name="shm_metrics-http", daemon=True)
    thread.start()
    return server, thread


class MetricsServer(ThreadingMixIn, TCPServer):
    """An HTTP server that listens from its construction on, with a daemon thread for each connection.

    Not http.server's HTTPServer, which looks up the host's name and may wait for seconds.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128  # a burst beyond socketserver's 5 would wait a second for TCP's retransmission

    def __init__(self, addr: str, port: int, endpoint: Answering, context: ssl.SSLContext | None = None) -> None:
        self.endpoint = endpoint
        self._connections: set[socket.socket] = set()
        self._inherited = False
        found = socket.getaddrinfo(addr or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, address = found[0]
        super().__init__(address, _Handler)  # type: ignore[arg-type]  # typeshed knows no IPv6 address of four fields
        if context is not None:
            # The connection's thread does the handshake, at its first read: here it would block accepting.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        renew_in_child(self)

    @property
    def server_port(self) -> int:
        """The port that is listened on."""
        return int(self.server_address[1])

    def serve_until_shutdown(self) -> None:
        """Accept connections until `shutdown()`, then close every socket."""
        try:
            self.serve_forever()
        finally:
            self.server_close()

    def shutdown(self) -> None:
        """Stop accepting. Responses under way are finished; idle connections are closed."""
        if self._inherited:
            return  # the loop runs in the parent; waiting for its end here would block for ever
        # Wakes the loop at once; otherwise it checks for the request to stop every half second.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)
        super().shutdown()

    def server_close(self) -> None:
        """Close the listening socket, and end the reading side of each connection."""
        super().server_close()
        for connection in list(self._connections):
            # Reading ends and writing goes on. Not SSLSocket's own shutdown, which would drop the encryption as well.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RD)

    def after_fork_in_child(self) -> None:
        """Close the inherited descriptors."""
        self._inherited = True
        for inherited in (self.socket, *self._connections):
            # detach(), not close(): the files of handler threads that are gone would keep the descriptor open.
            with contextlib.suppress(OSError):
                os.close(inherited.detach())
        self._connections.clear()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection and remember it."""
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def close_request(self, request: Any) -> None:
        """Close a connection and forget it."""
        self._connections.discard(request)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what ended a connection."""
        # Broken connections and failed handshakes are client errors; anything else is a bug here.
        level = logging.DEBUG if isinstance(sys.exc_info()[1], OSError) else logging.ERROR
        logger.log(level, "the connection from %s ended with an error", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Translates requests for the endpoint; many on one connection."""

    server: MetricsServer

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    # Header and body are sent in few segments and at once: with Nagle's algorithm the second would wait up to 40 ms for
    # the client's delayed acknowledgement.
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def answer(self) -> None:
        path, _, query = self.path.partition("?")
        response = self.server.endpoint.answer(
            self._header("Accept"), self._header("Accept-Encoding"), names_in_query(query), self.command, path
        )
        self.send_response(response.status)
        for name, value in response.headers:
            self.send_header(name, value)
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            # The body of the request is not read, and would be parsed as the next request.
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    # http.server looks a method up by such a name; the endpoint decides which are allowed.
    do_GET = do_HEAD = do_OPTIONS = do_POST = do_PUT = do_DELETE = do_PATCH = do_TRACE = do_CONNECT = answer  # noqa: N815

    def _header(self, name: str) -> str | None:
        values = self.headers.get_all(name)
        return ", ".join(values) if values else None

    def version_string(self) -> str:
        return "shm_metrics"  # without the version of the interpreter

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: a line on stderr for every scrape is noise."""


def _tls_context(
    certfile: str | None,
    keyfile: str | None,
    client_cafile: str | None,
    client_capath: str | None,
    client_auth_required: bool,
) -> ssl.SSLContext | None:
    names_authorities = client_cafile is not None or client_capath is not None
    if certfile is None:
        if keyfile is not None or names_authorities or client_auth_required:
            raise ValueError(
                "TLS needs certfile=, the server's certificate; without it everything would go unencrypted"
            )
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certfile, keyfile)
    if names_authorities:
        context.load_verify_locations(client_cafile, client_capath)
    elif client_auth_required:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    if client_auth_required:
        context.verify_mode = ssl.CERT_REQUIRED
    elif names_authorities:
        context.verify_mode = ssl.CERT_OPTIONAL
    return context
