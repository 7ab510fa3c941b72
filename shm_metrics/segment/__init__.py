"""The file: its layout, its catalog and index, its rows and its locks.

No module here decides what is counted or shown.
"""
