"""Django's signals and requests as events, in a process of its own: Django is configured once a process."""

from __future__ import annotations

from tests.system.jobs.conftest import required

SETUP = """
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.dispatch import Signal
from django.http import Http404, HttpResponse
from django.urls import path
from shm_metrics import get_backend
from shm_metrics.integrations import django_signals

def index(request):
    return HttpResponse("hello")

def broken(request):
    raise RuntimeError("as told")

def missing(request):
    raise Http404

urlpatterns = [path("", index), path("broken", broken), path("missing", missing)]
settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="x", ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None, DEBUG=%s)
application = get_wsgi_application()

def get(path):
    from wsgiref.util import setup_testing_defaults
    environ = {"PATH_INFO": path, "REQUEST_METHOD": "GET"}
    setup_testing_defaults(environ)
    status = []
    response = application(environ, lambda told, headers, *_: status.append(told[:3]))
    b"".join(response)
    response.close()
    return status[0]
def counters():
    return {key: each["value"] for key, each in get_backend().all_metrics().items() if each["type"] == "counter"}
"""

REQUESTS = """
disconnect = django_signals.connect_requests()
assert [get(path) for path in ("/", "/", "/broken", "/missing")] == ["200", "200", "500", "404"]
assert counters() == {
    "request_started_total": 4.0,
    'request_completed_total{status="success"}': 3.0,
    'request_failed_total{status="error"}': 1.0,
}, counters()
assert get_backend().histogram("request_duration_seconds", status="success").count == 3.0
assert get_backend().histogram("request_duration_seconds", status="error").count == 1.0
disconnect()
get("/")
assert counters()["request_started_total"] == 4.0
print("well")
"""

SIGNALS = """
shipped = Signal()
disconnect = django_signals.connect(shipped, "order.completed", payload=lambda order: {"duration": order["took"]})
django_signals.connect(shipped, "order.started", sender=str)
shipped.send(None, order={"took": 3})
shipped.send(str, order={"took": 4})
assert counters() == {"order_completed_total": 2.0, "order_started_total": 1.0}, counters()
assert get_backend().histogram("order_duration_seconds").sum == 7.0
disconnect()
shipped.send(None, order={"took": 3})
assert counters()["order_completed_total"] == 2.0
print("well")
"""


def test_requests_of_django_are_events(python, segment_name):
    required("django")
    assert python(SETUP % False + REQUESTS, SHM_METRICS_SEGMENT=segment_name) == "well\n"


ASGI = """
import asyncio
from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIHandler
from django.http import StreamingHttpResponse

disconnect = django_signals.connect_requests()

async def aslow(request):
    await asyncio.sleep(0.05)
    return HttpResponse("slow")

async def abroken(request):
    await asyncio.sleep(0.05)
    raise RuntimeError("as told")

async def astream(request):
    async def parts():
        yield b"a"
        await asyncio.sleep(0.05)
        yield b"b"
    return StreamingHttpResponse(parts())

urlpatterns += [path("aslow", aslow), path("abroken", abroken), path("astream", astream)]

async def aget(application, path):
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], "http_version": "1.1"}
    messages, sent = [{"type": "http.request", "body": b"", "more_body": False}], []
    closed = asyncio.Event()

    async def receive():
        if messages:
            return messages.pop()
        await closed.wait()

    async def send(message):
        sent.append(message)

    await application(scope, receive, send)
    return sent[0]["status"]

async def main(application, *paths):
    return await asyncio.gather(*[aget(application, path) for path in paths])

paths = ["/", "/broken", "/missing", "/aslow", "/abroken", "/astream"]
statuses = [200, 500, 404, 200, 500, 200]
assert asyncio.run(main(get_asgi_application(), *paths * 2)) == statuses * 2
assert counters() == {
    "request_started_total": 12.0,
    'request_completed_total{status="success"}': 8.0,
    'request_failed_total{status="error"}': 4.0,
}, counters()
seconds = {each: get_backend().histogram("request_duration_seconds", status=each) for each in ("success", "error")}
assert (seconds["success"].count, seconds["error"].count) == (8, 4)
assert seconds["success"].sum > 0.2 and seconds["error"].sum > 0.1

# A handler of somebody's own is met by its first request, whose duration and failure are not known.
class Own(ASGIHandler):
    pass

own = Own()
assert asyncio.run(main(own, "/broken")) == [500]
assert asyncio.run(main(own, *paths)) == statuses
assert counters()["request_started_total"] == 19.0, counters()
assert counters()['request_failed_total{status="error"}'] == 6.0
assert seconds["success"].count == 12 and seconds["error"].count == 6

assert get("/") == "200"  # by WSGI, in the same process
assert seconds["success"].count == 13
disconnect()
asyncio.run(main(own, *paths))
asyncio.run(main(get_asgi_application(), *paths))
assert counters()["request_started_total"] == 20.0
print("well")
"""


def test_requests_under_asgi_fail_and_take_time_as_they_do_under_wsgi(python, segment_name):
    required("django")
    assert python(SETUP % False + ASGI, SHM_METRICS_SEGMENT=segment_name) == "well\n"


def test_any_signal_is_an_event(python, segment_name):
    required("django")
    # With DEBUG Django looks at what a receiver takes.
    assert python(SETUP % True + SIGNALS, SHM_METRICS_SEGMENT=segment_name) == "well\n"
