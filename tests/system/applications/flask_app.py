"""Flask with prometheus-flask-exporter."""

import os
import signal

from flask import Flask, abort, request
from prometheus_flask_exporter import PrometheusMetrics

app = Flask(__name__)
metrics = PrometheusMetrics(app)

# static information as metric
metrics.info("app_info", "Application info", version="1.0.3")


@app.route("/")
def main():
    return "tracked by default\n"


@app.route("/skip")
@metrics.do_not_track()
def skip():
    return "default metrics are not collected\n"


@app.route("/orders/<kind>")
@metrics.counter("orders_by_kind", "Orders by kind", labels={"kind": lambda: request.view_args["kind"]})
@metrics.gauge("in_progress", "Requests for orders in progress")
def orders(kind):
    return f"orders of {kind}\n"


@app.route("/status/<int:status>")
@metrics.do_not_track()
@metrics.summary("requests_by_status", "Request latencies by status", labels={"status": lambda r: r.status_code})
@metrics.histogram(
    "requests_by_status_and_path",
    "Request latencies by status and path",
    labels={"status": lambda r: r.status_code, "path": lambda: request.path},
)
def echo_status(status):
    return f"Status: {status}\n", status


@app.route("/gone")
def gone():
    abort(410)


@app.route("/error")
def error():
    raise RuntimeError("an error that nobody handles")


@app.route("/crash")
def crash():
    os.kill(os.getpid(), signal.SIGKILL)
