"""Hooks and signals of the programs that run workers: gunicorn, uWSGI, Celery, Django, blinker.

Counting does not depend on any module here; without them it is as exact.
"""
