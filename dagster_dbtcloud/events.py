"""What dbt did to a node, said once as an ``Outcome`` and rendered for Dagster twice.

An outcome is rendered as a result that a running step yields, or as an event of the event log
(what a sensor reports). Pure: no network, no instance, no files; the keys come from the specs that
the code location declares.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from enum import Enum
from types import MappingProxyType
from typing import Any

import dagster as dg

from dagster_dbtcloud.dbt.run_results import Batch, NodeResult, RunResults
from dagster_dbtcloud.dbt.sources import FreshnessResults, SourceFreshness
from dagster_dbtcloud.specs import UNIQUE_ID

RUN_ID_TAG = "dagster_dbtcloud/run_id"
JOB_ID_TAG = "dagster_dbtcloud/job_id"
INVOCATION_ID_TAG = "dagster_dbtcloud/invocation_id"
GIT_SHA_TAG = "dagster_dbtcloud/git_sha"

_UNFIT = re.compile(r"[^A-Za-z0-9_.-]")
"""What Dagster refuses in a tag's value: one strange commit must not hide a run."""
_MESSAGE_LIMIT = 4_000
"""Characters of one dbt message that go into metadata; dbt can print whole query plans."""

_BATCHES_SHOWN = 200
"""How many batches of a model go into metadata; those that failed come first."""

_BUILT = frozenset({"success", "warn"})  # "warn" of a model: Fusion
UNCHANGED = frozenset({"no-op", "reused"})
_CHECK_PASSED = frozenset({"pass", "success"})


class OutcomeKind(str, Enum):
    """The five things dbt can do to a node, as far as Dagster is concerned."""

    MATERIALIZED = "materialized"
    CHECKED = "checked"
    FAILED = "failed"
    SKIPPED = "skipped"
    OBSERVED = "observed"


@dataclass(frozen=True, slots=True)
class RunRef:
    """The dbt Cloud run (and the step of it) that an outcome comes from."""

    run_id: int
    url: str | None = None
    job_id: int | None = None
    git_sha: str | None = None
    step_index: int | None = None
    invocation_id: str | None = None
    artifacts_url: str | None = None

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags that every recorded event carries, so that it can be found again."""
        values = {
            RUN_ID_TAG: str(self.run_id),
            JOB_ID_TAG: None if self.job_id is None else str(self.job_id),
            INVOCATION_ID_TAG: self.invocation_id,
            GIT_SHA_TAG: self.git_sha,
        }
        return {key: _UNFIT.sub("_", value)[:63] for key, value in values.items() if value}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One node's fate in one step of one dbt Cloud run."""

    kind: OutcomeKind
    result: NodeResult
    run: RunRef
    asset_key: dg.AssetKey | None = None
    check_key: dg.AssetCheckKey | None = None
    freshness: SourceFreshness | None = None
    compiled_path: str | None = None

    @property
    def compiled_url(self) -> str | None:
        """Where dbt Cloud gives the SQL that ran, once the step's artifacts are stored."""
        if self.run.artifacts_url is None or self.compiled_path is None:
            return None
        step = "" if self.run.step_index is None else f"?step={self.run.step_index}"
        return f"{self.run.artifacts_url}{self.compiled_path}{step}"

    @property
    def unique_id(self) -> str:
        return self.result.unique_id


@dataclass(frozen=True)
class Declared:
    """The assets and checks that a code location declares, by dbt's ``unique_id``."""

    asset_keys: Mapping[str, dg.AssetKey] = field(default_factory=dict)
    check_keys: Mapping[str, dg.AssetCheckKey] = field(default_factory=dict)
    partitions: Mapping[dg.AssetKey, dg.PartitionsDefinition] = field(default_factory=dict)
    source_keys: Mapping[str, dg.AssetKey] = field(default_factory=dict)
    compiled_paths: Mapping[str, str] = field(default_factory=dict)
    """Of models and snapshots, as far as known: where their compiled code is among artifacts."""

    @classmethod
    def from_specs(
        cls, asset_specs: Iterable[dg.AssetSpec], check_specs: Iterable[dg.AssetCheckSpec]
    ) -> Declared:
        """Read the ``unique_id`` from each spec's metadata; specs without one are not dbt's."""
        asset_keys: dict[str, dg.AssetKey] = {}
        partitions: dict[dg.AssetKey, dg.PartitionsDefinition] = {}
        for asset in asset_specs:
            unique_id = asset.metadata.get(UNIQUE_ID)
            if isinstance(unique_id, str):
                asset_keys[unique_id] = asset.key
                if asset.partitions_def is not None:
                    partitions[asset.key] = asset.partitions_def
        check_keys = {
            unique_id: check.key
            for check in check_specs
            if isinstance(unique_id := (check.metadata or {}).get(UNIQUE_ID), str)
        }
        return cls(asset_keys, check_keys, partitions)


@dataclass(frozen=True)
class Interpretation:
    """The outcomes of one step, oldest first, and the ids that nobody here declared."""

    outcomes: tuple[Outcome, ...]
    undeclared: tuple[str, ...]


def interpret(results: RunResults, declared: Declared, run: RunRef) -> Interpretation:
    """Translate one ``run_results.json`` into outcomes over what is declared.

    Results of commands that build nothing (``compile``, ``docs generate``) give no outcome.
    Order: dbt's own completion time; what has none (a skipped node) keeps its place in the file.
    """
    outcomes: list[Outcome] = []
    undeclared: list[str] = []
    if results.builds or results.command == "test":
        for result in _by_completion(results.results):
            outcome = _interpret_node(result, declared, run)
            if isinstance(outcome, Outcome):
                outcomes.append(outcome)
            elif result.unique_id.split(".", 1)[0] in _REPORTABLE:
                undeclared.append(result.unique_id)
    return Interpretation(tuple(outcomes), tuple(undeclared))


_REPORTABLE = frozenset({"model", "seed", "snapshot", "test", "unit_test"})


def _by_completion(results: Sequence[NodeResult]) -> list[NodeResult]:
    """Sort by time; an entry without one stays with the entry before it."""
    time = datetime.min.replace(tzinfo=timezone.utc)
    timed: list[tuple[datetime, NodeResult]] = []
    for result in results:
        time = result.completed_at or time
        timed.append((time, result))
    return [result for _, result in sorted(timed, key=lambda pair: pair[0])]


def interpret_freshness(
    results: FreshnessResults, declared: Declared, run: RunRef
) -> Interpretation:
    """Translate one ``sources.json``: an observation of the source's asset, and a check, where one
    is declared for the source (by the source's ``unique_id`` in its metadata).
    """
    outcomes: list[Outcome] = []
    undeclared: list[str] = []
    for each in results.results:
        result = NodeResult(
            each.unique_id,
            "error" if each.status == "runtime error" else each.status,
            message=each.error or _age(each),
            completed_at=each.snapshotted_at or results.generated_at,
        )
        outcome = _interpret_node(result, declared, run)
        source_key = declared.source_keys.get(each.unique_id)
        if outcome is None:
            undeclared.append(each.unique_id)
            continue
        outcomes.append(replace(outcome, freshness=each))
        if outcome.check_key is not None and source_key is not None:
            seen = Outcome(OutcomeKind.OBSERVED, result, run, asset_key=source_key, freshness=each)
            outcomes.append(seen)
    return Interpretation(tuple(outcomes), tuple(undeclared))


def _age(found: SourceFreshness) -> str | None:
    if found.age is None:
        return None
    return f"the newest row was {timedelta(seconds=round(found.age))} old"


def _interpret_node(result: NodeResult, declared: Declared, run: RunRef) -> Outcome | None:
    check_key = declared.check_keys.get(result.unique_id)
    if check_key is not None:
        kind = OutcomeKind.SKIPPED if result.status == "skipped" else OutcomeKind.CHECKED
        return Outcome(kind, result, run, asset_key=check_key.asset_key, check_key=check_key)
    source_key = declared.source_keys.get(result.unique_id)
    if source_key is not None:  # dbt looked at it, and built nothing
        return Outcome(OutcomeKind.OBSERVED, result, run, asset_key=source_key)
    asset_key = declared.asset_keys.get(result.unique_id)
    if asset_key is None:
        return None
    if result.status in _BUILT:
        kind = OutcomeKind.MATERIALIZED
    elif result.status in UNCHANGED:
        kind = OutcomeKind.OBSERVED
    elif result.status == "skipped":
        kind = OutcomeKind.SKIPPED
    else:
        # "error", "partial success" (dbt fails by it, and skips what comes after), and whatever
        # word a later dbt finds for it
        kind = OutcomeKind.FAILED
    compiled = declared.compiled_paths.get(result.unique_id)
    return Outcome(kind, result, run, asset_key=asset_key, compiled_path=compiled)


# --- rendering -----------------------------------------------------------------------------------


def outcome_metadata(outcome: Outcome) -> dict[str, dg.MetadataValue]:
    """Return what a person wants to see beside the event; absent facts have no entry."""
    result, run = outcome.result, outcome.run
    values: dict[str, dg.MetadataValue | None] = {
        "unique_id": dg.MetadataValue.text(result.unique_id),
        "status": dg.MetadataValue.text(result.status),
        "invocation_id": _text(run.invocation_id),
        "dbt_cloud_run": dg.MetadataValue.url(run.url) if run.url else None,
        "dbt_cloud_run_id": dg.MetadataValue.text(str(run.run_id)),  # as a number it gets plotted
        "execution_duration": dg.MetadataValue.float(round(result.execution_time, 3)),
        "completed_at": (
            dg.MetadataValue.timestamp(result.completed_at) if result.completed_at else None
        ),
        "query_id": _text(result.query_id),
        "message": _text(_shorten(result.message)),
    }
    if outcome.check_key is not None:
        values["failed_row_count"] = (
            dg.MetadataValue.int(result.failures) if result.failures is not None else None
        )
    else:
        url = outcome.compiled_url if outcome.kind is OutcomeKind.MATERIALIZED else None
        values["compiled_code"] = dg.MetadataValue.url(url) if url else None
        values["rows_affected"] = (
            dg.MetadataValue.int(result.rows_affected) if result.rows_affected is not None else None
        )
    values["microbatches"] = _batches(result.batches)
    values.update(_freshness_metadata(outcome.freshness))
    return {key: value for key, value in values.items() if value is not None}


def _batches(batches: Sequence[Batch]) -> dg.MetadataValue | None:
    """Return the batches of a microbatch model: begin, end (exclusive), and how each ended."""
    if not batches:
        return None
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    "begin": batch.start.isoformat(),
                    "end": batch.end.isoformat(),
                    "status": "successful" if batch.succeeded else "failed",
                }
            )
            for batch in batches[:_BATCHES_SHOWN]
        ],
        schema=dg.TableSchema([dg.TableColumn(name) for name in ("begin", "end", "status")]),
    )


def _freshness_metadata(found: SourceFreshness | None) -> dict[str, dg.MetadataValue | None]:
    if found is None:
        return {}
    loaded = dg.MetadataValue.timestamp(found.max_loaded_at) if found.max_loaded_at else None
    return {
        "max_loaded_at": loaded,
        "dagster/last_updated_timestamp": loaded,  # what Dagster's own freshness checks look at
        "age_seconds": dg.MetadataValue.float(found.age) if found.age is not None else None,
        "criteria": dg.MetadataValue.json(dict(found.criteria)) if found.criteria else None,
    }


def _text(value: str | None) -> dg.MetadataValue | None:
    return dg.MetadataValue.text(value) if value else None


def _shorten(message: str | None) -> str | None:
    if message is None or len(message) <= _MESSAGE_LIMIT:
        return message
    return message[:_MESSAGE_LIMIT] + " … (shortened; the dbt Cloud run has the whole message)"


def _check_verdict(result: NodeResult) -> tuple[bool, dg.AssetCheckSeverity]:
    """Return (passed, severity): a dbt ``warn`` is a check that did not pass, as a warning."""
    severity = (
        dg.AssetCheckSeverity.WARN if result.status == "warn" else dg.AssetCheckSeverity.ERROR
    )
    return result.status in _CHECK_PASSED, severity


def as_step_result(outcome: Outcome) -> dg.MaterializeResult[Any] | dg.AssetCheckResult | None:
    """Render for a running step that selected this asset or check.

    None for what a step does not yield: failed, skipped and unchanged nodes.
    """
    if outcome.kind is OutcomeKind.MATERIALIZED:
        return dg.MaterializeResult(
            asset_key=outcome.asset_key,
            metadata=outcome_metadata(outcome),
            tags=outcome.run.tags,
        )
    if outcome.kind is OutcomeKind.CHECKED and outcome.check_key is not None:
        passed, severity = _check_verdict(outcome.result)
        return dg.AssetCheckResult(
            passed=passed,
            asset_key=outcome.check_key.asset_key,
            check_name=outcome.check_key.name,
            severity=severity,
            description=_shorten(outcome.result.message),
            metadata=outcome_metadata(outcome),
        )
    return None


def as_log_event(
    outcome: Outcome,
    *,
    partition: str | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
    blocking: bool | None = None,
) -> dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.AssetObservation | None:
    """Render for the event log.

    Failed, skipped and unchanged assets become observations; a skipped check says nothing.
    ``tags`` are added to a materialization's; ``blocking`` is what a check's evaluation says of it.
    """
    if outcome.check_key is not None:
        if outcome.kind is not OutcomeKind.CHECKED:
            return None
        passed, severity = _check_verdict(outcome.result)
        return dg.AssetCheckEvaluation(
            asset_key=outcome.check_key.asset_key,
            check_name=outcome.check_key.name,
            passed=passed,
            severity=severity,
            description=_shorten(outcome.result.message),
            metadata=outcome_metadata(outcome),
            blocking=blocking,
        )
    if outcome.asset_key is None:
        return None
    if outcome.kind is OutcomeKind.MATERIALIZED:
        return dg.AssetMaterialization(
            asset_key=outcome.asset_key,
            metadata=outcome_metadata(outcome),
            tags={**tags, **outcome.run.tags},
            partition=partition,
        )
    return dg.AssetObservation(
        asset_key=outcome.asset_key,
        description=f"dbt: {outcome.result.status}",
        metadata=outcome_metadata(outcome),
        tags=outcome.run.tags,
        partition=partition,
    )


def failure_table(outcomes: Sequence[Outcome]) -> dg.MetadataValue:
    """Return the failed nodes and dbt's messages as a table for a step's failure."""
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    "node": outcome.unique_id,
                    "status": outcome.result.status,
                    "message": _shorten(outcome.result.message) or "",
                }
            )
            for outcome in outcomes
        ],
        schema=dg.TableSchema(
            columns=[dg.TableColumn(name) for name in ("node", "status", "message")]
        ),
    )


def failed(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """Walk the outcomes that made (or would make) dbt exit with an error."""
    return filter(is_failed, outcomes)


def is_failed(outcome: Outcome) -> bool:
    """Whether the outcome made (or would make) dbt exit with an error."""
    if outcome.kind is OutcomeKind.CHECKED:
        passed, severity = _check_verdict(outcome.result)
        return not passed and severity is dg.AssetCheckSeverity.ERROR
    return outcome.kind is OutcomeKind.FAILED


def adds_metadata(outcome: Outcome) -> bool:
    """Whether a run's results tell of an asset what its log does not."""
    return outcome.result.rows_affected is not None or outcome.result.query_id is not None
