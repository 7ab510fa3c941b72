"""Replace the content of a file atomically: readers see the old content or the new, and never a part of it."""

from __future__ import annotations

import os
from collections.abc import Callable

__all__ = ["replace_file"]


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def replace_file(
    path: str, content: bytes, *, temporary: str | None = None, create: Callable[[str], int] = _create
) -> None:
    """Write `content` to a temporary file and rename it to `path`. Raise OSError, and leave no temporary file then.

    temporary: the name to write to, in the same directory; by default one that no other process uses.
    create: opens the temporary file and returns the descriptor; by default it is readable by this user only.
    """
    if temporary is None:
        temporary = f"{path}.{os.getpid()}.new"
    try:
        with open(create(temporary), "wb") as file:
            file.write(content)
        os.rename(temporary, path)
    except OSError:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise
