"""Hooks and signals of the programs that run workers: gunicorn, uWSGI, Celery, Django, blinker.

Lives here: hooks that add names and presence. May not: anything that counting depends on; it is exact without them.
"""
