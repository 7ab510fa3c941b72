"""What the demo found, as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Comparison", "Findings", "report"]


@dataclass(frozen=True)
class Comparison:
    """One number that the clients know and the metrics say."""

    what: str
    known: int
    said: float
    remark: str = ""

    @property
    def equal(self) -> bool:
        return self.known == self.said


@dataclass(frozen=True)
class Findings:
    """requests: by page. others: what follows from them. Seconds and bytes are plain."""

    requests: Sequence[Comparison]
    others: Sequence[Comparison]
    broken: int
    load_seconds: float
    workers_started: int
    workers_alive: int
    workers_killed: int
    rows_used: int
    rows: int
    rows_taken_over: int
    segment_path: str
    segment_bytes: int
    scrapes_agree: bool
    scrapes: int
    scrape_seconds: float
    collect_seconds: float
    excerpt: Sequence[str]

    @property
    def exact(self) -> bool:
        comparisons = [*self.requests, *self.others]
        return all(each.equal for each in comparisons) and not self.broken and self.scrapes_agree


def report(found: Findings) -> str:
    """A page of text for a terminal."""
    sent = sum(each.known for each in found.requests)
    total = Comparison("all requests", sent, sum(each.said for each in found.requests))
    recycled = found.workers_started - found.workers_alive - found.workers_killed
    parts = [
        f"{'':24}{'sent':>10}{'counted':>10}",
        *(_line(each) for each in found.requests),
        f"{'':24}{'-' * 20:>20}",
        _line(total),
        "",
        f"{'':24}{'expected':>10}{'scraped':>10}",
        *(_line(each) for each in found.others),
        "",
        f"Workers      {found.workers_started} lived: {found.workers_killed} killed with SIGKILL, "
        f"{recycled} recycled by max_requests, {found.workers_alive} at work.",
        f"Rows         {found.rows_used} of {found.rows} were ever used: a row for each worker alive at once, "
        f"taken over {found.rows_taken_over} times.",
        f"Segment      {_size(found.segment_bytes)} in one file, {found.segment_path}",
        f"Load         {sent / found.load_seconds:,.0f} requests a second for {found.load_seconds:.1f} s.",
        f"Scrape       {found.scrape_seconds * 1e3:.1f} ms over HTTP, "
        f"{found.collect_seconds * 1e3:.1f} ms of it reading the segment and /proc;",
        f"             {found.scrapes} scrapes by whichever worker came first: "
        + ("all say the same." if found.scrapes_agree else "THEY DIFFER."),
        "",
        "From /metrics:",
        "",
        *(f"    {line}" for line in found.excerpt),
        "",
    ]
    if found.exact:
        parts.append(f"Every one of {sent:,} requests was counted exactly once.")
    else:
        parts += ["THE NUMBERS DIFFER:", *(f"    {complaint}" for complaint in _complaints(found))]
    return "\n".join(parts)


def _line(each: Comparison) -> str:
    mark = "" if each.equal else "   <-- differs"
    remark = f"   {each.remark}" if each.remark else ""
    return f"  {each.what:<22}{each.known:>10,}{each.said:>10,.10g}{remark}{mark}"


def _size(count: int) -> str:
    return f"{count / 1024:,.0f} KiB"


def _complaints(found: Findings) -> list[str]:
    complaints = [
        f"{each.what}: {each.known:,} expected, {each.said:,.10g} found"
        for each in [*found.requests, *found.others]
        if not each.equal
    ]
    if found.broken:
        complaints.append(f"{found.broken} requests got no answer, and nobody had killed their worker")
    if not found.scrapes_agree:
        complaints.append("two scrapes of a shop at rest said different things")
    return complaints
