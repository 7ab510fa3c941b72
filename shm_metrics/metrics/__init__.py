"""What users call: declared metrics, series, and the families that a process has met.

No module here knows a text format, a cache or a port.
"""
