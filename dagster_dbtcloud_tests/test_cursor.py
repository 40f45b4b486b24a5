"""The sensor's cursor: short, exact to a second, and its own."""

from datetime import datetime, timedelta, timezone

import pytest

from dagster_dbtcloud.cursor import MOST_NAMED, OVERLAP, Cursor, Doubt

START = datetime(2026, 1, 1, 3, 4, 5, 678_901, tzinfo=timezone.utc)
FIRST = 70403103912345


def walked(runs: int, *, apart: timedelta) -> Cursor:
    cursor = Cursor(START)
    for number in range(runs):
        at = START + number * apart
        cursor = cursor.after(FIRST + number, at, now=at)
    return cursor


def test_it_stays_small_through_a_long_history() -> None:
    """Only runs within the overlap are remembered."""
    cursor = walked(10_000, apart=timedelta(minutes=1))
    assert len(cursor.done) <= 12
    assert len(cursor.to_json()) < 1_000


def test_a_thousand_runs_of_one_moment_fit() -> None:
    """Hundreds of equal finish times, ids of 14 digits: under 10 kB with room to spare."""
    cursor = walked(1_000, apart=timedelta(0))
    assert len(cursor.done) == 1_000
    assert len(cursor.to_json()) < 7_000


def test_it_reads_what_it_wrote() -> None:
    """Ids exactly; times to the second, never earlier, so that nothing is forgotten too soon."""
    cursor = Cursor(
        START,
        done={FIRST: START - timedelta(seconds=1.5), 7: START},
        waiting={9: START - timedelta(hours=3)},
        quarantined={8: "damaged"},
        quarantined_in_all=3,
        mark="abc",
        wrote=12,
        doubt=Doubt("m", START, frozenset({3, FIRST}), frozenset({5})),
        polled_at=START,
        project="sha/digest",
    )
    read = Cursor.from_json(cursor.to_json())
    assert read is not None
    assert read.done[FIRST] == START - timedelta(seconds=1)
    assert read == Cursor.from_json(read.to_json())
    assert (read.waiting, read.doubt, read.quarantined) == (
        cursor.waiting,
        cursor.doubt,
        cursor.quarantined,
    )


@pytest.mark.parametrize("text", ["", "{", "null", '{"version": 1}', "[]", '{"last": 3}', "9" * 99])
def test_what_is_not_ours_starts_anew(text: str) -> None:
    """Another library's cursor, or a broken one, does not stop the sensor for ever."""
    assert Cursor.from_json(text) is None


def test_the_first_version_is_read() -> None:
    """An update of this package loses no history."""
    text = (
        '{"version":1,"finished_at":"2026-01-01T00:00:00+00:00",'
        '"done":{"7":"2026-01-01T00:00:00+00:00"},"waiting":{"8":"2026-01-01T00:00:00+00:00"}}'
    )
    cursor = Cursor.from_json(text)
    assert cursor is not None
    assert (set(cursor.done), set(cursor.waiting), cursor.mark) == ({7}, {8}, None)


def test_a_finish_time_in_the_future_does_not_draw_it_along() -> None:
    """One run with a wrong clock must not hide all that end before it."""
    cursor = Cursor(START).after(7, START + timedelta(days=9_999), now=START)
    assert cursor.finished_at == START
    later = cursor.after(8, START + 2 * OVERLAP, now=START + 2 * OVERLAP)
    assert set(later.done) == {7, 8}


def test_only_the_last_given_up_are_named() -> None:
    """Their number is kept, and no reason is long."""
    cursor = Cursor(START)
    for number in range(100):
        cursor = cursor.giving_up(number, "damaged " * 100)
    assert (len(cursor.quarantined), cursor.quarantined_in_all) == (MOST_NAMED, 100)
    assert len(cursor.to_json()) < 5_000
