"""What a run has measured so far, raw: one number for each figure, peer and round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.subject import SubjectError

__all__ = ["Record"]


@dataclass
class Record:
    """rounds: figure -> peer -> one value a round. missing: peers that cannot be had here, and why.

    A measurement that failed is in `errors`, and is not tried again in the rounds that follow.
    """

    rounds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    builds: dict[str, bool] = field(default_factory=dict)
    _failed: set[tuple[str, str]] = field(default_factory=set)

    def add(self, figure: str, peer: str, value: float) -> None:
        """Keep one round's value."""
        self.rounds.setdefault(figure, {}).setdefault(peer, []).append(value)

    def error(self, figure: str, peer: str, text: str) -> None:
        """Keep what went wrong."""
        if (figure, peer) not in self._failed:
            self._failed.add((figure, peer))
            self.errors.append(f"{peer}, {figure or 'preparation'}: {text.strip()}")

    def ask(self, figure: str, peer: str, question: Callable[..., Any], **arguments: Any) -> Any:
        """Ask a peer's process; keep its answer under the figure's name, if there is one."""
        if (figure, peer) in self._failed:
            return None
        try:
            answer = question(**arguments)
        except SubjectError as error:
            self.error(figure, peer, str(error))
            return None
        if figure and answer is not None:
            self.add(figure, peer, answer)
        return answer

    def typical(self, figure: str, peer: str) -> float | None:
        """The median over the rounds; None where nothing was measured."""
        values = self.rounds.get(figure, {}).get(peer)
        return median(values) if values else None

    def ratio(self, over: tuple[str, str], under: tuple[str, str]) -> float | None:
        """The median of the ratios taken round by round; each side is (figure, peer)."""
        tops = self.rounds.get(over[0], {}).get(over[1])
        bottoms = self.rounds.get(under[0], {}).get(under[1])
        if not tops or not bottoms:
            return None
        return median(top / bottom for top, bottom in zip(tops, bottoms))  # noqa: B905 - a failed round may be short
