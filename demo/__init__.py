"""A small web shop under gunicorn, its load, and what shm_metrics counted of it. `python -m demo`."""
