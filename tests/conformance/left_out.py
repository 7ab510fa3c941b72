"""The tests of prometheus_client that the drop-in is not held to: each with its reason, and no others.

docs/differences.md names the same tests; a test checks that it does.
"""

from __future__ import annotations

__all__ = ["BY_CHANCE", "LEFT_OUT"]

_MULTIPROCESS = "test_multiprocess.py::TestMultiProcess"

LEFT_OUT: dict[str, str] = {
    "test_multiprocess.py::TestMultiProcessDeprecation::test_deprecation_warning": (
        "environment: that the lower-case prometheus_multiproc_dir is copied to the upper-case one, with a warning; "
        "nothing is read from either"
    ),
    "test_multiprocess.py::TestUnsetEnv::test_unset_syncdir_env": (
        "environment: that MultiProcessCollector refuses to work without PROMETHEUS_MULTIPROC_DIR; here it needs none"
    ),
    f"{_MULTIPROCESS}::test_initialization_detects_pid_change": "file format: looks for the files counter_<pid>.db",
    f"{_MULTIPROCESS}::test_merge_no_accumulate": "file format: merges the files *.db that it finds",
    f"{_MULTIPROCESS}::test_remove_clear_warning": (
        "file format: that remove() and clear() warn that they do nothing, as files cannot forget; here they work"
    ),
}
"""Node id -> why it cannot pass."""

BY_CHANCE: dict[str, str] = {
    "test_exposition.py::TestWsgiTLS::test_mtls_untrusted_client_cert_raises": (
        "a race in the test, on prometheus_client alone too: over TLS 1.3 a client may send its request before its "
        "certificate is refused, and then sees a closed connection (URLError) instead of the alert (SSLError)"
    ),
}
"""Node id -> why it may pass or fail, whoever counts. It is run, and its outcome says nothing."""
