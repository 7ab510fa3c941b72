"""This process as a writer: the row that it owns, and the slots that it allocates.

No module here knows the classes that users call.
"""
