"""Values on the wire: dates, durations, lists in queries."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from dagster_dbtcloud.sandbox import wire

_MOMENT = datetime(2026, 1, 5, 10, 20, 30, 123456, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-05 10:20:30.123456+00:00",
        "2026-01-05T10:20:30.123456+00:00",
        "2026-01-05T10:20:30.123456Z",
        "2026-01-05T10:20:30.123456",
        "2026-01-05T12:20:30.123456+02:00",
        "2026-01-05T10:20:30.123456789Z",
        "2026-01-05T12:20:30.123456 02:00",
        " 2026-01-05 12:20:30.123456 02:00 ",
    ],
)
def test_every_form_of_a_date_is_read(text: str) -> None:
    """T or blank, Z or offset or none, more digits than six, a plus lost in a query string."""
    assert wire.from_text(text) == _MOMENT


def test_runs_and_jobs_write_dates_differently() -> None:
    """Runs use a blank and no microseconds where there are none; jobs use T."""
    stored = wire.to_text(_MOMENT)
    assert wire.run_time(stored) == "2026-01-05 10:20:30.123456+00:00"
    assert wire.job_time(stored) == "2026-01-05T10:20:30.123456+00:00"
    whole = wire.to_text(_MOMENT.replace(microsecond=0))
    assert wire.run_time(whole) == "2026-01-05 10:20:30+00:00"
    assert wire.run_time(None) is None


def test_stored_dates_sort_as_text() -> None:
    """Also where one has no microseconds."""
    early = wire.to_text(_MOMENT.replace(microsecond=0))
    assert early < wire.to_text(_MOMENT) < wire.to_text(_MOMENT.replace(second=31, microsecond=0))


@pytest.mark.parametrize(
    ("seconds", "text", "words"),
    [
        (0, "00:00:00", "0 minutes"),
        (59.9, "00:00:59", "0 minutes"),
        (61, "00:01:01", "1 minute"),
        (86436, "24:00:36", "1 day"),
        (3 * 86400 + 7200, "74:00:00", "3 days, 2 hours"),
        (-1, "00:00:00", "0 minutes"),
    ],
)
def test_durations_do_not_roll_over_into_days(seconds: float, text: str, words: str) -> None:
    """Hours go beyond 24."""
    assert wire.duration(seconds) == text
    assert wire.humanized(seconds) == words


@pytest.mark.parametrize(
    "values",
    [
        ["trigger,job"],
        ['["trigger","job"]'],
        ["['trigger', 'job']"],
        ["[trigger,job]"],
        ["trigger", "job"],
        ["trigger", "trigger,job"],
        ["(trigger, job)"],
    ],
)
def test_every_encoding_of_a_list_is_read(values: list[str]) -> None:
    """Comma, JSON, Python's repr, unquoted, repeated."""
    assert wire.listed(values) == ["trigger", "job"]


@pytest.mark.parametrize("values", [[], [""], ["[]"], ["[ ]"]])
def test_an_empty_list_is_empty(values: list[str]) -> None:
    """However it is written."""
    assert wire.listed(values) == []
