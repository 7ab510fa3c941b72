"""All that a page shows: the snapshot, the metrics of the library and of the workers' processes, custom collectors.

No module here writes a row.
"""
