"""What of prometheus_client's API our own classes do otherwise: which of its tests show it, and why it is so.

docs/differences.md tells it to users; a test checks that the two name the same tests.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DIFFERENCES", "Difference"]


@dataclass(frozen=True)
class Difference:
    """what differs, why, and the tests that show it.

    older: those of the oldest version alone; by the same names the newest has tests that pass.
    """

    what: str
    why: str
    tests: tuple[str, ...]
    older: tuple[str, ...] = ()


def _core(*tests: str) -> tuple[str, ...]:
    return tuple(f"test_core.py::{test}" for test in tests)


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "repr() is `<Counter jobs>`, theirs `prometheus_client.metrics.Counter(jobs)`",
        "it is text for people, and this is another module",
        _core(
            "TestCounter::test_repr",
            "TestGauge::test_repr",
            "TestSummary::test_repr",
            "TestHistogram::test_repr",
            "TestInfo::test_repr",
        ),
    ),
    Difference(
        "collect() gives SampleFamily objects, not prometheus_client's Metric: the same attributes, never equal to one",
        "the engine works without prometheus_client; its registries, filters and pages take them as they are",
        _core(
            "TestCollectorRegistry::test_restricted_registry",
            "TestCollectorRegistry::test_restricted_registry_adds_new_metrics",
            "TestCollectorRegistry::test_restricted_registry_does_not_call_extra",
            "TestCollectorRegistry::test_restricted_registry_does_not_yield_while_locked",
            "TestCollectorRegistry::test_target_info_restricted_registry",
        ),
    ),
    Difference(
        "a name has one definition in a process, in whatever registries it is; to unregister a metric does not free it",
        "all processes count under this name in one segment, and what they counted stays there",
        _core("TestHistogram::test_setting_buckets", "TestCollectorRegistry::test_unregister_works"),
    ),
    Difference(
        "an Info has no series before something was said; theirs shows one without labels",
        "it would stand beside what another worker has said",
        _core("TestInfo::test_info"),
    ),
    Difference(
        "a label value whose str() fails raises InvalidMetricError, a ValueError; theirs passes on the error of str()",
        "whatever is wrong with what was given is one kind of error, and names the label",
        _core("TestMetricWrapper::test_non_string_labels_raises"),
    ),
    Difference(
        "labels of an exemplar may have any name, also where prometheus_client was told enable_legacy_validation()",
        "pages show it with underscores where it needs some; the switch is prometheus_client's own, and not asked",
        _core(
            "TestCounter::test_exemplar_invalid_label_name",
            "TestHistogram::test_exemplar_invalid_legacy_label_name",
        ),
        older=_core("TestHistogram::test_exemplar_invalid_label_name"),
    ),
    Difference(
        "attributes that begin with an underscore, as `_name`",
        "they are private; `name` and `documentation` are not",
        _core("TestMetricWrapper::test_name_cleanup_before_unit_append"),
    ),
)
