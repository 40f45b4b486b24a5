"""The sensor's cursor: short, exact, and its own."""

import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import accumulate

import pytest

from dagster_dbtcloud.cursor import (
    MOST_DOUBTED,
    MOST_KEPT,
    MOST_NAMED,
    MOST_SEALS,
    MOST_WAITING,
    OVERLAP,
    Cursor,
    Doubt,
    Seal,
)

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


def scattered(runs: int) -> list[int]:
    """Ids as dbt Cloud gives them: those of an account lie far apart."""
    chance = random.Random(7)  # noqa: S311 - repeatable on purpose
    return list(accumulate(chance.randint(1, 50_000) for _ in range(runs)))


@pytest.mark.parametrize("runs", [2_500, pytest.param(20_000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("each_second", [30, None])
def test_thousands_of_runs_of_the_overlap_fit(runs: int, each_second: int | None) -> None:
    """Those that cannot be named are sealed; each is known, and no other."""
    ids = [FIRST + step for step in scattered(runs)]
    apart = timedelta(seconds=1 / each_second if each_second else 0)
    cursor = Cursor(START)
    for number, run_id in enumerate(ids):
        at = START + number * apart
        cursor = cursor.after(run_id, at, now=at)
        if number % 1_000 == 0:
            cursor = reread(cursor)
    listed = [(START + number * apart, run_id) for number, run_id in enumerate(ids)]
    listed = [place for place in listed if place[0] >= cursor.since]
    assert len(cursor.done) <= MOST_KEPT
    assert len(cursor.seals) <= MOST_SEALS
    assert {seal.strangers(under(seal, listed)) for seal in cursor.seals} == {frozenset()}
    assert all(run_id in cursor.done or cursor.seal_over((at, run_id)) for at, run_id in listed)
    assert len(worst(cursor).to_json()) < 10_000


def worst(cursor: Cursor) -> Cursor:
    """Fill up what else a cursor may hold."""
    ids = [FIRST + step for step in scattered(MOST_WAITING)]
    for number, run_id in enumerate(ids):
        cursor = cursor.giving_up(run_id, f"{number} cannot be read: {'damaged ' * 100}")
    return replace(
        cursor,
        waiting={run_id: START - timedelta(seconds=run_id % 80_000) for run_id in ids},
        doubt=Doubt("m" * 60, START, frozenset(scattered(MOST_DOUBTED))),
        mark="m" * 60,
        polled_at=START,
        project="a" * 60,
    )


def reread(cursor: Cursor) -> Cursor:
    read = Cursor.from_json(cursor.to_json())
    assert read == cursor
    return read


def under(seal: Seal, listed: Iterable[tuple[datetime, int]]) -> set[int]:
    return {place[1] for place in listed if seal.covers(place)}


@pytest.fixture(scope="module")
def sealed() -> Cursor:
    return walked(5 * MOST_KEPT, apart=timedelta(milliseconds=10))


def test_one_or_two_that_are_listed_late_are_told_from_those_sealed(sealed: Cursor) -> None:
    """Of three nothing is known but that there are some, and so it is when one was deleted."""
    seal = sealed.seals[0]
    known = set(range(seal.low[1], seal.high[1] + 1))
    assert seal.strangers(known) == frozenset()
    assert seal.strangers(known | {1}) == frozenset({1})
    assert seal.strangers(known | {1, 2}) == frozenset({1, 2})
    assert seal.strangers(known | {1, 2, 3}) is None
    assert seal.strangers(known - {seal.low[1]}) is None
    assert seal.strangers(known - {seal.low[1]} | {1}) is None


def test_what_was_listed_late_is_sealed_with_the_others(sealed: Cursor) -> None:
    """So it is met once; and a run that was waited for is not counted twice."""
    seal = sealed.seals[0]
    known = set(range(seal.low[1], seal.high[1] + 1))
    at = seal.low[0] + timedelta(microseconds=1)
    for cursor in (
        sealed.after(1, at, now=START),
        sealed.awaiting(1, at, START, now=START).after(1, at, now=START),
    ):
        assert cursor.seals[0].strangers({*known, 1}) == frozenset()
        assert 1 not in cursor.done


def test_seals_are_forgotten_with_what_they_cover(sealed: Cursor) -> None:
    """dbt Cloud is asked from before the first seal on, and not further back than need be."""
    later = sealed.finished_at + 2 * OVERLAP
    cursor = sealed.after(1, later, now=later)
    assert sealed.since == sealed.finished_at - OVERLAP
    assert (cursor.seals, set(cursor.done), cursor.since) == ((), {1}, later - OVERLAP)
    soon = sealed.seals[1].low[0] + OVERLAP
    cursor = sealed.after(1, soon, now=soon)
    assert cursor.seals[: len(sealed.seals) - 1] == sealed.seals[1:]
    assert cursor.since == sealed.seals[1].low[0]


def test_it_reads_what_it_wrote() -> None:
    """Ids and finish times exactly, since when a run was waited for to the second."""
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
    assert read == cursor


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", '{"version": 1}', "[]", '{"last": 3}', "9" * 99, "[" * 99_999),
        *('{"packed": "x"}', '{"packed": 3}', '{"packed": "\\u00fc"}'),
    ],
)
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


def test_the_second_version_is_read() -> None:
    """Its times are of whole seconds."""
    text = (
        '{"version":2,"finished_at":"2026-01-01T00:10:00.500000+00:00","done":[[7,2],[0,600]],'
        '"waiting":[[8],[90]],"quarantined":{"5":"damaged"},"quarantined_in_all":1,"mark":"m",'
        '"wrote":3,"polled_at":null,"project":"",'
        '"doubt":{"mark":"d","until":"2026-01-01T01:00:00+00:00","runs":[3,4],"in_part":[]}}'
    )
    cursor = Cursor.from_json(text)
    assert cursor is not None
    end = datetime(2026, 1, 1, 0, 10, 0, 500_000, tzinfo=timezone.utc)
    assert cursor.done == {7: end, 9: end - timedelta(minutes=10)}
    assert cursor.doubt is not None
    assert cursor.doubt.runs == frozenset({3, 7})


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
