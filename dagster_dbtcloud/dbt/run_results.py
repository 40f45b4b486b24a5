"""Read dbt's run_results.json: what became of each node in one dbt command.

It does not decide what a result means in Dagster (``events.py`` does).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dagster_dbtcloud.dbt.artifact import check_schema, field, parse_time, read_json, text_map
from dagster_dbtcloud.errors import RunResultsError

_VERSIONS = range(4, 7)
"""v4 is dbt 1.6, v6 is dbt 1.8 and later, Fusion too."""

BUILDING_COMMANDS = frozenset({"build", "run", "seed", "snapshot", "retry", "clone"})
"""Commands that change relations; ``test`` only checks, ``compile`` and ``docs`` build nothing."""

STATUSES = frozenset(
    {
        *("success", "error", "skipped", "partial success", "no-op", "reused"),  # nodes
        *("pass", "fail", "warn"),  # tests, and Fusion's models built with a warning
        "runtime error",  # freshness
    }
)
"""Every status that dbt is known to write (dbt-core 1.6 to 1.12, Fusion)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A span of time of a microbatch model; ``end`` is exclusive, both are aware UTC.

    One that dbt did not come to, because an earlier one failed, counts as failed.
    """

    start: datetime
    end: datetime
    succeeded: bool


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What became of one node.

    ``status`` is dbt's own word in lower case; ``execution_time`` is in seconds; ``started_at``
    and ``completed_at`` are aware UTC and span all timing entries, None when there are none (a
    skipped or reused node). ``failures`` counts failed rows of a test. ``batches`` are those of a
    microbatch model, the failed ones first.
    """

    unique_id: str
    status: str
    message: str | None = None
    failures: int | None = None
    execution_time: float = 0.0
    started_at: datetime | None = None
    completed_at: datetime | None = None
    adapter_response: Mapping[str, Any] | None = None
    relation_name: str | None = None
    batches: tuple[Batch, ...] = ()

    @property
    def rows_affected(self) -> int | None:
        """The rows written, where the adapter tells; some write -1 for "unknown"."""
        rows = (self.adapter_response or {}).get("rows_affected")
        if isinstance(rows, bool) or not isinstance(rows, int) or rows < 0:
            return None
        return rows

    @property
    def query_id(self) -> str | None:
        """The warehouse's id of the main query (BigQuery calls it a job id)."""
        response = self.adapter_response or {}
        found = response.get("query_id") or response.get("job_id")
        return found if isinstance(found, str) else None


@dataclass(frozen=True)
class RunResults:
    """The results of one dbt command.

    ``malformed`` holds a sentence for each entry that could not be read and was left out, and for
    each that was kept though a part of it is strange; the others are not lost by it.
    ``elapsed_time`` is in seconds.
    """

    origin: str
    generated_at: datetime | None
    invocation_id: str | None
    dbt_version: str | None
    env: Mapping[str, str]
    command: str | None
    args: Mapping[str, Any]
    results: tuple[NodeResult, ...]
    elapsed_time: float
    malformed: tuple[str, ...] = ()

    @property
    def builds(self) -> bool:
        """Whether the command was one that builds relations."""
        return self.command in BUILDING_COMMANDS

    @classmethod
    def from_bytes(cls, data: bytes, *, origin: str) -> RunResults:
        """Read the content of a run_results.json; ``origin`` names it in errors.

        Raises: RunResultsError, when the file as a whole cannot be used.
        """
        raw = read_json(data, origin=origin, error=RunResultsError)
        return cls.from_dict(raw, origin=origin)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, origin: str) -> RunResults:
        """Take run results that are parsed already. Raises: RunResultsError."""
        metadata, _ = check_schema(
            raw, kind="run-results", versions=_VERSIONS, origin=origin, error=RunResultsError
        )
        entries = field(raw, "results", list, at="", origin=origin, error=RunResultsError)
        if entries is None:
            raise RunResultsError(f"{origin}: no results; the file is not whole.", origin=origin)
        args = raw.get("args")
        args = args if isinstance(args, dict) else {}
        results: list[NodeResult] = []
        malformed: list[str] = []
        for index, entry in enumerate(entries):
            result, complaint = _result(entry, at=f"results[{index}]")
            if result is not None:
                results.append(result)
            if complaint:
                malformed.append(f"{origin}: {complaint}")
        return cls(
            origin=origin,
            generated_at=parse_time(metadata.get("generated_at")),
            invocation_id=_text(metadata.get("invocation_id")),
            dbt_version=_text(metadata.get("dbt_version")),
            env=text_map(metadata.get("env")),
            command=_text(args.get("which")) or _text(args.get("command")),
            args=args,
            results=tuple(results),
            elapsed_time=_number(raw.get("elapsed_time")) or 0.0,
            malformed=tuple(malformed),
        )


def _result(entry: object, *, at: str) -> tuple[NodeResult | None, str]:
    """Return the result, if it can be used, and a complaint, if there is one."""
    if not isinstance(entry, dict):
        return None, f"{at} is not an object and was left out."
    unique_id = entry.get("unique_id")
    if not isinstance(unique_id, str) or not unique_id:
        return None, f"{at} has no unique_id and was left out (status {entry.get('status')!r})."
    status = entry.get("status")
    if not isinstance(status, str) or not status:
        return None, f"{at} ({unique_id}) has no status and was left out."
    status = status.lower()
    complaint = ""
    if status not in STATUSES:
        complaint = f"{at} ({unique_id}) has the status {status!r}, which is not a known one."
    started_at, completed_at = _span(entry.get("timing"))
    failures = entry.get("failures")
    return (
        NodeResult(
            unique_id=unique_id,
            status=status,
            message=_message(entry.get("message")),
            failures=failures if type(failures) is int else None,
            execution_time=_number(entry.get("execution_time")) or 0.0,
            started_at=started_at,
            completed_at=completed_at,
            adapter_response=_object(entry.get("adapter_response")) or {},
            relation_name=_text(entry.get("relation_name")),
            batches=_batches(_object(entry.get("batch_results")) or {}),
        ),
        complaint,
    )


def _span(timing: object) -> tuple[datetime | None, datetime | None]:
    entries = (
        [entry for entry in timing if isinstance(entry, dict)] if isinstance(timing, list) else []
    )
    starts = [moment for entry in entries if (moment := parse_time(entry.get("started_at")))]
    ends = [moment for entry in entries if (moment := parse_time(entry.get("completed_at")))]
    return min(starts, default=None), max(ends, default=None)


def _batches(found: Mapping[str, Any]) -> tuple[Batch, ...]:
    """Read batch_results; a batch without two times says nothing."""
    batches: list[Batch] = []
    for word in ("failed", "successful"):
        spans = found.get(word)
        for span in spans if isinstance(spans, list) else ():
            times = [parse_time(each) for each in span] if isinstance(span, list) else []
            if len(times) == 2 and times[0] is not None and times[1] is not None:
                batches.append(Batch(times[0], times[1], word == "successful"))
    return tuple(batches)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _message(value: object) -> str | None:
    return None if value is None else str(value)


def _object(value: object) -> Mapping[str, Any] | None:
    return value if isinstance(value, dict) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value)
