"""The cluster: each segment's leader publishes its totals, and the totals of all are read at one place.

Lives here: leases, stores, the wire format, merging and folding. May not: be imported by a process that has no cache.
"""
