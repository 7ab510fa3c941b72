"""Django with django-prometheus: a project in one file."""

import os
import signal
from pathlib import Path

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.exceptions import PermissionDenied
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpResponse
from django.urls import include, path

# settings.py

settings.configure(
    SECRET_KEY="not a secret",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django_prometheus"],
    MIDDLEWARE=[
        "django_prometheus.middleware.PrometheusBeforeMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django_prometheus.middleware.PrometheusAfterMiddleware",
    ],
    DATABASES={
        "default": {
            "ENGINE": "django_prometheus.db.backends.sqlite3",
            "NAME": Path(__file__).with_name("db.sqlite3"),
        }
    },
    LOGGING_CONFIG=None,
)

# views.py


def main(request):
    return HttpResponse("Hello\n")


def orders(request, kind):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse(f"orders of {kind}\n")


def forbidden(request):
    raise PermissionDenied


def error(request):
    raise RuntimeError("an error that nobody handles")


def crash(request):
    os.kill(os.getpid(), signal.SIGKILL)


# urls.py

urlpatterns = [
    path("", main, name="main"),
    path("orders/<kind>", orders, name="orders"),
    path("forbidden", forbidden, name="forbidden"),
    path("error", error, name="error"),
    path("crash", crash, name="crash"),
    path("", include("django_prometheus.urls")),
]

# wsgi.py and asgi.py

django.setup()
wsgi = get_wsgi_application()
asgi = get_asgi_application()
