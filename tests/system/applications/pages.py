"""A scraped page, read by prometheus_client's own parser."""

from __future__ import annotations

import re
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

Key = tuple[str, frozenset[tuple[str, str]]]


class Page:
    """text: what a worker answered. pid: which worker that was."""

    def __init__(self, text: str, pid: int) -> None:
        self.text = text
        self.pid = pid
        self.samples: list[Sample] = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples with that name and, among others, these labels; 0 when there are none."""
        return sum(s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items())

    def families(self) -> list[str]:
        """The names that have a TYPE line, as often as they have one."""
        return re.findall(r"^# TYPE (\S+)", self.text, re.MULTILINE)

    def values(self, which: Callable[[Sample], bool]) -> dict[Key, float]:
        """The samples of one kind, each by its name and labels; one that is there twice fails."""
        chosen = [(key(sample), sample.value) for sample in self.samples if which(sample)]
        values = dict(chosen)
        assert len(values) == len(chosen), f"a sample is on the page twice:\n{self.text}"
        return values

    def counts(self) -> dict[Key, float]:
        """What may never fall: counters, and the numbers of histograms and summaries."""
        return self.values(lambda sample: sample.name.endswith(("_total", "_bucket", "_count", "_sum")))


def key(sample: Sample) -> Key:
    return sample.name, frozenset(sample.labels.items())
