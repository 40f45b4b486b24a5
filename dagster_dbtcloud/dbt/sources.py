"""Read dbt's sources.json: how fresh each source was when ``dbt source freshness`` looked.

It neither judges freshness nor compares two files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dagster_dbtcloud.dbt.artifact import check_schema, field, parse_time, read_json, text_map
from dagster_dbtcloud.errors import RunResultsError

_VERSIONS = range(3, 4)


@dataclass(frozen=True, slots=True)
class SourceFreshness:
    """How fresh one source was.

    ``status`` is pass, warn, error or "runtime error" (then ``error`` holds dbt's message and the
    times are None). Times are aware UTC; ``age`` is in seconds, from the newest row to the look.
    ``criteria`` is dbt's own block: warn_after, error_after (count and period), filter.
    """

    unique_id: str
    status: str
    max_loaded_at: datetime | None = None
    snapshotted_at: datetime | None = None
    age: float | None = None
    criteria: Mapping[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True)
class FreshnessResults:
    """The content of one sources.json; ``malformed`` has a sentence for each entry left out."""

    origin: str
    generated_at: datetime | None
    invocation_id: str | None
    env: Mapping[str, str]
    results: tuple[SourceFreshness, ...]
    malformed: tuple[str, ...] = ()

    @classmethod
    def from_bytes(cls, data: bytes, *, origin: str) -> FreshnessResults:
        """Read the content of a sources.json; ``origin`` names it in errors.

        Raises: RunResultsError, when the file as a whole cannot be used.
        """
        raw = read_json(data, origin=origin, error=RunResultsError)
        metadata, _ = check_schema(
            raw, kind="sources", versions=_VERSIONS, origin=origin, error=RunResultsError
        )
        entries = field(raw, "results", list, at="", origin=origin, error=RunResultsError)
        if entries is None:
            raise RunResultsError(f"{origin}: no results; the file is not whole.", origin=origin)
        results: list[SourceFreshness] = []
        malformed: list[str] = []
        for index, entry in enumerate(entries):
            found = _freshness(entry)
            if found is None:
                malformed.append(f"{origin}: results[{index}] lacks a unique_id or a status.")
            else:
                results.append(found)
        invocation_id = metadata.get("invocation_id")
        return cls(
            origin=origin,
            generated_at=parse_time(metadata.get("generated_at")),
            invocation_id=invocation_id if isinstance(invocation_id, str) else None,
            env=text_map(metadata.get("env")),
            results=tuple(results),
            malformed=tuple(malformed),
        )


def _freshness(entry: object) -> SourceFreshness | None:
    if not isinstance(entry, dict):
        return None
    unique_id, status = entry.get("unique_id"), entry.get("status")
    if not (isinstance(unique_id, str) and unique_id and isinstance(status, str) and status):
        return None
    age = entry.get("max_loaded_at_time_ago_in_s")
    criteria = entry.get("criteria")
    error = entry.get("error")
    return SourceFreshness(
        unique_id=unique_id,
        status=status.lower(),
        max_loaded_at=parse_time(entry.get("max_loaded_at")),
        snapshotted_at=parse_time(entry.get("snapshotted_at")),
        age=float(age) if isinstance(age, (int, float)) and not isinstance(age, bool) else None,
        criteria=criteria if isinstance(criteria, dict) else None,
        error=None if error is None else str(error),
    )
