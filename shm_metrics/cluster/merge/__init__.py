"""From the blobs of many instances to what the cluster shows.

Pure.
"""
