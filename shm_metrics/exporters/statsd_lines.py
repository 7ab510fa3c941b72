"""Points as lines of the StatsD protocol, and lines as datagrams.

statsd      shop.orders_total.shop.berlin:3|c              labels become parts of the name
dogstatsd   shop.orders_total:3|c|#shop:berlin,env:prod    labels become tags
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TypeVar

from shm_metrics.model.families import LabelPairs

__all__ = ["DIALECTS", "counter_line", "gauge_line", "name_of", "packets"]

DIALECTS = ("dogstatsd", "statsd")

_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_.]")
_NOT_IN_A_PART = re.compile(r"[^a-zA-Z0-9_-]")
_NOT_IN_A_TAG = re.compile(r"[\s,|#]")

What = TypeVar("What")


def name_of(name: str, labels: LabelPairs, *, dialect: str, prefix: str = "", tags: LabelPairs = ()) -> tuple[str, str]:
    """Return what precedes the number of a line, and what follows its type. prefix: used unchanged."""
    whole = prefix + _NOT_IN_A_NAME.sub("_", name)
    if dialect == "dogstatsd":
        text = ",".join(f"{_tag(label)}:{_tag(value)}" for label, value in (*labels, *tags))
        return f"{whole}:", f"|#{text}" if text else ""
    parts = "".join(f".{_part(label)}.{_part(value)}" for label, value in (*labels, *tags))
    return f"{whole}{parts}:", ""


def _tag(text: str) -> str:
    return _NOT_IN_A_TAG.sub("_", text)


def _part(text: str) -> str:
    """Return text as one part of a name: without dots, and not empty."""
    return _NOT_IN_A_PART.sub("_", text) or "_"


def counter_line(named: tuple[str, str], delta: float) -> str:
    return f"{named[0]}{_number(delta)}|c{named[1]}"


def gauge_line(named: tuple[str, str], value: float) -> str:
    line = f"{named[0]}{_number(value)}|g{named[1]}"
    # To StatsD and many compatible receivers a sign means a change of the gauge; so a negative value is a change of 0.
    return f"{named[0]}0|g{named[1]}\n{line}" if value < 0 else line


def _number(value: float) -> str:
    """Return the number without an exponent, which some receivers cannot read."""
    if value == int(value):
        return str(int(value))
    text = repr(value)
    return text if "e" not in text else f"{value:.20f}".rstrip("0").rstrip(".")


def packets(lines: Iterable[tuple[str, What]], most: int) -> Iterator[tuple[bytes, list[What]]]:
    """Yield datagrams of at most `most` bytes, each with what came along with its lines.

    A longer line becomes a packet of its own.
    """
    packet: list[bytes] = []
    along: list[What] = []
    size = 0
    for line, what in lines:
        data = line.encode("utf-8", "replace")
        if packet and size + 1 + len(data) > most:
            yield b"\n".join(packet), along
            packet, size, along = [], 0, []
        size += len(data) + bool(packet)
        packet.append(data)
        along.append(what)
    if packet:
        yield b"\n".join(packet), along
