"""A request ends in time and with a whole answer, or it is an error; over real sockets, that answer what they like."""

from __future__ import annotations

import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shm_metrics import ExportError
from shm_metrics.exporters.http_request import send
from tests.support.cache_servers import HOST, program
from tests.support.receivers import OneAnswer

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def answering() -> Iterator[Callable[..., OneAnswer]]:
    made = []

    def make(answer: bytes, **how: object) -> OneAnswer:
        made.append(OneAnswer(answer, **how))
        return made[-1]

    yield make
    for each in made:
        each.close()


def ask(server: OneAnswer, timeout: float = 30.0, body: bytes = b"a=1") -> bytes:
    return send("POST", f"http://{HOST}:{server.port}/x", body, {"a": "b"}, timeout)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (OK + b"Content-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (OK + b"Content-Length: 3\r\n\r\nabc", b"abc"),
        (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\na", b"a"),
    ],
    ids=str,
)
def test_a_whole_answer_is_taken_at_once_though_the_receiver_keeps_the_connection(answering, answer, told):
    assert ask(answering(answer, linger=True)) == told


def test_an_answer_without_a_length_ends_with_the_connection(answering):
    server = answering(b"HTTP/1.0 200 OK\r\n\r\nabc")
    assert ask(server) == b"abc"
    assert server.request.startswith(b"POST /x HTTP/1.1\r\nHost: ")
    assert b"\r\na: b\r\n" in server.request


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 O",
        OK,
        OK + b"Content-Le",
        OK + b"Content-Type: text/plain\r\n",
        OK + b"Content-Length: 3\r\n\r\n",
        OK + b"Content-Length: 3\r\n\r\nab",
        CHUNKED,
        CHUNKED + b"3\r\na",
        CHUNKED + b"3\r\nabc\r\n",
        CHUNKED + b"3\r\nabc\r\n0\r\n",
    ],
    ids=str,
)
def test_a_success_that_is_cut_off_is_none(answering, answer):
    with pytest.raises(ExportError, match=r"not whole|before the answer was whole"):
        ask(answering(answer))


def test_a_success_that_does_not_end_is_none(answering):
    with pytest.raises(ExportError, match="200, but the answer is not whole: 1048576 bytes were received"):
        ask(answering(OK + b"Content-Length: 2000000\r\n\r\n" + b"a" * 2_000_000))


def test_a_refusal_that_is_cut_off_is_told_with_what_came_of_it(answering):
    with pytest.raises(ExportError, match="503 Busy: try"):
        ask(answering(b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\ntry"))


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"X: " + b"a" * 1000,
        OK + b"Content-Length: 1000\r\n\r\n" + b"a" * 1000,
        CHUNKED + b"1\r\na\r\n" * 200,
    ],
    ids=["head", "body", "chunks"],
)
def test_a_receiver_that_drips_does_not_get_a_time_out_a_byte(answering, answer):
    """Each pause is shorter than the time-out, and all the bytes together take forty times as long."""
    began = time.monotonic()
    with pytest.raises(ExportError, match=r"no answer within 0\.5 s"):
        ask(answering(answer, pause=0.02), timeout=0.5)
    assert time.monotonic() - began < 10


def test_a_receiver_that_does_not_read_does_not_hold_the_sender(answering):
    server = answering(b"", linger=True)
    server._read = lambda accepted: server._ended.wait(30)
    with pytest.raises(ExportError, match=r"no answer within 0\.2 s"):
        ask(server, timeout=0.2, body=b"a" * (32 << 20))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate of localhost, in one file."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    command = [program("openssl"), "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(path), "-out", str(path.with_suffix(".crt"))]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_tls_is_spoken_with_who_can_be_trusted(answering, tls, certificate, monkeypatch):
    answer = OK + b"Content-Length: 3\r\n\r\nabc"
    with pytest.raises(ExportError, match="CERTIFICATE_VERIFY_FAILED"):
        send("POST", f"https://localhost:{answering(answer, context=tls).port}/", b"x", {}, 30)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = answering(answer, context=tls, linger=True)
    assert send("POST", f"https://localhost:{server.port}/", b"x" * 300_000, {}, 30) == b"abc"


def test_tls_that_drips_ends_in_time_too(answering, tls, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = answering(OK + b"X: " + b"a" * 1000, context=tls, pause=0.02)
    with pytest.raises(ExportError, match=r"no answer within 0\.5 s"):
        send("POST", f"https://localhost:{server.port}/", b"x", {}, 0.5)
