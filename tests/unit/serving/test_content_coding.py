"""Accept-Encoding, as RFC 9110 has it."""

import pytest

from shm_metrics.serving.content_coding import accepts_gzip


@pytest.mark.parametrize(
    "header",
    [
        "gzip",
        "GZIP",
        "x-gzip",
        "deflate, gzip",
        "gzip;q=0.1",
        "gzip; q=1.0, identity; q=0.5",
        "*",
        "br;q=1.0, *;q=0.5",
        "gzip;level=9;q=0.2",
        "gzip, identity",
        "identity;q=0, gzip;q=0.001",
    ],
)
def test_gzip_is_used_where_the_client_takes_it(header):
    assert accepts_gzip(header)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "identity",
        "deflate, br",
        "gzip;q=0",
        "gzip;q=0.000",
        "*;q=0",
        "gzip;q=0, *;q=1",
        "gzip;q=0.5, identity;q=0.8",
        "gzip;q=often",
        "gzip;q=nan",
        "gzip;q=7",
        "notgzip",
        ";;,,;q",
    ],
)
def test_gzip_is_not_used_where_it_is_refused_liked_less_or_garbled(header):
    assert not accepts_gzip(header)
