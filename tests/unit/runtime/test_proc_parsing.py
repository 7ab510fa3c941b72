"""The texts of /proc, as they were seen and as a hostile process may make them."""

import math

import pytest

from shm_metrics.runtime.proc_parsing import parse_boot_time, parse_open_files_limit, parse_stat

NUMBERS = (
    b" S 5399 5399 3615 0 -1 4194304 2847 6511 0 1 150 25 3 2 20 0 4 0 95853 16961536 3389 18446744073709551615 "
    b"94569423413248 94569423413589 140724427175712 0 0 0 0 16781312 2 0 0 0 17 1 0 0 0 0 0\n"
)

LIMITS = (
    b"Limit                     Soft Limit           Hard Limit           Units     \n"
    b"Max processes             96365                96365                processes \n"
    b"Max open files            1024                 524288               files     \n"
    b"Max locked memory         8388608              8388608              bytes     \n"
)


@pytest.mark.parametrize(
    "command", [b"gunicorn", b"a b", b"a) S 1 2 (b", b":-) (", b")", b"", b"two\nlines", b"\xff\xfe"]
)
def test_any_command_is_passed_over(command):
    stat = parse_stat(b"5411 (" + command + b")" + NUMBERS)
    assert stat == (175, 4, 95853, 16961536, 3389)


@pytest.mark.parametrize("text", [b"", b"5411 (python", b"5411 (python) S 1 2 3", b"1 (x) S" + b" x" * 40])
def test_a_text_that_is_no_stat_is_refused(text):
    with pytest.raises(ValueError):
        parse_stat(text)


def test_the_soft_limit_of_open_files_is_read():
    assert parse_open_files_limit(LIMITS) == 1024


def test_no_limit_of_open_files_is_infinite():
    assert parse_open_files_limit(LIMITS.replace(b"1024  ", b"unlimited")) == math.inf


def test_limits_without_open_files_are_refused():
    with pytest.raises(ValueError):
        parse_open_files_limit(b"Limit  Soft Limit  Hard Limit  Units\n")


def test_the_boot_time_is_found_among_the_counters():
    assert parse_boot_time(b"cpu  1 2 3\ncpu0 1 2 3\nintr 5 0\nctxt 9\nbtime 1718000000\nprocesses 7\n") == 1718000000


def test_a_text_without_boot_time_is_refused():
    with pytest.raises(ValueError, match="btime"):
        parse_boot_time(b"cpu  1 2 3\n")
