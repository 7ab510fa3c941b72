"""LogOnce: a logger that reports each kind of problem once and suppresses further ones of the same kind."""

from __future__ import annotations

import logging

__all__ = ["LogOnce"]


class LogOnce:
    """Writes to `logger`; the first argument of each call is the kind of problem."""

    __slots__ = ("_logged", "_logger")

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._logged: set[str] = set()

    def __len__(self) -> int:
        """Return how many kinds were logged."""
        return len(self._logged)

    def __contains__(self, kind: str) -> bool:
        """Return whether this kind was logged already: a caller can then skip making its message."""
        return kind in self._logged

    def warning(self, kind: str, message: str, *arguments: object) -> None:
        self._log(kind, logging.WARNING, message, arguments)

    def error(self, kind: str, message: str, *arguments: object) -> None:
        self._log(kind, logging.ERROR, message, arguments)

    def _log(self, kind: str, level: int, message: str, arguments: tuple[object, ...]) -> None:
        if kind not in self._logged:
            self._logged.add(kind)
            self._logger.log(level, message, *arguments, stacklevel=3)

    def forget(self, kind: str) -> None:
        """Log this kind again when it happens next."""
        self._logged.discard(kind)
