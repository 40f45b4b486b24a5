"""When a job runs by itself: cron expressions, and the looks that start what is due.

Times are UTC, as dbt Cloud's are. What a scheduled run does is no different from any other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

from dagster_dbtcloud.sandbox.wire import Refusal

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DAYS_AHEAD = 366 * 8
"""A 29th of February may be that far away."""


@dataclass(frozen=True)
class Cron:
    """The five fields of a cron expression, as the numbers that each allows."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool

    @classmethod
    def parse(cls, text: str) -> Cron:
        """Raises: ValueError."""
        words = text.lower().split()
        if len(words) != 5:
            raise ValueError(f"cron: {text!r} has not five fields")
        minutes, hours, days, months, weekdays = words
        return cls(
            minutes=_numbers(minutes, 0, 59),
            hours=_numbers(hours, 0, 23),
            days=frozenset(_numbers(days, 1, 31)),
            months=frozenset(_numbers(months, 1, 12, _MONTHS, first=1)),
            weekdays=frozenset(day % 7 for day in _numbers(weekdays, 0, 7, _DAYS)),
            # As every cron does: with both days restricted, one of them is enough.
            either_day=not days.startswith("*") and not weekdays.startswith("*"),
        )

    def after(self, moment: datetime) -> datetime | None:
        """The first moment later than this one; None if there is none (a 30th of February)."""
        start = moment.astimezone(timezone.utc).replace(second=0, microsecond=0)
        start += timedelta(minutes=1)
        for ahead in range(_DAYS_AHEAD):
            day = start.date() + timedelta(days=ahead)
            if not self._on(day):
                continue
            for hour in self.hours:
                for minute in self.minutes:
                    found = datetime.combine(day, time(hour, minute), timezone.utc)
                    if found >= start:
                        return found
        return None

    def _on(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        by_date, by_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_date or by_week if self.either_day else by_date and by_week


def _numbers(
    text: str, low: int, high: int, names: Sequence[str] = (), *, first: int = 0
) -> tuple[int, ...]:
    found: set[int] = set()

    def number(word: str) -> int:
        value = names.index(word) + first if word in names else int(word)
        if not low <= value <= high:
            raise ValueError(f"cron: {word} is not between {low} and {high}")
        return value

    for part in text.split(","):
        span, _, every = part.partition("/")
        start, dash, end = span.partition("-")
        if span in ("*", "?"):
            begin, last = low, high
        else:
            begin = number(start)
            last = number(end) if dash else (high if every else begin)
        step = int(every or 1)
        if step < 1 or last < begin:
            raise ValueError(f"cron: {part!r} means nothing")
        found.update(range(begin, last + 1, step))
    return tuple(sorted(found))


def cron_of(given: Mapping[str, Any], schedule: Mapping[str, Any]) -> str:
    """The cron expression of a job's ``schedule``, of which ``given`` is what the client sent.

    Days and hours make one (dbt Cloud API v2, Job: ``date.type``, ``time.type``); an expression
    of one's own counts with ``custom_cron``, ``interval_cron``, or where no days are given.

    Raises: Refusal 400.
    """
    day, hour = schedule.get("date") or {}, schedule.get("time") or {}
    custom = day.get("type") in ("custom_cron", "interval_cron")
    try:
        if custom or ("cron" in given and "date" not in given):
            text = str((day.get("cron") if custom else None) or schedule.get("cron"))
        else:
            hours = (
                ",".join(str(int(one)) for one in hour.get("hours") or [0])
                if hour.get("type") == "at_exact_hours"
                else f"*/{int(hour.get('interval') or 1)}"
            )
            days = day.get("days") or [] if day.get("type") == "days_of_week" else []
            week = ",".join(str(int(one)) for one in days) or "*"
            text = f"0 {'*' if hours == '*/1' else hours} * * {week}"
        Cron.parse(text)
    except (ValueError, TypeError) as error:
        raise Refusal(400, f"schedule: {error}", {"schedule": [str(error)]}) from None
    return text


def next_run(job: Mapping[str, Any], now: datetime) -> datetime | None:
    """When dbt Cloud starts a job by itself; None if it does not."""
    if not job["triggers"].get("schedule") or job["deactivated"] or job["state"] != 1:
        return None
    with contextlib.suppress(ValueError):
        return Cron.parse(str(job["schedule"]["cron"])).after(now)
    return None


class Due:
    """What is due between two looks. A time that passed while nobody looked counts once."""

    def __init__(self) -> None:
        self._next: dict[int, tuple[str, datetime | None]] = {}

    def look(self, jobs: Sequence[Mapping[str, Any]], now: datetime) -> list[Mapping[str, Any]]:
        """The jobs among ``jobs`` (all those with a schedule) that must start now."""
        due, known = [], self._next
        self._next = {}
        for job in jobs:
            # A job that was deactivated meanwhile does not catch up when it comes back.
            text = str(job["schedule"]["cron"]) + (" off" if job["deactivated"] else "")
            before = known.get(job["id"])
            if before is None or before[0] != text:
                moment = next_run(job, now)
            else:
                moment = before[1]
                if moment is not None and moment <= now:
                    due.append(job)
                    moment = next_run(job, now)
            self._next[job["id"]] = (text, moment)
        return due
