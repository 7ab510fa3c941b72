"""Where a segment is, and what stands in the way of it."""

from __future__ import annotations

import os

import pytest

from shm_metrics.errors import InvalidMetricError, SegmentError
from shm_metrics.segment.location import SegmentLocation


def test_a_named_place_lies_in_dev_shm_under_the_users_id():
    place = SegmentLocation.named("shop", 1234)
    assert place.path == "/dev/shm/shm_metrics-1234-shop"
    assert place.shm == "/shm_metrics-1234-shop"


@pytest.mark.parametrize("name", ["", "a/b", ".a", "-a", "a b", "é", "a" * 129, None, 7, "a\n"])
def test_a_name_that_is_no_file_name_is_refused_by_value(name):
    with pytest.raises(InvalidMetricError, match="segment name"):
        SegmentLocation.named(name, 0)


def test_a_path_is_kept_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert SegmentLocation.at("here.metrics").path == str(tmp_path / "here.metrics")
    assert SegmentLocation.at(tmp_path / "x").path == str(tmp_path / "x")


def kinds(place, tmp_path):
    return [place, SegmentLocation.at(tmp_path / "segment")]


def test_what_is_created_is_the_users_alone_and_not_inherited_by_programs(place, tmp_path):
    for each in kinds(place, tmp_path):
        fd = each.open(create=True, write=True)
        assert os.fstat(fd).st_mode & 0o777 == 0o600
        assert not os.get_inheritable(fd)
        assert each.is_file(fd)
        os.close(fd)
        each.unlink()
        each.unlink()
        assert not os.path.exists(each.path)


def test_a_place_where_nothing_is_says_so(place, tmp_path):
    for each in kinds(place, tmp_path):
        with pytest.raises(FileNotFoundError, match="has the application started"):
            each.open(create=False, write=False)


def test_a_descriptor_is_distinguished_from_a_file_that_replaced_its_file(place, tmp_path):
    for each in kinds(place, tmp_path):
        fd = each.open(create=True, write=True)
        each.unlink()
        assert not each.is_file(fd)
        again = each.open(create=True, write=True)
        assert not each.is_file(fd)
        assert each.is_file(again)
        os.close(fd)
        os.close(again)
        each.unlink()


def test_a_missing_directory_is_a_segment_error_that_names_the_path(tmp_path):
    with pytest.raises(SegmentError, match=r"nowhere/x: its directory does not exist"):
        SegmentLocation.at(tmp_path / "nowhere" / "x").open(create=True, write=True)


def test_a_directory_in_the_way_is_a_segment_error(tmp_path):
    with pytest.raises(SegmentError, match=str(tmp_path)):
        SegmentLocation.at(tmp_path).open(create=True, write=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_file_is_a_segment_error_that_names_us(open_directory, python):
    path = open_directory / "segment"
    path.touch(mode=0o600)
    code = (
        "import os, sys; from shm_metrics.segment.location import SegmentLocation\n"
        "from shm_metrics.errors import SegmentError\n"
        "place = SegmentLocation.at(sys.argv[1]); os.setuid(65534)\n"
        "for write in (False, True):\n"
        "    try: place.open(create=write, write=write)\n"
        "    except SegmentError as error: print(error)\n"
    )
    read, write = python(code, str(path)).splitlines()
    assert "uid 65534 may not read it" in read
    assert "uid 65534 may not write it" in write


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_who_may_not_look_into_the_directory_any_more_takes_the_file_for_the_same(tmp_path, python):
    code = (
        "import os, sys; from shm_metrics.segment.location import SegmentLocation\n"
        "place = SegmentLocation.at(sys.argv[1]); fd = place.open(create=True, write=True)\n"
        "os.chmod(os.path.dirname(sys.argv[1]), 0o700); os.setuid(65534); print(place.is_file(fd))\n"
    )
    assert python(code, str(tmp_path / "segment")) == "True\n"
