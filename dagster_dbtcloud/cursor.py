"""The polling sensor's cursor: how far dbt Cloud's history has been recorded, as a short text.

It holds no events and asks nobody; what its parts mean for a tick is said in ``polling.py``.
"""

from __future__ import annotations

import json
import zlib
from base64 import b85decode, b85encode
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from functools import reduce
from hashlib import blake2b
from itertools import accumulate, pairwise

OVERLAP = timedelta(minutes=10)
"""How far behind the newest finished run each tick looks again, for runs that are listed late."""
MOST_KEPT = 256
"""How many runs of the overlap are known one by one; the older half of more is sealed."""
MOST_SEALS = 16
MOST_WAITING = 256
"""How many runs are waited for at once; a tick that has met so many goes no further."""
MOST_NAMED = 12
"""How many quarantined runs the cursor names; of more, the number."""
MOST_DOUBTED = 256
"""How many runs are doubted one by one; of more, all are."""
_REASON = 100
_READABLE = 3_000
"""Characters; what makes a longer cursor long is packed."""
_LONG = ("done", "waiting", "sealed", "doubt")

Place = tuple[datetime, int]
"""Where a run is in history: its finish time, and its id."""


@dataclass(frozen=True)
class Seal:
    """Runs that were met between two places (both inclusive): their number, and the sum of their
    ids' digests, out of which one or two that were not among them can be read.
    """

    low: Place
    high: Place
    count: int
    digest: int

    def covers(self, place: Place) -> bool:
        return self.low <= place <= self.high

    def holding(self, run_id: int) -> Seal:
        return replace(self, count=self.count + 1, digest=self.digest ^ _digest(run_id))

    def strangers(self, run_ids: Collection[int]) -> frozenset[int] | None:
        """Return those of the runs between the two places that are not sealed; None when that
        cannot be told.
        """
        more = len(run_ids) - self.count
        known = {_digest(run_id): run_id for run_id in run_ids}
        rest = _sum(known) ^ self.digest
        if more == 0 and rest == 0:
            return frozenset()
        if more == 1 and rest in known:
            return frozenset({known[rest]})
        if more == 2:
            for digest, run_id in known.items():
                other = known.get(digest ^ rest)
                if other is not None and other != run_id:
                    return frozenset({run_id, other})
        return None


def _digest(run_id: int) -> int:
    return int.from_bytes(blake2b(str(run_id).encode(), digest_size=8).digest(), "big")


def _sum(digests: Iterable[int]) -> int:
    return reduce(int.__xor__, digests, 0)


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
    within the overlap before it, by finish time, and ``seals`` those of them that are too many to
    be named; ``waiting`` the runs whose results were not to be had yet, by the time they were first
    met; ``quarantined`` those given up, by the reason.
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
    seals: tuple[Seal, ...] = ()

    @property
    def since(self) -> datetime:
        """The finish time from which on dbt Cloud's runs are listed."""
        return min([self.finished_at - OVERLAP, *(seal.low[0] for seal in self.seals)])

    def after(self, run_id: int, finished_at: datetime | None, *, now: datetime) -> Cursor:
        """Return the cursor once a run is dealt with.

        A run whose finish time lies in the future does not draw the cursor with it.
        """
        met = finished_at or self.finished_at
        done, seals = dict(self.done), self.seals
        if run_id not in self.waiting:
            seal = self.seal_over((met, run_id))
            if seal is None:
                done[run_id] = met
            else:
                seals = tuple(each.holding(run_id) if each is seal else each for each in seals)
        moved = replace(
            self,
            finished_at=max(self.finished_at, min(met, now)),
            done=done,
            waiting={key: time for key, time in self.waiting.items() if key != run_id},
            seals=seals,
        )
        return moved._forgetting()._sealing()

    def seal_over(self, place: Place) -> Seal | None:
        return next((seal for seal in self.seals if seal.covers(place)), None)

    def without(self, broken: Collection[Seal]) -> Cursor:
        """Return the cursor that no longer knows the runs under these seals."""
        return replace(self, seals=tuple(seal for seal in self.seals if seal not in broken))

    def _forgetting(self) -> Cursor:
        """Leave out what dbt Cloud is not asked for any more."""
        edge, seals = self.finished_at - OVERLAP, self.seals
        first = next((n for n, seal in enumerate(seals) if seal.high[0] >= edge), len(seals))
        while 0 < first < len(seals) and seals[first - 1].high[0] >= seals[first].low[0]:
            first -= 1  # runs of one finish time are listed together
        past = replace(self, seals=seals[first:])
        since = past.since
        return replace(past, done={key: time for key, time in self.done.items() if time >= since})

    def _sealing(self) -> Cursor:
        if len(self.done) <= MOST_KEPT:
            return self
        places = sorted((time, key) for key, time in self.done.items())
        sealed = self._sealed(places[0], places[len(places) // 2 - 1])
        while len(sealed.seals) > MOST_SEALS:
            pair = min(pairwise(sealed.seals), key=lambda pair: pair[0].count + pair[1].count)
            sealed = sealed._sealed(pair[0].low, pair[1].high)
        return sealed

    def _sealed(self, low: Place, high: Place) -> Cursor:
        """Put one seal on all that lies between two places."""
        ids = [key for key, time in self.done.items() if low <= (time, key) <= high]
        inside = [seal for seal in self.seals if low <= seal.low <= high]
        seal = Seal(
            low,
            high,
            len(ids) + sum(each.count for each in inside),
            _sum([*map(_digest, ids), *(each.digest for each in inside)]),
        )
        outside = [each for each in self.seals if each not in inside]
        return replace(
            self,
            done={key: time for key, time in self.done.items() if key not in set(ids)},
            seals=tuple(sorted([*outside, seal], key=lambda each: each.low)),
        )

    def awaiting(
        self, run_id: int, finished_at: datetime | None, since: datetime, *, now: datetime
    ) -> Cursor:
        """Return the cursor that goes past a run but comes back to it."""
        past = self.after(run_id, finished_at, now=now)
        return replace(past, waiting={**past.waiting, run_id: since})

    def can_await(self, run_id: int) -> bool:
        """Whether there is room for one more run to be waited for."""
        return run_id in self.waiting or len(self.waiting) < MOST_WAITING

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
        raw: dict[str, object] = {
            "version": 3,
            "finished_at": end.isoformat(),
            "done": _packed({key: end - time for key, time in self.done.items()}, _EXACT),
            "sealed": [
                [*_written(seal.low, end), *_written(seal.high, end), seal.count, seal.digest]
                for seal in self.seals
            ],
            "waiting": _packed({key: end - time for key, time in self.waiting.items()}, _SECOND),
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
        text = _dumped(raw)
        if len(text) <= _READABLE:
            return text
        long = _dumped({name: raw.pop(name) for name in _LONG if name in raw})
        raw["packed"] = b85encode(zlib.compress(long.encode(), 9)).decode()
        return _dumped(raw)

    @classmethod
    def from_json(cls, text: str | None) -> Cursor | None:
        """Return the cursor; None when there is none, or the text is not one of ours."""
        try:
            raw = json.loads(text or "")
            if "packed" in raw:
                raw |= json.loads(zlib.decompress(b85decode(raw["packed"])))
            end = _time(raw["finished_at"])
            if raw["version"] == 1:
                return cls(
                    end,
                    {int(key): _time(time) for key, time in raw["done"].items()},
                    {int(key): _time(time) for key, time in raw["waiting"].items()},
                )
            unit = _SECOND if raw["version"] == 2 else _EXACT
            doubt = raw.get("doubt")
            return cls(
                finished_at=end,
                done={key: end - age for key, age in _unpacked(raw["done"], unit)},
                waiting={key: end - age for key, age in _unpacked(raw["waiting"], _SECOND)},
                quarantined={int(key): str(why) for key, why in raw["quarantined"].items()},
                quarantined_in_all=int(raw["quarantined_in_all"]),
                mark=None if raw["mark"] is None else str(raw["mark"]),
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
                seals=tuple(
                    Seal(
                        (end - int(row[0]) * _EXACT, int(row[1])),
                        (end - int(row[2]) * _EXACT, int(row[3])),
                        int(row[4]),
                        int(row[5]),
                    )
                    for row in raw.get("sealed", ())
                ),
            )
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
            return None
        except (RecursionError, zlib.error):
            return None


_EXACT, _SECOND = timedelta(microseconds=1), timedelta(seconds=1)


def _dumped(raw: object) -> str:
    return json.dumps(raw, separators=(",", ":"), ensure_ascii=False)


def _written(place: Place, end: datetime) -> tuple[int, int]:
    return (end - place[0]) // _EXACT, place[1]


def _packed(ages: Mapping[int, timedelta], unit: timedelta) -> list[list[int]]:
    """Write ids as steps from one to the next, and ages in whole units (rounded down).

    Ids of dbt Cloud have 14 digits, and hundreds of runs may end within the overlap.
    """
    ordered = sorted(ages.items())
    steps = _steps([key for key, _ in ordered])
    return [steps, [age // unit for _, age in ordered]]


def _unpacked(raw: list[list[int]], unit: timedelta) -> Iterable[tuple[int, timedelta]]:
    steps, ages = raw
    found = (int(age) * unit for age in ages)
    return zip(accumulate(int(step) for step in steps), found, strict=True)


def _steps(ordered: list[int]) -> list[int]:
    return [key - before for before, key in zip([0, *ordered], ordered, strict=False)]


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)
