"""prometheus_client's own tests, as its authors publish them, and the library of a version that is not installed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

__all__ = ["OLDEST", "PROJECT", "archive", "changed", "digest", "installed_version", "library", "unpack"]

PROJECT = "prometheus_client"
OLDEST = "0.20.0"  # that pyproject.toml admits


def installed_version() -> str:
    return version(PROJECT)


def archive(cache: Path, wanted: str) -> Path:
    """The source archive of the version `wanted`."""
    path = cache / f"{PROJECT}-{wanted}.tar.gz"
    if not path.exists():
        _pip("download", "--no-binary", PROJECT, "--dest", str(cache), f"{PROJECT}=={wanted}")
    return path


def library(cache: Path, wanted: str) -> Path | None:
    """A directory to import that version of the library from, or None when it is the installed one."""
    if wanted == installed_version():
        return None
    path = cache / f"{PROJECT}-{wanted}"
    if not path.exists():
        _pip("install", "--target", str(path), f"{PROJECT}=={wanted}")
    return path


def _pip(command: str, *arguments: str) -> None:
    whole = [sys.executable, "-m", "pip", "--disable-pip-version-check", command, "--quiet", "--no-deps", *arguments]
    done = subprocess.run(whole, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"pip {command} {' '.join(arguments)}\n{done.stdout}{done.stderr}")


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
