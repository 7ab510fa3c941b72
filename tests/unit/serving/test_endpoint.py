"""What is answered, whatever the edge: methods, negotiation, filters, compression, failure."""

from __future__ import annotations

import gzip
import logging
import os
import select
from concurrent.futures import ThreadPoolExecutor

import prometheus_client
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from shm_metrics.model.families import GAUGE, HISTOGRAM, Sample, SampleFamily
from shm_metrics.serving import Endpoint
from shm_metrics.serving.endpoint import MOST_MESSAGES_REMEMBERED, names_in_query

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def sample_names(body: bytes) -> set[str]:
    return {sample.name for family in text_string_to_metric_families(body.decode()) for sample in family.samples}


def test_a_scrape_without_wishes_is_prometheus_text(source):
    response = Endpoint(source).answer()
    headers = dict(response.headers)
    assert response.status_line == "200 OK"
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert headers["Content-Length"] == str(len(response.body))
    assert "Content-Encoding" not in headers
    assert sample_names(response.body) == {"jobs_total", "depth"}


def test_openmetrics_is_sent_to_whom_accepts_it(source):
    response = Endpoint(source).answer(accept=OPENMETRICS)
    assert dict(response.headers)["Content-Type"].startswith("application/openmetrics-text")
    families = list(strict_openmetrics(response.body.decode()))
    assert [family.name for family in families] == ["jobs", "depth"]


def test_gzip_is_sent_to_whom_accepts_it_and_is_the_same_text(source):
    endpoint = Endpoint(source)
    plain, packed = endpoint.answer(), endpoint.answer(accept_encoding="gzip")
    assert dict(packed.headers)["Content-Encoding"] == "gzip"
    assert dict(packed.headers)["Content-Length"] == str(len(packed.body))
    assert gzip.decompress(packed.body) == plain.body


def test_caches_are_told_what_the_answer_depends_on(source):
    assert dict(Endpoint(source).answer().headers)["Vary"] == "Accept, Accept-Encoding"


def test_names_restrict_the_answer(source):
    assert sample_names(Endpoint(source).answer(names=["depth"]).body) == {"depth"}


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", []),
        ("x=1", []),
        ("name[]=a&name[]=b", ["a", "b"]),
        ("name%5B%5D=a%3Ab", ["a:b"]),
        ("name[]=", []),
        ("&&=&name[]", []),
    ],
)
def test_names_are_read_from_the_query(query, names):
    assert names_in_query(query) == names


def test_a_registry_of_prometheus_client_is_a_source():
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Counter("old_requests", "Counted there.", registry=registry).inc(2)
    body = Endpoint(registry).answer().body
    assert b"old_requests_total 2.0\n" in body


def test_head_has_the_header_of_get_and_no_body(source):
    endpoint = Endpoint(source)
    get, head = endpoint.answer(), endpoint.answer(method="HEAD")
    assert head == (get.status, get.headers, b"")


def test_options_tells_what_is_allowed_without_collecting(source):
    response = Endpoint(source).answer(method="OPTIONS")
    assert (response.status, dict(response.headers)["Allow"]) == (200, "GET, HEAD, OPTIONS")
    assert source.calls == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "get", "ÄÖ"])
def test_other_methods_are_refused_without_collecting(source, method):
    response = Endpoint(source).answer(method=method)
    assert (response.status, dict(response.headers)["Allow"]) == (405, "GET, HEAD, OPTIONS")
    assert source.calls == 0


def test_a_browsers_icon_costs_no_rendering(source):
    response = Endpoint(source).answer(path="/favicon.ico")
    assert (response.status, response.body, source.calls) == (200, b"", 0)


def test_a_failing_source_is_a_500_with_the_reason(source):
    source.error = OSError(5, "Input/output error")
    response = Endpoint(source).answer(accept=OPENMETRICS, accept_encoding="gzip")
    assert response.status_line == "500 Internal Server Error"
    assert dict(response.headers)["Content-Type"] == "text/plain; charset=utf-8"
    assert b"OSError: [Errno 5] Input/output error" in response.body


def test_a_source_that_fails_half_way_gives_no_half_answer(source):
    class HalfWay:
        def collect(self):
            yield from source.collect()
            raise LookupError("the second half")

    response = Endpoint(HalfWay()).answer()
    assert response.status == 500
    assert b"jobs_total" not in response.body


def test_a_reason_that_is_no_valid_text_is_told_all_the_same(source, caplog):
    caplog.set_level(logging.CRITICAL, "shm_metrics.serving.endpoint")  # pytest's own report cannot hold the traceback
    source.error = ValueError("\udcff")
    assert b"\\udcff" in Endpoint(source).answer().body


def test_a_failure_is_logged_once_a_message_and_with_its_traceback(source, caplog):
    endpoint = Endpoint(source)
    for message in ("disk", "disk", "net", "disk"):
        source.error = OSError(message)
        endpoint.answer()
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.args for record in errors] == [
        ("a scrape failed: OSError: disk",),
        ("a scrape failed: OSError: net",),
    ]
    assert all(record.exc_info for record in errors)


def test_a_family_that_is_left_out_is_logged_once(caplog):
    class Clashing:
        def collect(self):
            yield SampleFamily("x", "First.", GAUGE, [Sample("x", {}, 1.0)])
            yield SampleFamily("x", "Second.", HISTOGRAM, [Sample("x_count", {}, 1.0)])

    endpoint = Endpoint(Clashing())
    for _ in range(2):
        assert b"x 1.0\n" in endpoint.answer().body
    assert len(caplog.records) == 1
    assert "'x' is left out" in caplog.text


def test_messages_that_always_differ_do_not_fill_the_memory(source):
    endpoint = Endpoint(source)
    for number in range(3 * MOST_MESSAGES_REMEMBERED):
        source.error = OSError(f"attempt {number}")
        endpoint.answer()
    assert len(endpoint._logged) <= MOST_MESSAGES_REMEMBERED


def test_the_endpoint_recovers_with_its_source(source):
    endpoint = Endpoint(source)
    source.error = OSError("for now")
    assert endpoint.answer().status == 500
    source.error = None
    assert endpoint.answer().status == 200


def test_fifty_scrapes_at_once_collect_once(gated, watch_boarding, patience):
    endpoint = Endpoint(gated)
    all_aboard = watch_boarding(endpoint._flights, 50)
    with ThreadPoolExecutor(50) as pool:
        answers = [pool.submit(endpoint.answer, method="HEAD" if n % 5 == 0 else "GET") for n in range(50)]
        assert all_aboard.wait(patience)
        gated.gate.set()
        statuses = {answer.result(patience).status for answer in answers}
    assert statuses == {200}
    assert gated.calls == 1


def test_scrapes_share_by_what_they_get_and_not_by_how_they_ask(gated, watch_boarding, patience):
    endpoint = Endpoint(gated)
    wishes = [
        {"names": ["depth", "jobs_total"]},
        {"names": ["jobs_total", "depth", "depth"]},
        {"accept_encoding": "gzip"},
        {"accept_encoding": "gzip, deflate;q=0.5"},
        {"accept": OPENMETRICS},
        {},
    ]
    all_aboard = watch_boarding(endpoint._flights, len(wishes))
    with ThreadPoolExecutor(len(wishes)) as pool:
        answers = [pool.submit(lambda wish=wish: endpoint.answer(**wish)) for wish in wishes]
        assert all_aboard.wait(patience)
        gated.gate.set()
        names, same_names, packed, same_packed, openmetrics, plain = [answer.result(patience) for answer in answers]
    assert gated.calls == 4
    assert names.body == same_names.body
    assert packed.body == same_packed.body
    assert gzip.decompress(packed.body) == plain.body
    assert openmetrics.body.endswith(b"# EOF\n")


def test_a_failure_goes_to_all_who_shared_it_and_is_logged_once(gated, watch_boarding, patience, caplog):
    endpoint = Endpoint(gated)
    gated.error = OSError("for all")
    all_aboard = watch_boarding(endpoint._flights, 10)
    with ThreadPoolExecutor(10) as pool:
        answers = [pool.submit(endpoint.answer) for _ in range(10)]
        assert all_aboard.wait(patience)
        gated.gate.set()
        assert {answer.result(patience).status for answer in answers} == {500}
    assert len(caplog.records) == 1


def test_an_exit_of_the_rendering_thread_is_a_500_for_who_shared_it(gated, watch_boarding, patience):
    endpoint = Endpoint(gated)
    gated.error = SystemExit(3)
    all_aboard = watch_boarding(endpoint._flights, 2)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(endpoint.answer)
        assert gated.began.wait(patience)
        second = pool.submit(endpoint.answer)
        assert all_aboard.wait(patience)
        gated.gate.set()
        with pytest.raises(SystemExit):
            first.result(patience)
        assert second.result(patience).status == 500


def test_a_child_forked_during_a_rendering_answers_its_own_scrapes(gated, patience):
    endpoint = Endpoint(gated)
    parent = os.getpid()
    real_collect = gated.collect

    def collect():
        return real_collect() if os.getpid() == parent else iter(())

    gated.collect = collect
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(endpoint.answer)
        assert gated.began.wait(patience)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, str(endpoint.answer().status).encode())
            os._exit(0)
        os.close(writing)
        try:
            ready, _, _ = select.select([reading], [], [], patience)
            assert ready
            assert os.read(reading, 100) == b"200"
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
            os.close(reading)
            gated.gate.set()
        assert held.result(patience).status == 200


def test_a_source_with_nothing_there_yet_is_a_503_and_no_traceback_in_the_log(source, caplog):
    source.error = FileNotFoundError("no metrics segment at /dev/shm/x")
    response = Endpoint(source).answer()
    assert response.status_line == "503 Service Unavailable"
    assert response.body == b"There are no metrics: no metrics segment at /dev/shm/x\n"
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("WARNING", None)]
