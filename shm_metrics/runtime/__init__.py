"""Processes and threads: locks between threads.

Lives here: mechanisms that know nothing of metrics. May not: import anything of the package but `errors`.
"""
