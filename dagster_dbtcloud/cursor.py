"""The polling sensor's cursor: how far dbt Cloud's history has been recorded, as a short text.

It holds no events and asks nobody; what its parts mean for a tick is said in ``sensor.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from itertools import accumulate

OVERLAP = timedelta(minutes=10)
"""How far behind the newest finished run each tick looks again, for runs that are listed late."""
MOST_NAMED = 20
"""How many quarantined runs the cursor names; of more, the number."""
MOST_DOUBTED = 500
"""How many runs are doubted one by one; of more, all are."""
_REASON = 120


@dataclass(frozen=True)
class Doubt:
    """Runs of which results may be stored, though the cursor does not know: the tick that wrote
    them did not live to save it, or they are recorded in parts.

    ``mark`` is a place in the event log before all of them. ``runs`` None: every run. After
    ``until`` those are forgotten that dbt Cloud lists no more.
    """

    mark: str
    until: datetime
    runs: frozenset[int] | None = frozenset()
    in_part: frozenset[int] = frozenset()

    def covers(self, run_id: int) -> bool:
        return self.runs is None or run_id in self.runs or run_id in self.in_part


@dataclass(frozen=True)
class Cursor:
    """How far dbt Cloud's history has been recorded.

    ``finished_at`` is the newest finish time met (the server's clock). ``done`` holds the runs met
    within the overlap before it, by finish time; ``waiting`` the runs whose results were not to be
    had yet, by the time they were first met; ``quarantined`` those given up, by the reason.
    ``mark`` is where the event log ended when the last tick began, ``wrote`` how many events that
    tick gave to Dagster: what lies behind them was written by a tick that was killed.
    """

    finished_at: datetime
    done: Mapping[int, datetime] = field(default_factory=dict)
    waiting: Mapping[int, datetime] = field(default_factory=dict)
    quarantined: Mapping[int, str] = field(default_factory=dict)
    quarantined_in_all: int = 0
    mark: str | None = None
    wrote: int = 0
    doubt: Doubt | None = None
    polled_at: datetime | None = None
    project: str = ""
    """Of the project's newest state that was compared with this code location: its commit."""

    def after(self, run_id: int, finished_at: datetime | None, *, now: datetime) -> Cursor:
        """Return the cursor once a run is dealt with.

        A run whose finish time lies in the future does not draw the cursor with it.
        """
        met = finished_at or self.finished_at
        newest = max(self.finished_at, min(met, now))
        done = {**self.done, run_id: met}
        return replace(
            self,
            finished_at=newest,
            done={key: time for key, time in done.items() if time >= newest - OVERLAP},
            waiting={key: time for key, time in self.waiting.items() if key != run_id},
        )

    def awaiting(
        self, run_id: int, finished_at: datetime | None, since: datetime, *, now: datetime
    ) -> Cursor:
        """Return the cursor that goes past a run but comes back to it."""
        past = self.after(run_id, finished_at, now=now)
        return replace(past, waiting={**past.waiting, run_id: since})

    def giving_up(self, run_id: int, reason: str) -> Cursor:
        """Return the cursor that names a run as given up."""
        named = {key: why for key, why in self.quarantined.items() if key != run_id}
        named[run_id] = " ".join(reason.split())[:_REASON]
        return replace(
            self,
            quarantined=dict(list(named.items())[-MOST_NAMED:]),
            quarantined_in_all=self.quarantined_in_all + (run_id not in self.quarantined),
        )

    def knows(self, run_id: int) -> bool:
        return run_id in self.done or run_id in self.waiting or run_id in self.quarantined

    def to_json(self) -> str:
        end = self.finished_at
        raw = {
            "version": 2,
            "finished_at": end.isoformat(),
            "done": _packed({key: (end - time) for key, time in self.done.items()}),
            "waiting": _packed({key: (end - time) for key, time in self.waiting.items()}),
            "quarantined": {str(key): why for key, why in self.quarantined.items()},
            "quarantined_in_all": self.quarantined_in_all,
            "mark": self.mark,
            "wrote": self.wrote,
            "polled_at": self.polled_at.isoformat() if self.polled_at else None,
            "project": self.project,
        }
        if self.doubt is not None:
            runs = self.doubt.runs
            raw["doubt"] = {
                "mark": self.doubt.mark,
                "until": self.doubt.until.isoformat(),
                "runs": None if runs is None else _steps(sorted(runs)),
                "in_part": sorted(self.doubt.in_part),
            }
        return json.dumps(raw, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | None) -> Cursor | None:
        """Return the cursor; None when there is none, or the text is not one of ours."""
        try:
            raw = json.loads(text or "")
            end = _time(raw["finished_at"])
            if raw["version"] == 1:
                return cls(
                    end,
                    {int(key): _time(time) for key, time in raw["done"].items()},
                    {int(key): _time(time) for key, time in raw["waiting"].items()},
                )
            doubt = raw.get("doubt")
            return cls(
                finished_at=end,
                done={key: end - age for key, age in _unpacked(raw["done"])},
                waiting={key: end - age for key, age in _unpacked(raw["waiting"])},
                quarantined={int(key): str(why) for key, why in raw["quarantined"].items()},
                quarantined_in_all=int(raw["quarantined_in_all"]),
                mark=raw["mark"],
                wrote=int(raw["wrote"]),
                doubt=None
                if doubt is None
                else Doubt(
                    str(doubt["mark"]),
                    _time(doubt["until"]),
                    None
                    if doubt["runs"] is None
                    else frozenset(accumulate(int(step) for step in doubt["runs"])),
                    frozenset(int(run) for run in doubt["in_part"]),
                ),
                polled_at=_time(raw["polled_at"]) if raw["polled_at"] else None,
                project=str(raw["project"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return None


def _packed(ages: Mapping[int, timedelta]) -> list[list[int]]:
    """Write ids as steps from one to the next, and ages in whole seconds (rounded down).

    Ids of dbt Cloud have 14 digits, and hundreds of runs may end within the overlap.
    """
    ordered = sorted(ages.items())
    steps = _steps([key for key, _ in ordered])
    return [steps, [int(age.total_seconds() // 1) for _, age in ordered]]


def _unpacked(raw: list[list[int]]) -> Iterable[tuple[int, timedelta]]:
    steps, ages = raw
    seconds = (timedelta(seconds=int(age)) for age in ages)
    return zip(accumulate(int(step) for step in steps), seconds, strict=True)


def _steps(ordered: list[int]) -> list[int]:
    return [key - before for before, key in zip([0, *ordered], ordered, strict=False)]


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)
