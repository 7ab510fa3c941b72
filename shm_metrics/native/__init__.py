"""The two modules that are compiled, and the choice between them and their interpreted twins.

Only the hot path is here.
"""
