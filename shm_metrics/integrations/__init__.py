"""Thin edges to the programs that run workers.

Lives here: hooks that add names and presence. May not: anything that counting depends on; it is exact without them.
"""
