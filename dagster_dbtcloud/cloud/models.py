"""What dbt Cloud's API speaks of, as frozen models with the API's own field names.

They hold no connection and make no decision; unknown fields are dropped, unknown statuses kept.
Facts 10 to 19, 23 and 30 of docs/dbt-cloud-api.md.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

CAUSE_LIMIT = 255  # characters; fact 23

_DURATION = re.compile(r"(?:(-?\d+) days?, )?(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_SHORT_OFFSET = re.compile(r"\s*(?:UTC|([+-]\d\d))$")
_COMMAND = re.compile(r"`(.*)`", re.DOTALL)


class RunStatus(enum.IntEnum):
    """The status of a run or of a step (fact 12). Treat it as open: the service may add to it."""

    QUEUED = 1
    STARTING = 2
    RUNNING = 3
    SUCCESS = 10
    ERROR = 20
    CANCELLED = 30


ACTIVE_STATUSES = (RunStatus.QUEUED, RunStatus.STARTING, RunStatus.RUNNING)
FINISHED_STATUSES = (RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.CANCELLED)


def _utc(value: object) -> object:
    """Bring a timestamp to a form that pydantic reads (fact 10)."""
    if isinstance(value, str):
        value = value.strip()
        return _SHORT_OFFSET.sub(lambda m: f"{m[1] or '+00'}:00", value) or None
    return value


def _aware(value: datetime | None) -> datetime | None:
    if value is None:
        return None
    if value.tzinfo is None:
        return value.replace(tzinfo=timezone.utc)
    try:
        return value.astimezone(timezone.utc)
    except OverflowError as error:  # pydantic lets only some errors through as its own
        raise ValueError("a time outside the years 1 to 9999") from error


def _duration(value: object) -> object:
    """Read ``HH:MM:SS`` whose hours do not roll over into days (fact 11).

    A duration is for display only: another form reads as None rather than hide the run.
    """
    try:
        if isinstance(value, (int, float)):
            return timedelta(seconds=value)
        match = _DURATION.fullmatch(str(value).strip())
        if match is None:
            return None
        days, hours, minutes, seconds = match.groups()
        return timedelta(
            days=int(days or 0), hours=int(hours), minutes=int(minutes), seconds=float(seconds)
        )
    except (OverflowError, ValueError):  # longer than a timedelta can be; not a number
        return None


def _text(value: object) -> object:
    """Read null as empty, and replace halves of characters (a log is cut anywhere)."""
    if value is None:
        return ""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _list(value: object) -> object:
    return () if value is None else value


def _mapping(value: object) -> object:
    return {} if value is None else value


Timestamp = Annotated[datetime | None, BeforeValidator(_utc), AfterValidator(_aware)]
Duration = Annotated[timedelta | None, BeforeValidator(_duration)]
Text = Annotated[str, BeforeValidator(_text)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_list)]
Ids = Annotated[tuple[int, ...], BeforeValidator(_list)]
Settings = Annotated[Mapping[str, Any], BeforeValidator(_mapping)]


class _Model(BaseModel):
    # Schemas are built when first used: a process that only loads definitions needs none of them.
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class Account(_Model):
    """An account, with its limits (``GET /api/v2/accounts/{A}/``)."""

    id: int
    name: Text = ""
    plan: str | None = None
    state: int | None = None
    run_slots: int | None = None
    queue_limit: int | None = None
    run_duration_limit_seconds: int | None = None
    locked: bool | None = None
    lock_reason: str | None = None
    static_subdomain: str | None = None
    created_at: Timestamp = None


class Project(_Model):
    """A dbt project of an account (v3)."""

    id: int
    name: Text = ""
    account_id: int | None = None
    description: Text = ""
    connection_id: int | None = None
    repository_id: int | None = None
    dbt_project_subdirectory: str | None = None
    docs_job_id: int | None = None
    freshness_job_id: int | None = None
    state: int | None = None
    created_at: Timestamp = None
    updated_at: Timestamp = None


class Environment(_Model):
    """An environment of a project (v3)."""

    id: int
    name: Text = ""
    account_id: int | None = None
    project_id: int | None = None
    type: str | None = None
    deployment_type: str | None = None
    dbt_version: str | None = None
    credentials_id: int | None = None
    connection_id: int | None = None
    use_custom_branch: bool | None = None
    custom_branch: str | None = None
    state: int | None = None
    created_at: Timestamp = None
    updated_at: Timestamp = None

    @property
    def is_production(self) -> bool:
        return self.deployment_type == "production"

    @property
    def is_deployment(self) -> bool:
        """Whether jobs can run in it; a development environment has none (fact 18)."""
        return self.type != "development"


class Job(_Model):
    """A job: dbt commands in an environment. Nested in a run it may be known in part only."""

    id: int
    name: Text = ""
    account_id: int | None = None
    project_id: int | None = None
    environment_id: int | None = None
    description: Text = ""
    dbt_version: str | None = None
    execute_steps: Texts = ()
    job_type: str | None = None
    generate_docs: bool | None = None
    run_generate_sources: bool | None = None
    deferring_environment_id: int | None = None
    deferring_job_definition_id: int | None = None
    # Their shapes differ between a job and a job nested in a run (fact 19).
    execution: Settings = {}
    settings: Settings = {}
    triggers: Settings = {}
    schedule: Settings = {}
    job_completion_trigger_condition: Settings = {}
    deactivated: bool | None = None
    is_system: bool | None = None
    state: int | None = None
    created_at: Timestamp = None
    updated_at: Timestamp = None


class RunTrigger(_Model):
    """Why and how a run was started (fact 14: null in a run unless asked for)."""

    id: int | None = None
    cause: Text = ""
    cause_category: str | None = None
    job_definition_id: int | None = None
    git_branch: str | None = None
    git_sha: str | None = None
    azure_pull_request_id: int | None = None
    github_pull_request_id: int | None = None
    gitlab_merge_request_id: int | None = None
    non_native_pull_request_id: int | None = None
    schema_override: str | None = None
    dbt_version_override: str | None = None
    threads_override: int | None = None
    target_name_override: str | None = None
    generate_docs_override: bool | None = None
    timeout_seconds_override: int | None = None
    steps_override: tuple[str, ...] | None = None
    created_at: Timestamp = None

    @model_validator(mode="before")
    @classmethod
    def _azure(cls, data: Any) -> Any:
        """The documentation of CI jobs has another name for it than the specification."""
        if isinstance(data, Mapping) and data.get("azure_pull_request_id") is None:
            return {**data, "azure_pull_request_id": data.get("azure_devops_pull_request_id")}
        return data

    @property
    def is_pull_request(self) -> bool:
        return any(
            (
                self.azure_pull_request_id,
                self.github_pull_request_id,
                self.gitlab_merge_request_id,
                self.non_native_pull_request_id,
            )
        )


class _WithStatus(_Model):
    """What a run and a step share: a status that may be one we do not know."""

    id: int
    status: Annotated[int, BeforeValidator(lambda value: 0 if value is None else value)] = 0
    status_humanized: Text = ""
    created_at: Timestamp = None
    updated_at: Timestamp = None
    started_at: Timestamp = None
    finished_at: Timestamp = None
    duration: Duration = None

    @property
    def is_complete(self) -> bool:
        """Whether it will not change any more; a status we do not know is judged by its end."""
        if self.status in ACTIVE_STATUSES:
            return False
        return (
            self.status in FINISHED_STATUSES
            or self.finished_at is not None
            or self.status_humanized.lower() == "skipped"
        )

    @property
    def is_success(self) -> bool:
        return self.status == RunStatus.SUCCESS

    @property
    def is_error(self) -> bool:
        return self.status == RunStatus.ERROR

    @property
    def is_cancelled(self) -> bool:
        """Cancelled, or stopped by its time limit (fact 13)."""
        return self.status == RunStatus.CANCELLED

    @property
    def status_name(self) -> str:
        """The status in dbt Cloud's words: ``Queued``, ``Success`` ..."""
        if self.status in (*ACTIVE_STATUSES, *FINISHED_STATUSES):
            return RunStatus(self.status).name.capitalize()
        return self.status_humanized or f"status {self.status}"


class RunStep(_WithStatus):
    """One step of a run; ``index`` counts from 1, the first three are dbt Cloud's own (fact 16)."""

    id: int = 0
    index: int
    name: Text = ""
    run_id: int | None = None
    account_id: int | None = None
    logs: Text = ""
    debug_logs: Text = ""

    @property
    def command(self) -> str | None:
        """The dbt command, e.g. ``dbt build --select x``; None for a step that is not dbt's."""
        match = _COMMAND.search(self.name)
        return match[1].strip() if match else None


class Run(_WithStatus):
    """A run. ``trigger``, ``job`` and ``run_steps`` are filled only if asked for (fact 14)."""

    trigger_id: int | None = None
    account_id: int | None = None
    project_id: int | None = None
    environment_id: int | None = None
    job_id: int | None = None
    job_definition_id: int | None = None
    status_message: str | None = None
    dbt_version: str | None = None
    git_branch: str | None = None
    git_sha: str | None = None
    dequeued_at: Timestamp = None
    should_start_at: Timestamp = None
    queued_duration: Duration = None
    run_duration: Duration = None
    blocked_by: Ids = ()
    deferring_run_id: int | None = None
    retrying_run_id: int | None = None
    can_retry: bool | None = None
    retry_not_supported_reason: str | None = None
    artifacts_saved: bool | None = None
    has_docs_generated: bool | None = None
    has_sources_generated: bool | None = None
    href: str | None = None
    trigger: RunTrigger | None = None
    job: Job | None = None
    environment: Environment | None = None
    run_steps: Annotated[tuple[RunStep, ...], BeforeValidator(_list)] = ()

    @model_validator(mode="before")
    @classmethod
    def _one_job_id(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("job_id") is None:
            return {**data, "job_id": data.get("job_definition_id")}
        return data

    @field_validator("run_steps")
    @classmethod
    def _in_order(cls, steps: tuple[RunStep, ...]) -> tuple[RunStep, ...]:
        return tuple(sorted(steps, key=lambda step: step.index))


class BrokenRun(Run):
    """Stands in a list for a run that cannot be read: its id, ``fault``, and its end if it has one.

    A list of a thousand runs is not lost for one of them.
    """

    fault: str = ""

    @classmethod
    def of(cls, row: Mapping[str, Any], fault: str) -> BrokenRun:
        """Make one from the row as it came; ``fault`` says what is wrong with it."""
        kept: dict[str, Any] = {"id": row["id"], "fault": fault}
        try:
            return cls.model_validate({**kept, "finished_at": row.get("finished_at")})
        except ValidationError:
            return cls.model_validate(kept)


class TriggerRun(_Model):
    """What is sent to trigger a job. Only what is set is sent; ``cause`` is shown to people."""

    model_config = ConfigDict(extra="forbid")

    cause: str = Field(min_length=1, max_length=CAUSE_LIMIT)
    git_sha: str | None = None
    git_branch: str | None = None
    azure_pull_request_id: int | None = None
    github_pull_request_id: int | None = None
    gitlab_merge_request_id: int | None = None
    non_native_pull_request_id: int | None = None
    schema_override: str | None = None
    dbt_version_override: str | None = None
    threads_override: int | None = None
    target_name_override: str | None = None
    generate_docs_override: bool | None = None
    timeout_seconds_override: int | None = None
    steps_override: tuple[str, ...] | None = None
