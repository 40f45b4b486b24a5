"""The marker in a dbt Cloud run's ``cause`` that ties it to one attempt of a Dagster step.

It writes and reads the text, nothing else; who looks for it is in ``recovery.py`` and
``ownership.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

CAUSE_LIMIT = 255
"""Characters; dbt Cloud's clients cut the cause there (docs/dbt-cloud-api.md)."""

RUN_TAG_PREFIX = "dagster_dbtcloud/run/"
"""Followed by a dbt Cloud run's id: the tag of each Dagster run that watches it."""
STARTED, RECORDED = "started", "recorded"
"""The tag's words: the run is watched; its results are in the event log."""
CLAIM_TAG_PREFIX = "dagster_dbtcloud/sensor/"
"""Followed by a dbt Cloud run's id: the tag of each Dagster run that left results to the sensor;
its value is when (Unix seconds) the sensor gave them to Dagster to be stored."""

_OPENING = "[dagster:"


@dataclass(frozen=True)
class Mark:
    """What the marker holds: which call of which step of which Dagster run, and which attempt."""

    dagster_run_id: str
    call: str
    attempt: int

    def __str__(self) -> str:
        return f"{_OPENING}{self.dagster_run_id}/{self.call}/{self.attempt}]"


@dataclass(frozen=True)
class Marker:
    """One call of ``cli`` or ``run_job`` in one attempt of a Dagster step.

    ``number`` counts such calls within the attempt, from 0.
    """

    dagster_run_id: str
    step_key: str
    attempt: int
    number: int
    deployment: str | None = None

    @property
    def mark(self) -> Mark:
        """The part of the cause that finds the run again: stable, and never cut."""
        text = f"{self.step_key}/{self.number}"
        return Mark(
            self.dagster_run_id, sha256(text.encode()).hexdigest()[:10], attempt=self.attempt
        )

    def cause(self) -> str:
        """Return a sentence for dbt Cloud's users with the mark at its end, at most 255 long."""
        place = f" in {self.deployment}" if self.deployment else ""
        text = f"Dagster run {self.dagster_run_id[:8]}{place}, step {self.step_key}"
        mark = str(self.mark)
        return f"{text[: CAUSE_LIMIT - len(mark) - 1]} {mark}"


def read_mark(cause: str | None) -> Mark | None:
    """Return the mark in a dbt Cloud run's cause; None when Dagster did not start it."""
    if not cause or not cause.endswith("]"):
        return None
    start = cause.rfind(_OPENING)
    if start < 0:
        return None
    parts = cause[start + len(_OPENING) : -1].split("/")
    if len(parts) != 3 or not parts[0] or not parts[2].isdecimal():
        return None
    return Mark(parts[0], parts[1], int(parts[2]))


def dagster_run_of(cause: str | None) -> str | None:
    """Return the Dagster run id in a dbt Cloud run's cause; None when Dagster did not start it."""
    mark = read_mark(cause)
    return mark.dagster_run_id if mark else None
