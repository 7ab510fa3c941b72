"""Between blobs and bytes, as docs/wire.md draws them.

Pure.
"""
