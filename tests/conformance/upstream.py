"""prometheus_client's own tests, as its authors publish them.

Lives here: fetching the source archive of the installed version, and unpacking it. May not: change what is in it.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

__all__ = ["PROJECT", "archive", "changed", "digest", "installed_version", "unpack"]

PROJECT = "prometheus_client"


def installed_version() -> str:
    """The version whose tests are meant: that of the library which runs here."""
    return version(PROJECT)


def archive(cache: Path) -> Path:
    """The source archive of the installed version; from the package index, once, and from `cache` after that."""
    wanted = cache / f"{PROJECT}-{installed_version()}.tar.gz"
    if not wanted.exists():
        cache.mkdir(parents=True, exist_ok=True)
        requirement = f"{PROJECT}=={installed_version()}"
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", PROJECT, "--dest", str(cache), requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not wanted.exists():
            raise SystemExit(f"{requirement}: its source archive could not be had\n{done.stdout}{done.stderr}")
    return wanted


def unpack(source: Path, into: Path) -> None:
    """Unpack what is under tests/, and no more: the library that the tests import is the installed one."""
    for path, content in _tests(source).items():
        target = into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def changed(source: Path, into: Path) -> list[str]:
    """The unpacked files that are no longer what the archive has."""
    return [str(path) for path, content in _tests(source).items() if (into / path).read_bytes() != content]


def digest(source: Path) -> str:
    """SHA-256 of the archive, by which anybody can see that it is the published one."""
    return hashlib.sha256(source.read_bytes()).hexdigest()


def _tests(source: Path) -> dict[Path, bytes]:
    """Path below tests/ -> content."""
    found = {}
    with tarfile.open(source) as tar:
        for member in tar.getmembers():
            _, *inside = Path(member.name).parts
            content = tar.extractfile(member) if inside[:1] == ["tests"] and ".." not in inside else None
            if content is not None:
                found[Path(*inside[1:])] = content.read()
    return found
