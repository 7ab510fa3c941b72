"""LogOnce: one record for each kind of problem."""

from __future__ import annotations

import logging

import pytest

from shm_metrics.runtime.log_once import LogOnce


@pytest.fixture
def log_once():
    return LogOnce(logging.getLogger("shm_metrics"))


def records(caplog):
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_each_kind_is_logged_once(log_once, caplog):
    for number in range(2):
        log_once.warning("disk", "disk %s is full", number)
        log_once.error("net", "no network")
    assert records(caplog) == [("WARNING", "disk 0 is full"), ("ERROR", "no network")]


def test_a_kind_is_known_after_it_was_logged(log_once):
    assert "disk" not in log_once
    log_once.warning("disk", "full")
    assert "disk" in log_once


def test_a_forgotten_kind_is_logged_again(log_once, caplog):
    log_once.warning("disk", "full")
    log_once.forget("disk")
    log_once.warning("disk", "full")
    log_once.forget("never logged")
    assert records(caplog) == [("WARNING", "full")] * 2


def test_the_record_names_the_function_that_logs(log_once, caplog):
    log_once.warning("disk", "full")
    assert caplog.records[0].funcName == "test_the_record_names_the_function_that_logs"
