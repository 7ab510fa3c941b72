"""The server of our own, over real sockets."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import logging
import os
import select
import socket
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from shm_metrics.serving import start_http_server
from shm_metrics.serving.httpd import IDLE_SECONDS, _Handler


@pytest.fixture
def serve(patience):
    """serve(source, **arguments) -> the server, on a free port; it is shut down after the test."""
    running = []

    def start(source, **arguments):
        server, thread = start_http_server(0, source=source, **arguments)
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join(patience)
        assert not thread.is_alive()


@pytest.fixture
def connect(patience):
    """connect(server) -> an HTTP client of it; all are closed after the test."""
    clients = []

    def open_client(server, host="127.0.0.1"):
        client = http.client.HTTPConnection(host, server.server_port, timeout=patience)
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        client.close()


def ask(client, method="GET", path="/metrics", body=None, **headers):
    client.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = client.getresponse()
    return response, response.read()


def test_metrics_are_served_from_a_daemon_thread_on_a_free_port(source, connect, patience):
    server, thread = start_http_server(0, source=source)
    assert thread.daemon
    assert server.server_port > 0
    response, body = ask(connect(server))
    assert response.status == 200
    assert b"depth 7" in body
    server.shutdown()
    thread.join(patience)
    assert not thread.is_alive()


def test_the_port_is_free_after_shutdown_and_a_second_shutdown_does_nothing(source, patience):
    server, thread = start_http_server(0, source=source)
    server.shutdown()
    thread.join(patience)
    server.shutdown()
    with socket.create_server(("127.0.0.1", server.server_port)):
        pass


def test_a_taken_port_is_an_error_at_once(source, serve):
    with pytest.raises(OSError, match="in use"):
        start_http_server(serve(source).server_port, source=source)


@pytest.mark.parametrize("port", [-1, 65_536, 99_999])
def test_a_port_that_there_is_not_is_refused_and_not_taken_for_another(source, port):
    with pytest.raises(ValueError, match=f"port {port}: give a whole number from 0 to 65535"):
        start_http_server(port, source=source)


def test_only_this_machine_is_listened_to_unless_told_otherwise(source, serve):
    assert serve(source).server_address[0] == "127.0.0.1"
    assert serve(source, addr="").server_address[0] in ("0.0.0.0", "::")


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="this machine has no IPv6")
def test_an_ipv6_address_is_listened_on(source, serve, connect):
    server = serve(source, addr="::1")
    response, body = ask(connect(server, host="::1"))
    assert response.status == 200
    assert b"depth 7" in body


def test_one_connection_carries_many_scrapes(source, serve, connect):
    client = connect(serve(source))
    sockets = set()
    for method in ("GET", "HEAD", "OPTIONS", "GET", "GET"):
        response, _ = ask(client, method)
        assert (response.status, response.version) == (200, 11)
        sockets.add(client.sock)
    assert len(sockets) == 1
    assert None not in sockets


def test_headers_and_query_reach_the_endpoint(source, serve, connect):
    response, body = ask(
        connect(serve(source)),
        path="/?name[]=depth",
        Accept="application/openmetrics-text;version=1.0.0",
        Accept_Encoding="gzip",
    )
    text = gzip.decompress(body)
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert b"depth 7" in text
    assert b"jobs" not in text
    assert "Python" not in response.headers["Server"]


def test_a_body_that_nobody_reads_is_not_taken_for_a_next_request(source, serve, connect):
    response, _ = ask(connect(serve(source)), "POST", body=b"GET /smuggled HTTP/1.1\r\n\r\n")
    assert response.status == 405
    assert response.headers["Connection"] == "close"
    assert source.calls == 0


def test_a_failing_source_is_a_500_with_the_reason_and_the_connection_lives_on(source, serve, connect):
    client = connect(serve(source))
    source.error = OSError("gone")
    response, body = ask(client)
    assert (response.status, b"OSError: gone" in body) == (500, True)
    source.error = None
    assert ask(client)[0].status == 200


def test_nothing_is_written_to_the_terminal(source, serve, connect, capfd, patience):
    server = serve(source)
    ask(connect(server))
    ask(connect(server), "POST")
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=patience) as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert b"400" in client.recv(1000)
    assert capfd.readouterr() == ("", "")


def test_fifty_scrapes_at_once_collect_once(gated, serve, connect, watch_boarding, patience):
    server = serve(gated)
    all_aboard = watch_boarding(server.endpoint._flights, 50)
    with ThreadPoolExecutor(50) as pool:
        scrapes = [pool.submit(ask, connect(server)) for _ in range(50)]
        assert all_aboard.wait(patience)
        gated.gate.set()
        answers = [scrape.result(patience) for scrape in scrapes]
    assert {response.status for response, _ in answers} == {200}
    assert len({body for _, body in answers}) == 1
    assert gated.calls == 1


def test_a_client_that_says_nothing_keeps_nobody_waiting(source, serve, connect, patience):
    server = serve(source)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=patience):
        assert ask(connect(server))[0].status == 200


def test_a_client_that_says_nothing_is_let_go_after_a_while(source, serve, monkeypatch, patience):
    assert _Handler.timeout == IDLE_SECONDS
    monkeypatch.setattr(_Handler, "timeout", 0.05)
    server = serve(source)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=patience) as client:
        assert client.recv(1) == b""


def test_shutdown_ends_kept_connections_and_finishes_the_response_under_way(gated, connect, patience):
    server, thread = start_http_server(0, source=gated)
    idle = connect(server)
    ask(idle, "OPTIONS")
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(ask, connect(server))
        assert gated.began.wait(patience)
        server.shutdown()
        thread.join(patience)
        assert idle.sock.recv(1) == b""
        gated.gate.set()
        response, body = busy.result(patience)
    assert response.status == 200
    assert b"depth 7" in body


def test_a_lost_connection_is_no_error_of_ours_and_a_fault_of_ours_is_one(source, serve, caplog):
    server = serve(source)
    for error in (ConnectionResetError("by peer"), ssl.SSLError("bad record"), LookupError("ours")):
        try:
            raise error
        except Exception:
            server.handle_error(None, ("127.0.0.1", 1))
    errors = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.exc_info[1].args for record in errors] == [("ours",)]


def sockets_of(pid):
    """The sockets that a process holds, as the kernel numbers them."""
    directory = f"/proc/{pid}/fd"
    links = set()
    for number in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            links.add(os.readlink(f"{directory}/{number}"))
    return {link for link in links if link.startswith("socket:")}


def test_a_child_of_fork_holds_neither_the_port_nor_a_connection(source, connect, patience):
    server, thread = start_http_server(0, source=source)
    client = connect(server)
    ask(client)
    served = {os.readlink(f"/proc/self/fd/{each.fileno()}") for each in (server.socket, *server._connections)}
    told, telling = os.pipe()
    ending, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        server.shutdown()  # nobody would answer it; it must not wait
        os.write(telling, b"up")
        os.read(ending, 1)
        os._exit(0)
    try:
        ready, _, _ = select.select([told], [], [], patience)
        assert ready
        assert len(served) == 2
        assert served <= sockets_of(os.getpid())
        assert not served & sockets_of(child)
        assert ask(client)[0].status == 200  # the parent's server and connections are as they were
        server.shutdown()
        thread.join(patience)
        with socket.create_server(("127.0.0.1", server.server_port)):
            pass
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        for descriptor in (told, telling, ending, end):
            os.close(descriptor)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1, which is its own authority, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = str(directory / "cert.pem"), str(directory / "key.pem")
    arguments = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", *arguments, *subject, "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    return certificate, key


def https_client(server, certificate, patience, own=None):
    context = ssl.create_default_context(cafile=certificate)
    if own is not None:
        context.load_cert_chain(*own)
    return http.client.HTTPSConnection("127.0.0.1", server.server_port, timeout=patience, context=context)


def test_https_is_served_with_a_certificate_and_a_silent_client_does_not_stop_it(source, serve, certificates, patience):
    certificate, key = certificates
    server = serve(source, certfile=certificate, keyfile=key)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=patience):
        client = https_client(server, certificate, patience)
        for _ in range(2):
            response, body = ask(client)
            assert response.status == 200
            assert b"depth 7" in body
        client.close()


def test_a_client_certificate_is_asked_for_where_it_is_required(source, serve, certificates, patience, capfd):
    certificate, key = certificates
    server = serve(source, certfile=certificate, keyfile=key, client_cafile=certificate, client_auth_required=True)
    known = https_client(server, certificate, patience, own=certificates)
    assert ask(known)[0].status == 200
    known.close()
    stranger = https_client(server, certificate, patience)
    with pytest.raises(OSError):
        ask(stranger)
    stranger.close()
    assert source.calls == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "arguments", [{"keyfile": "k"}, {"client_cafile": "c"}, {"client_capath": "c"}, {"client_auth_required": True}]
)
def test_tls_arguments_without_a_certificate_are_refused(source, arguments):
    with pytest.raises(ValueError, match="certfile"):
        start_http_server(0, source=source, **arguments)


def test_the_server_serves_under_threads_of_the_given_names(source):
    server, thread = start_http_server(0, source=source)
    assert thread.name == "shm_metrics-http"
    assert thread in threading.enumerate()
    server.shutdown()
    thread.join()
