"""Checks of the options of exporters. An invalid option fails when the exporter is made, not at its first push.

Each check returns the value in the form that is used, or raises InvalidMetricError, which names the option, the value
and what to give. Messages leave out what may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from shm_metrics.errors import InvalidMetricError

__all__ = ["check_flag", "check_headers", "check_names", "check_seconds", "check_text", "check_texts", "check_url"]

_IN_A_URL = re.compile(r"[!-~]+")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_IN_A_HEADER = re.compile(r"[\t -~\x80-\xff]*")
_HEADERS_OF_OURS = ("connection", "content-encoding", "content-length", "content-type", "transfer-encoding")


def check_text(name: str, value: Any, *, empty: bool = False) -> str:
    """Text that UTF-8 can carry."""
    if not isinstance(value, str) or not (value or empty):
        raise InvalidMetricError(f"{name}={value!r}: give text{'' if empty else ', and some of it'}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidMetricError(f"{name}={value!r}: give text that UTF-8 can carry; {error.reason}") from error
    return value


def check_texts(name: str, value: Any) -> dict[str, str]:
    """A mapping of text to text; keys are not empty. None is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidMetricError(f"{name}={value!r}: give a mapping of text to text")
    return {
        check_text(f"a key of {name}", key): check_text(f"{name}[{key!r}]", value[key], empty=True) for key in value
    }


def check_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidMetricError(f"{name}={value!r}: give True or False (true or false on a command line)")
    return value


def check_names(names: Iterable[str] | None) -> frozenset[str] | None:
    """Return `names` as documents.chosen() takes them. A single name need not be in a list."""
    if names is None:
        return None
    wanted = [names] if isinstance(names, str) else list(names) if isinstance(names, Iterable) else []
    if not wanted or not all(isinstance(name, str) and name for name in wanted):
        raise InvalidMetricError(f"names={names!r}: give one or more names of families or samples; all if left out")
    return frozenset(wanted)


def check_seconds(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise InvalidMetricError(f"{name}={value!r}: give seconds, more than 0")
    return float(value)


def check_url(name: str, url: Any) -> str:
    """Return an http(s) URL unchanged. name: of the option or environment variable, for the message."""
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        parts.port  # noqa: B018  # raises for what is no port
    except ValueError:
        parts = urlsplit("")
    if "@" in parts.netloc:
        # Not shown: there may be a password in it.
        raise InvalidMetricError(
            f"{name}: it has a user before its host, which would not be sent: give the URL without, and "
            f"auth=(user, password), or an Authorization among headers"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or parts.query or parts.fragment:
        raise InvalidMetricError(
            f"{name}={url!r}: give http://HOST:PORT or https://HOST:PORT, and a path if there is one"
        )
    if not _IN_A_URL.fullmatch(url):
        raise InvalidMetricError(f"{name}={url!r}: give it percent-encoded, without blanks and in ASCII")
    return str(url)


def check_headers(name: str, value: Any) -> dict[str, str]:
    """Return headers that HTTP can carry. Messages do not show their values."""
    if value is not None and not isinstance(value, Mapping):
        raise InvalidMetricError(f"{name}: give a mapping of text to text")
    headers = dict(value or {})
    for header, text in headers.items():
        if not isinstance(header, str) or not _HEADER.fullmatch(header):
            raise InvalidMetricError(f"{name}: {header!r} is no name of a header")
        if header.lower() in _HEADERS_OF_OURS:
            raise InvalidMetricError(f"{name}: leave {header!r} out, the exporter says that itself")
        if not isinstance(text, str) or not _IN_A_HEADER.fullmatch(text):
            raise InvalidMetricError(f"{name}[{header!r}]: give text in one line, of Latin-1")
    return headers
