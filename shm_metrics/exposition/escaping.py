"""Names, labels and help text as both text formats quote them."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["escape_help", "escape_value", "label_name", "label_text", "metric_name", "utf8"]

_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def metric_name(name: str) -> str:
    """Return `name` with an underscore for each invalid character (a custom collector may yield any name)."""
    if _METRIC_NAME.fullmatch(name):
        return name
    return re.sub(r"^(?=[0-9])|[^a-zA-Z0-9_:]", "_", name) or "_"


def label_name(name: str) -> str:
    """Return the name of a label in the same way; it may not contain a colon."""
    if _LABEL_NAME.fullmatch(name):
        return name
    return re.sub(r"^(?=[0-9])|[^a-zA-Z0-9_]", "_", name) or "_"


def escape_value(value: str) -> str:
    r"""Escape a label value: \\, \n and \" (the backslash first, or it would escape the escapes)."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def escape_help(text: str) -> str:
    r"""Escape help text of format 0.0.4, which knows \\ and \n only; OpenMetrics escapes help like a value."""
    return text.replace("\\", r"\\").replace("\n", r"\n")


def label_text(pairs: Iterable[tuple[str, str]]) -> str:
    """Return `a="1",b="2"`, in the order given."""
    return ",".join([f'{label_name(name)}="{escape_value(value)}"' for name, value in pairs])


def utf8(text: str) -> bytes:
    """Encode as UTF-8; a lone surrogate becomes "?", so that no label value can break the endpoint."""
    return text.encode("utf-8", "replace")
