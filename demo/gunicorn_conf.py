"""How the demo's gunicorn is configured (elsewhere this is gunicorn.conf.py); the last two lines are about metrics."""

import os

workers = int(os.environ.get("DEMO_WORKERS", "4"))
worker_class = os.environ.get("DEMO_WORKER_CLASS", "sync")
preload_app = os.environ.get("DEMO_PRELOAD", "") == "1"
max_requests = int(os.environ.get("DEMO_MAX_REQUESTS", "0"))
max_requests_jitter = max_requests // 5
graceful_timeout = 5
control_socket_disable = True  # newer versions only: the demo needs no second way in

from shm_metrics.integrations import gunicorn as metrics  # noqa: E402

metrics.setup(globals())
