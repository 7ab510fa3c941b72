"""What is published of a segment, as a value: its aggregate, apart from bytes and stores.

Pure.
"""
