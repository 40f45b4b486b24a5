"""Faults as data: which request they meet, how often, and what goes wrong.

It breaks nothing itself; ``edge.py`` carries the faults out.
"""

from __future__ import annotations

import fnmatch
import random
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from dagster_dbtcloud.clock import Clock

Kind = Literal[
    "status", "html", "lost", "reset", "cut", "delay",
    "late_effect", "late_artifacts", "late_list", "late_logs",
]  # fmt: skip
KINDS: tuple[str, ...] = get_args(Kind)

Place = Literal["trigger", "polling", "logs", "list", "artifacts", "cancel", "retry", "jobs"]
#: What clients do: method, what the path looks like, and what the query holds. Logs come with the
#: steps of a run, so "logs" is that part of polling which asks for them.
PLACES: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "trigger": (("POST", r".*/jobs/\d+/run", ""),),
    "retry": (("POST", r".*/runs/\d+/retry", ""), ("POST", r".*/jobs/\d+/rerun", "")),
    "polling": (("GET", r".*/runs/\d+", ""),),
    "logs": (("GET", r".*/runs/\d+", "run_steps"), ("GET", r".*/steps/\d+", "")),
    "list": (("GET", r".*/runs", ""),),
    "artifacts": (("GET", r".*/(runs|jobs)/\d+/artifacts(/.*)?", ""),),
    "cancel": (("POST", r".*/runs/\d+/cancel", ""),),
    "jobs": (("*", r".*/jobs(/\d+)?", ""),),
}


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    ``kind``:

    - ``status``: the answer is ``status`` with ``body`` (dbt Cloud's error envelope if None).
    - ``html``: the answer is ``status`` (200 unless set) with a page of HTML.
    - ``lost``: the connection is closed without an answer.
    - ``reset``: the connection is reset (RST).
    - ``cut``: the answer stops half-way; its Content-Length promised more.
    - ``delay``: the answer comes ``seconds`` (of real time) later; so does the effect, unless
      ``after_effect``, and there is none for a client that has left by then.
    - ``late_effect``: the connection is closed without an answer, and the request takes effect
      ``seconds`` (of the sandbox's clock) later.
    - ``late_artifacts``: artifacts answer 404, their list null.
    - ``late_list``: lists of runs are empty of the runs that exist only since the fault began.
    - ``late_logs``: logs of steps are empty.

    ``after_effect``: the request takes effect first, then its answer is spoilt (``cut`` always
    lets it through). ``place`` names what a client does (``trigger``, ``polling``, ``logs``,
    ``list``, ``artifacts``, ``cancel``, ``retry``, ``jobs``); ``method`` ("*": any), ``path`` (a
    shell pattern over the path without its query, e.g. ``*/jobs/*/run*``) and ``query`` (a shell
    pattern over the decoded query) narrow it. The first ``skip`` such requests are let through,
    then ``count`` are met (None: all), each with ``probability``, for ``for_seconds`` of the
    sandbox's clock after it was added.
    """

    kind: Kind
    method: str = "*"
    path: str = "*"
    query: str = "*"
    place: Place | None = None
    status: int | None = None
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    retry_after: str | None = None
    seconds: float = 0.0
    after_effect: bool = False
    skip: int = 0
    count: int | None = 1
    probability: float = 1.0
    for_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.kind == "status" and self.status is None:
            raise ValueError("status: a fault of kind 'status' needs one")
        if self.place is not None and self.place not in PLACES:
            raise ValueError(f"place: {self.place!r} is not one of {', '.join(PLACES)}")

    def concerns(self, method: str, path: str, query: str) -> bool:
        """Whether a request is one that this fault is about."""
        if self.place is not None:
            bare = path.rstrip("/")
            if not any(
                one in ("*", method) and re.fullmatch(pattern, bare) and word in query
                for one, pattern, word in PLACES[self.place]
            ):
                return False
        return (
            self.method in ("*", method)
            and fnmatch.fnmatchcase(path, self.path)
            and fnmatch.fnmatchcase(query, self.query)
        )

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Fault:
        """Raises: ValueError, TypeError for unknown or malformed fields."""
        unknown = set(data) - {one.name for one in fields(cls)}
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        return cls(**data)


@dataclass
class _Rule:
    number: int
    fault: Fault
    added: float
    added_at: str
    seen: int = 0
    met: int = 0


@dataclass(frozen=True)
class Met:
    """A fault that applies to the request at hand, and when it was added (stored form)."""

    fault: Fault
    added_at: str


class Faults:
    """The faults in force. Safe to change from any thread while requests come."""

    def __init__(self, clock: Clock, now: Any, *, seed: int = 0) -> None:
        self._clock = clock
        self._now = now
        self._random = random.Random(seed)  # noqa: S311 -- repeatable on purpose
        self._rules: list[_Rule] = []
        self._numbers = 0
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> int:
        """Put a fault in force; its number serves ``remove``."""
        with self._lock:
            self._numbers += 1
            self._rules.append(_Rule(self._numbers, fault, self._clock.monotonic(), self._now()))
            return self._numbers

    def remove(self, number: int) -> None:
        with self._lock:
            self._rules = [rule for rule in self._rules if rule.number != number]

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def listed(self) -> list[dict[str, Any]]:
        with self._lock:
            return [
                {"number": rule.number, "met": rule.met, **_plain(rule.fault)}
                for rule in self._rules
            ]

    def meet(self, method: str, path: str, query: str = "") -> list[Met]:
        """The faults that this request meets, in the order they were added; counts them."""
        with self._lock:
            return [Met(rule.fault, rule.added_at) for rule in self._rules if
                    self._meets(rule, method, path, query)]  # fmt: skip

    def _meets(self, rule: _Rule, method: str, path: str, query: str) -> bool:
        fault = rule.fault
        if not fault.concerns(method, path, query):
            return False
        age = self._clock.monotonic() - rule.added
        if fault.for_seconds is not None and age > fault.for_seconds:
            return False
        rule.seen += 1
        if rule.seen <= fault.skip or (fault.count is not None and rule.met >= fault.count):
            return False
        if self._random.random() >= fault.probability:
            return False
        rule.met += 1
        return True


def _plain(fault: Fault) -> dict[str, Any]:
    return asdict(fault)


def first(met: Iterable[Met], *kinds: str) -> Met | None:
    return next((one for one in met if one.fault.kind in kinds), None)
