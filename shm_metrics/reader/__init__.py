"""From the matrix to a snapshot, without writing.

The modules load numpy: a process that only counts never imports them.
"""
