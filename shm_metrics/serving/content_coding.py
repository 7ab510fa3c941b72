"""Which content coding a client takes, by its Accept-Encoding header (RFC 9110, section 12.5.3)."""

from __future__ import annotations

__all__ = ["accepts_gzip"]


def accepts_gzip(header: str | None) -> bool:
    """Whether the response should be gzip: the client accepts it (q > 0) and does not prefer identity.

    A malformed part counts as absent: an uncompressed response is always valid.
    """
    weights: dict[str, float] = {}
    for part in (header or "").split(","):
        coding, _, parameters = part.partition(";")
        weight = _weight(parameters)
        if weight is not None:
            weights[coding.strip().lower()] = weight
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def _weight(parameters: str) -> float | None:
    """Return the q of `;q=0.5`; 1 when there is none; None when it is not a number from 0 to 1."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                weight = float(value)
            except ValueError:
                return None
            return weight if 0 <= weight <= 1 else None
    return 1.0
