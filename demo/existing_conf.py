"""gunicorn.conf.py of demo/existing.py, as it was before: nothing about metrics."""

workers = 4
control_socket_disable = True
