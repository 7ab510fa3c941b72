"""Cluster sync: each segment's absolute aggregate goes out to a cache, and comes back as the cluster's totals.

Nothing is loaded from here; a process that only counts never imports this package.
"""
