"""The exporter `pushgateway`: a scrape's page to a Prometheus Pushgateway.

https://github.com/prometheus/pushgateway#api
"""

from __future__ import annotations

import re
import socket
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from shm_metrics.errors import ExportError, InvalidMetricError
from shm_metrics.exporters.documents import describe_dropped, text
from shm_metrics.exporters.http_request import send
from shm_metrics.exporters.options import check_headers, check_seconds, check_text, check_texts, check_url
from shm_metrics.exposition import CONTENT_TYPE_TEXT

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

__all__ = ["PushgatewayExporter", "group_path"]

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class PushgatewayExporter:
    """url: of the Pushgateway, with its --web.route-prefix if it has one. job: the first label of the grouping key.

    grouping: the other labels; {"instance": this host's name} if left out, so that no host replaces another's group.
    method: PUT replaces the whole group, POST only the families that are pushed.
    names: the families to push, all if left out. headers, auth (user, password): sent along. timeout: seconds.
    Raises InvalidMetricError.
    """

    def __init__(
        self,
        *,
        url: str,
        job: str,
        grouping: Mapping[str, str] | None = None,
        method: str = "PUT",
        names: Iterable[str] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        timeout: float = 10.0,
    ) -> None:
        if method not in ("PUT", "POST"):
            raise InvalidMetricError(f"method={method!r}: give PUT or POST; delete() removes the group")
        self.grouping = {"instance": socket.gethostname()} if grouping is None else check_texts("grouping", grouping)
        self.url = f"{check_url('url', url).rstrip('/')}/metrics{group_path(job, self.grouping)}"
        self._method = method
        self._page = text(names=names)
        self._headers = check_headers("headers", headers)
        if auth is not None:
            if any(name.lower() == "authorization" for name in self._headers):
                raise InvalidMetricError("headers: leave Authorization out, or auth: both say the same")
            self._headers["Authorization"] = _basic(auth)
        self._timeout = check_seconds("timeout", timeout)

    def export(self, backend: MetricsBackend) -> bytes:
        """Push now; return the page that was taken. Raise ExportError; a family that cannot be shown raises last."""
        page, dropped = self._page.render(backend)
        send(self._method, self.url, page, {**self._headers, "Content-Type": CONTENT_TYPE_TEXT}, self._timeout)
        if dropped:
            raise ExportError(f"{describe_dropped(dropped)}; the others were pushed", partly=True)
        return page

    def delete(self) -> None:
        """Remove the group; the gateway accepts this and acts a moment later. Raise ExportError."""
        send("DELETE", self.url, b"", self._headers, self._timeout)


def group_path(job: str, grouping: Mapping[str, str]) -> str:
    """`/job/JOB/LABEL/VALUE...`; what a path cannot hold in base64. Raises InvalidMetricError."""
    path = _pair("job", check_text("job", job))  # the Pushgateway takes no group without it
    for label, value in sorted(check_texts("grouping", grouping).items()):
        if not _LABEL.fullmatch(label) or label.startswith("__") or label == "job":
            raise InvalidMetricError(f"grouping label {label!r}: give a label's name, and not `job`")
        path += _pair(label, value)
    return path


def _basic(auth: Any) -> str:
    # Neither is shown: one may be where the other should be.
    if not isinstance(auth, tuple | list) or len(auth) != 2 or not all(isinstance(each, str) for each in auth):
        raise InvalidMetricError("auth: give (user, password), two texts")
    user, password = auth
    if ":" in user:
        raise InvalidMetricError("auth: give a user without a colon, for there the user's name ends")
    try:
        return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"
    except UnicodeEncodeError as error:
        raise InvalidMetricError(f"auth: give text that UTF-8 can carry; {error.reason}") from None


def _pair(label: str, value: str) -> str:
    # An empty value would be a double slash, which proxies merge; "=" is base64 of nothing (the API says so). "." and
    # ".." would be taken for a directory.
    if not value or "/" in value or value in (".", ".."):
        return f"/{label}@base64/{urlsafe_b64encode(value.encode()).decode() or '='}"
    return f"/{label}/{quote(value, safe='')}"
