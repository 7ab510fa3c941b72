"""Builds the one compiled module, `shm_metrics/_cells_cy.py`; everything else stands in pyproject.toml.

The extension is optional: the same source runs interpreted, so a machine without Cython or without a C compiler
gets a wheel of Python only. Two environment variables decide otherwise:

SHM_METRICS_NO_EXTENSION=1       do not try (the wheel is `py3-none-any`);
SHM_METRICS_REQUIRE_EXTENSION=1  a build that fails is an error, as continuous integration and packagers want it.
"""

from __future__ import annotations

import os
import sys

from setuptools import Extension, setup

CELLS = "shm_metrics/_cells_cy.py"

skip = os.environ.get("SHM_METRICS_NO_EXTENSION") == "1"
require = os.environ.get("SHM_METRICS_REQUIRE_EXTENSION") == "1"


def extensions() -> list[Extension]:
    """The compiled cells, translated to C; nothing where they were declined or cannot be translated."""
    if skip:
        return []
    cells = Extension("shm_metrics._cells_cy", [CELLS], extra_compile_args=["-O3"])
    try:
        from Cython.Build import cythonize

        # force: the time stamps of a checkout say nothing about which source the C text was made from
        (translated,) = cythonize([cells], build_dir="build/cython", force=True)
    except (Exception, SystemExit) as error:  # Cython missing, of another version, or unhappy with the source
        if require:
            raise
        print(f"shm_metrics: {CELLS} stays interpreted: {type(error).__name__}: {error}", file=sys.stderr)
        return []
    translated.optional = not require  # said here and not above: cythonize does not carry it over
    return [translated]


setup(ext_modules=extensions())
