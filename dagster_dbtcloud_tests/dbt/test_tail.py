"""New lines of a log that is read again and again, whole or through a sliding window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_dbtcloud.dbt.tail import LogTail

LINES = st.lists(st.sampled_from(["a", "b", "START", "OK"]) | st.text("xyz ", max_size=5))


def numbered(count: int) -> list[str]:
    return [
        f"10:00:{number % 60:02}  {number} of {count} OK model_{number}" for number in range(count)
    ]


def text_of(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def test_a_growing_text_gives_each_line_once() -> None:
    """Feeding prefixes of a text, cut anywhere, gives its lines once and in order."""
    whole = text_of(numbered(30))
    tail = LogTail()
    seen: list[str] = []
    for end in range(0, len(whole) + 1, 7):
        seen += tail.feed(whole[:end])
    seen += tail.feed(whole, final=True)
    assert seen == numbered(30)


def test_a_line_that_is_not_complete_is_held_back() -> None:
    """A line is handed out when its newline has come, or when the text is final."""
    tail = LogTail()
    assert tail.feed("one\ntw") == ["one"]
    assert tail.feed("one\ntwo") == []
    assert tail.feed("one\ntwo", final=True) == ["two"]


@pytest.mark.parametrize("window", [5, 50, 100, 1000])
@pytest.mark.parametrize("growth", [1, 3, 4])
def test_a_window_that_slides_slower_than_we_read_loses_nothing(window: int, growth: int) -> None:
    """The window drops old lines from the top, a notice stands above; no line is lost or twice."""
    lines = numbered(300)
    tail = LogTail()
    seen: list[str] = []
    for end in range(0, 301, growth):
        shown = lines[max(0, end - window) : end]
        notice = ["Showing the last lines only"] if end > window else []
        seen += [line for line in tail.feed(text_of(notice + shown)) if line not in notice]
    seen += tail.feed(text_of(lines), final=True)
    assert [line for line in seen if line != LogTail.GAP] == lines


def test_a_window_that_slid_past_everything_says_so() -> None:
    """When nothing that was seen is in the window any more, a line tells of the gap."""
    lines = numbered(100)
    tail = LogTail()
    tail.feed(text_of(lines[:10]))
    assert tail.feed(text_of(lines[90:])) == [LogTail.GAP, *lines[90:]]


def test_an_empty_text_after_a_full_one_repeats_nothing() -> None:
    """dbt Cloud shows no log for some seconds after a step completed; then the whole again."""
    tail = LogTail()
    assert tail.feed("a\nb\n") == ["a", "b"]
    assert tail.feed("") == []
    assert tail.feed("a\nb\nc\n") == ["c"]


@given(LINES, st.lists(st.integers(0, 100), max_size=10))
def test_no_growing_text_loses_or_repeats_a_line(lines: list[str], cuts: list[int]) -> None:
    """Whatever the lines (many are equal), and wherever the text is cut."""
    text = text_of(lines)
    tail = LogTail()
    seen: list[str] = []
    for cut in sorted(cuts):
        seen += tail.feed(text[:cut])
    seen += tail.feed(text, final=True)
    assert seen == lines
