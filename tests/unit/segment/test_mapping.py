"""Mappings that hold no descriptor, and last as long as any view of them."""

from __future__ import annotations

import gc
import os
import sys

import numpy as np
import pytest

from shm_metrics.segment.mapping import Pin, address_range, map_file


@pytest.fixture
def file():
    fd = os.memfd_create("mapped")
    os.ftruncate(fd, 3 * 4096)
    yield fd
    os.close(fd)


def mapped(name="/memfd:mapped"):
    with open("/proc/self/maps") as maps:
        return sum(name in line for line in maps)


def test_what_is_written_through_one_is_read_through_another(file):
    one, other = map_file(file, 8192, write=True), map_file(file, 8192, write=False)
    one[4096] = 7
    assert other[4096] == 7
    assert os.pread(file, 1, 4096) == b"\x07"
    with pytest.raises(TypeError):
        other[0] = 1
    assert not np.frombuffer(other, np.uint8).flags.writeable


def test_it_keeps_no_descriptor(file):
    before = os.listdir("/proc/self/fd")
    view = map_file(file, 8192, write=True)
    assert os.listdir("/proc/self/fd") == before
    assert len(view) == 8192


def test_it_goes_with_the_last_view_of_it(file):
    view = map_file(file, 8192, write=True)
    array = np.frombuffer(view, np.float64, 16, 4096)
    words = view[:64].cast("Q")
    del view
    array[:] = 1.0
    assert words[0] == 0
    del words
    assert mapped() == 1
    del array
    gc.collect()
    assert mapped() == 0


def test_its_addresses_are_those_that_the_kernel_shows(file):
    view = map_file(file, 3 * 4096 - 5, write=True)
    with open("/proc/self/maps") as maps:
        (line,) = [line for line in maps if "/memfd:mapped" in line]
    assert line.split()[0].lstrip("0") == address_range(view)


def test_what_cannot_be_mapped_is_an_error(file):
    with pytest.raises(OSError, match=r"Cannot allocate memory|Invalid argument"):
        map_file(file, 1 << 60, write=True)
    with pytest.raises(OSError):
        map_file(-1, 4096, write=True)
    with pytest.raises(OSError):
        Pin(-1)


def test_a_pin_is_not_inherited(file):
    pin = Pin(file)
    assert mapped() == 1
    pid = os.fork()
    if pid == 0:
        pin.drop()
        os._exit(mapped())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert mapped() == 1
    pin.drop()
    assert mapped() == 0


def test_an_interpreter_without_ctypes_maps_as_well(python):
    code = """
import sys
sys.modules["ctypes"] = None
from shm_metrics import Counter, get_backend
Counter("jobs", "").inc()
print(get_backend().snapshot().value("jobs"))
"""
    # numpy does without it, too
    assert python(code, SHM_METRICS_SEGMENT="/nowhere/at/all") == "1.0\n"


def test_a_plain_import_does_not_load_ctypes(python):
    assert "ctypes" in sys.modules  # the tests need it
    assert python("import sys, shm_metrics; print('ctypes' in sys.modules)") == "False\n"
