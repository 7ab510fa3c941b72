"""A TCP proxy before a cache, which does what networks do: it counts, delays, refuses, cuts, and loses replies."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

HOST = "127.0.0.1"


class Proxy:
    """Listens on `port` for `target`, and passes everything on, until it is told otherwise.

    exchanges: how often a client sent something after it had read all replies, or began: round trips.
    delay: seconds that each reply is kept back.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.exchanges = 0
        self.delay = 0.0
        self._lose = 0
        self._refusing = False
        self._held = False
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._run(self._accept)

    # -- what a test says -----------------------------------------------------------------------------------------

    def lose_replies(self, count: int) -> None:
        """The next `count` requests reach the server and are answered; the connection is cut instead of the reply."""
        with self._lock:
            self._lose = count

    def refuse(self) -> None:
        """Cut all connections, and every new one at once."""
        self._refusing = True
        self.cut()

    def hold(self) -> None:
        """Pass nothing on any more, and cut nothing: a partition."""
        self._held = True

    def pass_on(self) -> None:
        """As in the beginning. What was held back arrives now."""
        self._refusing = self._held = False
        self.delay = 0.0
        self.lose_replies(0)

    def cut(self) -> None:
        with self._lock:
            connections, self._open = self._open, set()
        for connection in connections:
            _shut(connection)

    @contextmanager
    def counting(self, expected: int) -> Iterator[None]:
        """The block makes exactly this many round trips."""
        before = self.exchanges
        yield
        assert self.exchanges - before == expected

    def close(self) -> None:
        self._closing.set()
        _shut(self._listener)
        self.cut()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    # -- what it does ---------------------------------------------------------------------------------------------

    def _run(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing or self._closing.is_set():
                client.close()
                continue
            self._run(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self.target, timeout=5)
        except OSError:
            client.close()
            return
        with client, server:
            with self._lock:
                self._open |= {client, server}
            try:
                self._pump(client, server)
            except OSError:
                pass
            finally:
                with self._lock:
                    self._open -= {client, server}

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        asking = False
        while not self._closing.is_set():
            ready, _, _ = select.select([client, server], [], [], 1)
            while self._held and not self._closing.wait(0.005):
                pass
            if client in ready:
                data = client.recv(1 << 16)
                if not data:
                    return
                if not asking:
                    self.exchanges += 1
                    asking = True
                server.sendall(data)
            if server in ready:
                data = server.recv(1 << 16)
                if not data or self._loses():
                    return
                if self.delay and self._closing.wait(self.delay):
                    return
                asking = False
                client.sendall(data)

    def _loses(self) -> bool:
        with self._lock:
            lost, self._lose = self._lose > 0, max(0, self._lose - 1)
        return lost


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
