"""What exporters send to, for real: a Pushgateway, datagram sockets, an HTTP server that keeps what it is sent."""

from __future__ import annotations

import gzip
import json
import re
import socket
import ssl
import threading
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

from tests.support.cache_servers import HOST, Server, program
from tests.system.jobs.conftest import required

_LINE = re.compile(r"(?P<name>[^:|]+):(?P<value>[^|]+)\|(?P<type>[a-z]+)(?:\|#(?P<tags>.*))?")


class Pushgateway(Server):
    ready = b"GET /-/ready HTTP/1.0\r\n\r\n"

    def __init__(self, directory: Path) -> None:
        path = program("prometheus-pushgateway")
        super().__init__(lambda port: [path, f"--web.listen-address={HOST}:{port}"], directory)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def page(self) -> str:
        with urlopen(f"{self.url}/metrics", timeout=10) as answer:
            return answer.read().decode()

    def samples(self, name: str) -> set[str]:
        """The lines of the samples of this name."""
        return {line for line in self.page().splitlines() if re.match(rf"{name}[{{ ]", line)}


class StatsdDaemon(Server):
    """The StatsD of Node.js; `port` is that of its administration, by TCP, and `udp` where lines go."""

    ready = b"health\n"

    def __init__(self, directory: Path) -> None:
        path = program("statsd", "npm install --global statsd")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((HOST, 0))
            self.udp = int(probe.getsockname()[1])

        def command(port: int) -> list[str]:
            configuration = {
                "address": HOST,
                "port": self.udp,
                "mgmt_address": HOST,
                "mgmt_port": port,
                "flushInterval": 86_400_000,  # milliseconds: what was counted stays
                "backends": [],
            }
            (directory / "config.js").write_text(json.dumps(configuration))
            return [path, "config.js"]

        super().__init__(command, directory)

    def ask(self, what: str) -> dict[str, float]:
        """`counters` or `gauges`, by name."""
        with socket.create_connection(self.address, timeout=10) as asked:
            asked.sendall(f"{what}\n".encode())
            told = b""
            while not told.endswith(b"END\n\n"):
                told += asked.recv(1 << 16)
        return {name: float(value) for name, value in re.findall(r"([\w.;=-]+)'?: (-?[\d.]+)", told.decode())}


class Collector(Server):
    """An OpenTelemetry collector, that passes on to `to` what it is sent by OTLP/HTTP."""

    ready = b"GET / HTTP/1.0\r\n\r\n"

    def __init__(self, directory: Path, to: str) -> None:
        rotel = required("rotel")
        agent = Path(rotel.__file__).with_name("rotel-agent")
        options = ["--exporter=otlp", f"--otlp-exporter-endpoint={to}", "--otlp-exporter-protocol=http"]
        options += ["--disable-batching", f"--otlp-grpc-endpoint={HOST}:0"]
        super().__init__(lambda port: [str(agent), "start", f"--otlp-http-endpoint={HOST}:{port}", *options], directory)


class Datagrams:
    """A socket that datagrams come in at. path: a Unix socket's; None: UDP on a free port."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        if path is None:
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            self.socket.bind((HOST, 0))
        else:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.socket.bind(str(path))
        self.gauges: dict[str, float] = {}
        self.counters: dict[str, float] = defaultdict(float)
        self.deltas: list[float] = []
        self.longest = 0

    @property
    def port(self) -> int:
        return self.socket.getsockname()[1]

    @property
    def options(self) -> dict[str, object]:
        return {"host": HOST, "port": self.port} if self.path is None else {"path": str(self.path)}

    def receive(self, wait: float = 0.0) -> list[str]:
        """The lines that are there, and what they say, added up as a StatsD server does; `wait`: for the first."""
        lines: list[str] = []
        while True:
            self.socket.settimeout(wait if not lines and wait else 0.0)
            try:
                data = self.socket.recv(1 << 16)
            except (BlockingIOError, TimeoutError):
                break
            self.longest = max(self.longest, len(data))
            lines += data.decode().split("\n")
        for line in lines:
            found = _LINE.fullmatch(line)
            assert found is not None, f"no StatsD line: {line!r}"
            key = found["name"] + (f"#{found['tags']}" if found["tags"] else "")
            if found["type"] == "c":
                self.deltas.append(float(found["value"]))
                self.counters[key] += float(found["value"])
            else:
                assert found["type"] == "g"
                self.gauges[key] = float(found["value"])
        return lines

    def until(self, done: Callable[[], bool], patience: float = 60.0) -> None:
        """Receive until `done`."""
        for _ in range(int(patience * 4)):
            if done():
                return
            self.receive(0.25)
        raise AssertionError(f"never came: {dict(self.counters)}")

    def close(self) -> None:
        self.socket.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class OneAnswer:
    """A TCP server that reads one request and answers these bytes as they are.

    pause: seconds between two of its bytes; it goes on until the client is gone. linger: it closes only then, too.
    context: of TLS.
    """

    def __init__(
        self, answer: bytes, *, pause: float = 0.0, linger: bool = False, context: ssl.SSLContext | None = None
    ) -> None:
        self._answer, self._pause, self._linger, self._context = answer, pause, linger, context
        self.request = b""
        self._listener = socket.create_server((HOST, 0))
        self._listener.settimeout(30)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._listener.getsockname()[1]

    def _serve(self) -> None:
        try:
            accepted = self._listener.accept()[0]
            accepted.settimeout(30)
            if self._context is not None:
                accepted = self._context.wrap_socket(accepted, server_side=True)
            with accepted:
                self._read(accepted)
                for place in range(len(self._answer)) if self._pause else ():
                    accepted.sendall(self._answer[place : place + 1])
                    if self._ended.wait(self._pause):
                        return
                if not self._pause:
                    accepted.sendall(self._answer)
                if self._linger:
                    accepted.recv(1)
        except OSError:
            pass  # the client has had enough

    def _read(self, accepted: socket.socket) -> None:
        while b"\r\n\r\n" not in self.request:
            self.request += accepted.recv(1 << 16)
        head, _, body = self.request.partition(b"\r\n\r\n")
        length = int(re.search(rb"Content-Length: (\d+)", head)[1])
        while len(body) < length:
            body += accepted.recv(1 << 16)

    def close(self) -> None:
        self._ended.set()
        self._listener.close()
        self._thread.join()


class Receiver:
    """An HTTP server that keeps (method, path, headers, body) of each request, and answers `status` and `answer`."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.status = 200
        self.answer = b""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers["Content-Encoding"] == "gzip":
                    body = gzip.decompress(body)
                receiver.requests.append((self.command, self.path, dict(self.headers), body))
                self.send_response(receiver.status)
                self.send_header("Content-Length", str(len(receiver.answer)))
                self.end_headers()
                self.wfile.write(receiver.answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.server_port}/v1/metrics"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
