"""Builds the two modules that are compiled, the hot path; everything else stands in pyproject.toml.

Compiling is optional: the same source runs interpreted, so a machine without Cython or without a C compiler
gets a wheel of Python only. Two environment variables decide otherwise:

SHM_METRICS_NO_EXTENSION=1       do not try (the wheel is `py3-none-any`);
SHM_METRICS_REQUIRE_EXTENSION=1  a build that fails is an error, as continuous integration and packagers want it.
"""

from __future__ import annotations

import os
import sys

from setuptools import Extension, setup

MODULES = ("_cells_cy", "_lookup_cy")

skip = os.environ.get("SHM_METRICS_NO_EXTENSION") == "1"
require = os.environ.get("SHM_METRICS_REQUIRE_EXTENSION") == "1"


def extensions() -> list[Extension]:
    """The modules, translated to C; nothing where that was declined or cannot be done."""
    if skip:
        return []
    wanted = [
        Extension(f"shm_metrics.native.{name}", [f"shm_metrics/native/{name}.py"], extra_compile_args=["-O3"])
        for name in MODULES
    ]
    try:
        from Cython.Build import cythonize

        # force: the time stamps of a checkout say nothing about which source the C text was made from
        translated: list[Extension] = cythonize(wanted, build_dir="build/cython", force=True)
    except (Exception, SystemExit) as error:  # Cython missing, of another version, or unhappy with the source
        if require:
            raise
        print(f"shm_metrics: the hot path stays interpreted: {type(error).__name__}: {error}", file=sys.stderr)
        return []
    for extension in translated:
        extension.optional = not require  # said here and not above: cythonize does not carry it over
    return translated


setup(ext_modules=extensions())
