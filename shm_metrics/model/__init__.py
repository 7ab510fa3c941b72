"""What a metric is: families, labels, buckets, gauge modes, and the values that a reader returns.

Pure: no module here opens a file, reads a clock or knows how a value is stored.
"""
