"""Processes and threads: fork hooks, locks, periodic tasks, /proc, files and logging.

These modules know nothing of metrics, and import only `errors` from the package.
"""
