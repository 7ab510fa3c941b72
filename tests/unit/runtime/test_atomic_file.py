"""replace_file: the old content or the new, and nothing left over."""

from __future__ import annotations

import os
import stat

import pytest

from shm_metrics.runtime.atomic_file import replace_file


def test_the_content_is_replaced_and_no_other_file_stays(tmp_path):
    path = tmp_path / "state"
    for content in (b"old", b"new"):
        replace_file(str(path), content)
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["state"]


def test_the_file_is_readable_by_its_user_only(tmp_path):
    replace_file(str(tmp_path / "state"), b"")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o600


def test_a_failed_rename_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "state"
    path.write_bytes(b"old")

    def rename(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="no"):
        replace_file(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]


def test_a_caller_may_name_and_create_the_temporary_file(tmp_path):
    path, temporary, created = tmp_path / "state", str(tmp_path / "other"), []

    def create(name: str) -> int:
        created.append(name)
        return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    replace_file(str(path), b"new", temporary=temporary, create=create)
    assert created == [temporary]
    assert os.listdir(tmp_path) == ["state"]
