"""The retry table, row by row."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_dbtcloud.clock import ManualClock
from dagster_dbtcloud.cloud.retry import COOL_DOWN, Failure, decide, of_status, parse_retry_after
from dagster_dbtcloud_tests.cloud.fakes import REPEATABLY

NOW = datetime(2026, 1, 5, 10, 20, 30, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("failure", "repeated", "once"),
    [
        (Failure.NEVER_SENT, True, True),
        (Failure.NO_ANSWER, True, False),
        (Failure.RATE_LIMITED, True, True),
        (Failure.SERVER, True, False),
        (Failure.UNREADABLE, True, False),
        (Failure.REFUSED, False, False),
    ],
)
def test_the_table_of_the_design(failure: Failure, repeated: bool, once: bool) -> None:
    """What may be done twice is tried again; what may not, only if it surely was not done."""

    def tries_again(repeatable: bool) -> bool:
        wait = decide(failure, repeatable=repeatable, attempt=1, elapsed=0.0, retry_for=600.0)
        return wait is not None

    assert (tries_again(True), tries_again(False)) == (repeated, once)


@pytest.mark.parametrize(
    ("status_code", "failure"),
    [
        (301, Failure.REFUSED),
        (400, Failure.REFUSED),
        (401, Failure.REFUSED),
        (403, Failure.REFUSED),
        (404, Failure.REFUSED),
        (405, Failure.REFUSED),
        (408, Failure.NO_ANSWER),
        (409, Failure.REFUSED),
        (422, Failure.REFUSED),
        (429, Failure.RATE_LIMITED),
        (500, Failure.SERVER),
        (502, Failure.SERVER),
        (503, Failure.SERVER),
        (504, Failure.SERVER),
        (524, Failure.SERVER),
    ],
)
def test_statuses_are_failures_of_a_kind(status_code: int, failure: Failure) -> None:
    """Each status that dbt Cloud, or a proxy before it, answers has its row."""
    assert of_status(status_code) is failure


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Failure.SERVER, [0.5, 1, 2, 4, 8, 16, 30, 30]),
        (Failure.RATE_LIMITED, [30, 60, 120, 240, 300, 300, 300, 300]),
    ],
)
def test_waits_grow_to_a_limit(failure: Failure, expected: list[float]) -> None:
    """Half a minute at most, or up to dbt Cloud's five minutes of cool-down after a 429."""
    waits = [
        decide(failure, repeatable=True, attempt=attempt, elapsed=0.0, retry_for=1e9)
        for attempt in range(1, 9)
    ]
    assert waits == expected


def test_a_thousandth_try_still_has_a_wait() -> None:
    """The doubling does not overflow."""
    wait = decide(Failure.SERVER, repeatable=True, attempt=10_000, elapsed=0.0, retry_for=1e9)
    assert wait == 30.0


@pytest.mark.parametrize(
    ("elapsed", "expected"),
    [(0.0, 30.0), (580.0, 20.0), (599.5, 0.5), (599.999, None), (600.0, None), (9e9, None)],
)
def test_the_last_wait_ends_with_the_budget(elapsed: float, expected: float | None) -> None:
    """One more try is made when the budget ends, none after it."""
    wait = decide(Failure.SERVER, repeatable=True, attempt=9, elapsed=elapsed, retry_for=600.0)
    assert wait == expected


@REPEATABLY
@given(st.floats(0, 1e9), st.floats(0, 600), st.floats(0, 0.999))
def test_every_budget_ends(start: float, retry_for: float, jitter: float) -> None:
    """Also where rounding leaves a rest too small to move the clock."""
    clock = ManualClock()
    clock.advance(start)
    for attempt in range(1, 100):
        elapsed = clock.monotonic() - start
        wait = decide(
            Failure.SERVER,
            repeatable=True,
            attempt=attempt,
            elapsed=elapsed,
            retry_for=retry_for,
            jitter=jitter,
        )
        if wait is None:
            assert elapsed == pytest.approx(retry_for, abs=0.02)
            return
        clock.sleep(wait)
    pytest.fail("it never gives up")


def test_no_budget_means_one_try() -> None:
    """``retry_for=0`` switches retries off."""
    assert decide(Failure.SERVER, repeatable=True, attempt=1, elapsed=0.0, retry_for=0.0) is None


@pytest.mark.parametrize(("jitter", "expected"), [(0.0, 4.0), (0.5, 4.5), (0.999, 4.999)])
def test_jitter_lengthens_by_up_to_a_quarter(jitter: float, expected: float) -> None:
    """Never shorter than asked for, and the same for the same number."""
    wait = decide(
        Failure.SERVER, repeatable=True, attempt=4, elapsed=0.0, retry_for=600.0, jitter=jitter
    )
    assert wait == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("attempt", "retry_after", "expected"),
    [
        (1, 0.0, 0.5),
        (6, 0.0, 16.0),
        (1, 7.0, 7.0),
        (1, 120.0, 120.0),
        (1, 3600.0, COOL_DOWN),
        (1, 1e308, COOL_DOWN),
    ],
)
def test_the_servers_word_is_heeded_within_reason(
    attempt: int, retry_after: float, expected: float
) -> None:
    """Not faster than our own pace, and not longer than the documented cool-down."""
    wait = decide(
        Failure.RATE_LIMITED,
        repeatable=False,
        attempt=attempt,
        elapsed=0.0,
        retry_for=1e9,
        retry_after=retry_after,
    )
    assert wait == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        (" ", None),
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("+3", 3.0),
        ("1e3", 1000.0),
        ("-1", None),
        ("-0", 0.0),
        ("-1100", None),
        ("99999999999999999999", 1e20),
        ("1e999", None),
        ("inf", None),
        ("-inf", None),
        ("Infinity", None),
        ("nan", None),
        ("soon", None),
        ("7 seconds", None),
        ("Mon, 05 Jan 2026 10:21:00 GMT", 30.0),
        ("Mon, 05 Jan 2026 11:21:00 +0100", 30.0),
        ("Mon, 05 Jan 2026 10:21:00 -0000", 30.0),
        ("Mon, 05 Jan 2026 10:20:00 GMT", 0.0),
        ("Monday, 05-Jan-26 10:21:00 GMT", 30.0),
        ("Mon, 99 Jan 2026 10:21:00 GMT", None),
        ("Sat, 01 Jan 100000 00:00:00 GMT", None),
        ("Mon, 05 Jan 2026", None),
        ("2026-01-05T10:21:00Z", None),
        (",", None),
        ("\x00", None),
    ],
)
def test_retry_after_is_read_in_every_form(text: str | None, seconds: float | None) -> None:
    """Seconds and dates are read; what makes no sense counts as not said."""
    assert parse_retry_after(text, now=NOW) == seconds
