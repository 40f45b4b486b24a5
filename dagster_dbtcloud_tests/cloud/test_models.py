"""The API's objects in all the forms that they are met in."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from dagster_dbtcloud.cloud.models import (
    Account,
    Environment,
    Job,
    Project,
    Run,
    RunStatus,
    RunStep,
    RunTrigger,
    TriggerRun,
)

UTC = timezone.utc
MODELS = (Account, Project, Environment, Job, Run, RunTrigger)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-05 10:20:30.123456+00:00", datetime(2026, 1, 5, 10, 20, 30, 123456, UTC)),
        ("2026-01-05T10:20:30.123456+00:00", datetime(2026, 1, 5, 10, 20, 30, 123456, UTC)),
        ("2026-01-05 10:20:30+00:00", datetime(2026, 1, 5, 10, 20, 30, tzinfo=UTC)),
        ("2026-01-05T10:20:30Z", datetime(2026, 1, 5, 10, 20, 30, tzinfo=UTC)),
        ("2026-01-05T10:20:30.5Z", datetime(2026, 1, 5, 10, 20, 30, 500000, UTC)),
        ("2026-01-05T10:20:30.123456789Z", datetime(2026, 1, 5, 10, 20, 30, 123456, UTC)),
        ("2026-01-05 10:20:30+00", datetime(2026, 1, 5, 10, 20, 30, tzinfo=UTC)),
        ("2026-01-05 10:20:30+0000", datetime(2026, 1, 5, 10, 20, 30, tzinfo=UTC)),
        ("2026-01-05 10:20:30 UTC", datetime(2026, 1, 5, 10, 20, 30, tzinfo=UTC)),
        ("2026-01-05 10:20:30", datetime(2026, 1, 5, 10, 20, 30, tzinfo=UTC)),
        ("2026-01-05T12:20:30+02:00", datetime(2026, 1, 5, 10, 20, 30, tzinfo=UTC)),
        ("", None),
        (None, None),
    ],
)
def test_timestamps_become_utc(text: str | None, expected: datetime | None) -> None:
    """Runs write a blank, jobs a ``T``; both come out aware, in UTC."""
    created = Run.model_validate({"id": 1, "created_at": text}).created_at
    assert created == expected
    assert created is None or created.tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:00:00", 0),
        ("00:01:30", 90),
        ("24:00:36", 86436),
        ("100:00:00", 360000),
        ("1 day, 0:00:36", 86436),
        ("00:00:01.500000", 1.5),
        (12.5, 12.5),
        (None, None),
        ("a while", None),
        ("99999999999999:00:00", None),
        (1e300, None),
        (float("nan"), None),
        ({"seconds": 1}, None),
    ],
)
def test_durations_run_past_a_day(text: object, seconds: float | None) -> None:
    """Hours do not roll over; a form that we do not know hides the duration, not the run."""
    duration = Run.model_validate({"id": 1, "run_duration": text}).run_duration
    assert duration == (None if seconds is None else timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("given", "expected"),
    [(77, 77), ("77", 77), (70403103900077, 70403103900077), ("70403103900077", 70403103900077)],
)
def test_ids_come_as_numbers_or_digits(given: object, expected: int) -> None:
    """Also those of 14 digits."""
    run = Run.model_validate({"id": given, "job_id": given, "blocked_by": [given]})
    assert (run.id, run.job_id, run.blocked_by) == (expected, expected, (expected,))


@pytest.mark.parametrize("model", MODELS)
def test_everything_but_the_id_may_be_null(model: type[BaseModel]) -> None:
    """Nor need it be there at all; unknown fields are let pass."""
    nulls: dict[str, Any] = dict.fromkeys(model.model_fields)
    assert model.model_validate({**nulls, "id": 1}) == model.model_validate({"id": 1, "new": [1]})


def test_a_step_needs_its_index_only() -> None:
    """A run's own list of steps does not promise an id."""
    nulls: dict[str, Any] = {name: None for name in RunStep.model_fields if name != "id"}
    step = RunStep.model_validate({**nulls, "index": 4})
    assert (step.index, step.name, step.logs, step.status) == (4, "", "", 0)


def test_models_are_frozen() -> None:
    """What was read is not changed."""
    with pytest.raises(ValidationError):
        Run(id=1).status = 10  # type: ignore[misc]


def test_a_malformed_field_is_an_error() -> None:
    """A status that is not a number is not guessed at."""
    with pytest.raises(ValidationError):
        Run.model_validate({"id": 1, "status": "Success"})


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"])
def test_a_time_that_does_not_fit_is_a_malformed_field(text: str) -> None:
    """In UTC it lies outside of what a datetime can hold; one run's fault, not a crash."""
    with pytest.raises(ValidationError, match="outside the years"):
        Run.model_validate({"id": 1, "created_at": text})


@pytest.mark.parametrize(
    ("status", "name", "complete", "flags"),
    [
        (1, "Queued", False, (False, False, False)),
        (2, "Starting", False, (False, False, False)),
        (3, "Running", False, (False, False, False)),
        (10, "Success", True, (True, False, False)),
        (20, "Error", True, (False, True, False)),
        (30, "Cancelled", True, (False, False, True)),
    ],
)
def test_the_six_statuses(
    status: int, name: str, complete: bool, flags: tuple[bool, bool, bool]
) -> None:
    """The number decides, whatever the text beside it says."""
    run = Run.model_validate({"id": 1, "status": status, "status_humanized": "Anything"})
    assert RunStatus(status).name.capitalize() == run.status_name == name
    assert run.is_complete is complete
    assert (run.is_success, run.is_error, run.is_cancelled) == flags


def test_an_unknown_status_is_kept_and_judged_by_its_end() -> None:
    """A status that dbt Cloud adds one day neither fails nor is waited for in vain."""
    active = Run.model_validate({"id": 1, "status": 40, "status_humanized": "Paused"})
    over = Run.model_validate({"id": 1, "status": 41, "finished_at": "2026-01-05T10:20:30Z"})
    assert (active.status, active.status_name, active.is_complete) == (40, "Paused", False)
    assert (over.status_name, over.is_complete, over.is_success) == ("status 41", True, False)


def test_a_skipped_step_is_over() -> None:
    """Steps after a failed one never start, and have no end."""
    step = RunStep.model_validate({"index": 5, "status": 0, "status_humanized": "Skipped"})
    assert step.is_complete


@pytest.mark.parametrize(
    ("fields", "job_id"),
    [
        ({"job_id": 77, "job_definition_id": 78}, 77),
        ({"job_id": None, "job_definition_id": 78}, 78),
        ({"job_definition_id": 78}, 78),
        ({"job_id": None, "job_definition_id": None}, None),
        ({}, None),
    ],
)
def test_the_job_is_known_under_either_name(fields: dict[str, Any], job_id: int | None) -> None:
    """``job_definition_id`` steps in; both are null once the job is gone."""
    assert Run.model_validate({"id": 1, **fields}).job_id == job_id


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("Invoke dbt with `dbt build --select +orders`", "dbt build --select +orders"),
        ("Invoke dbt with `dbt deps`", "dbt deps"),
        ("Invoke dbt with `dbt run --vars '{a: \"`x`\"}'`", "dbt run --vars '{a: \"`x`\"}'"),
        ("Invoke dbt with `dbt build\n--full-refresh`", "dbt build\n--full-refresh"),
        ("Clone git repository", None),
        ("Create profile from connection DuckDB", None),
        ("Generate docs", None),
        ("", None),
        (None, None),
    ],
)
def test_a_step_tells_its_command(name: str | None, command: str | None) -> None:
    """The text between the back-ticks; dbt Cloud's own steps have none."""
    assert RunStep.model_validate({"index": 4, "name": name}).command == command


def test_steps_come_in_order() -> None:
    """By index, whatever the order in the answer; null is no steps."""
    steps = [{"index": index} for index in (4, 1, 3, 2)]
    run = Run.model_validate({"id": 1, "run_steps": steps})
    assert [step.index for step in run.run_steps] == [1, 2, 3, 4]
    assert Run.model_validate({"id": 1, "run_steps": None}).run_steps == ()


def test_a_log_that_was_cut_inside_a_character_is_readable() -> None:
    """Half of a pair becomes a replacement mark; whole ones stay."""
    step = RunStep.model_validate({"index": 4, "logs": "\ude00 done \ud83d\ude00 größe \ud83d"})
    assert step.logs == "\ufffd done 😀 größe \ufffd"
    assert step.logs.encode()


def test_a_nested_job_may_have_a_flat_schedule() -> None:
    """The job inside a run has texts where a job has objects."""
    flat = {"cron": "0 * * * *", "date": "every_day", "time": "every_hour"}
    run = Run.model_validate({"id": 1, "job": {"id": 77, "name": "nightly", "schedule": flat}})
    assert run.job is not None
    assert run.job.schedule["date"] == "every_day"


@pytest.mark.parametrize(
    "field",
    [
        "azure_pull_request_id",
        "azure_devops_pull_request_id",
        "github_pull_request_id",
        "gitlab_merge_request_id",
        "non_native_pull_request_id",
    ],
)
def test_a_trigger_of_a_pull_request_is_known(field: str) -> None:
    """By the number that the git provider gave."""
    assert RunTrigger.model_validate({field: 5}).is_pull_request
    for none in (None, 0):
        assert not RunTrigger.model_validate({"cause": "x", field: none}).is_pull_request


@pytest.mark.parametrize(
    ("fields", "production", "deployment"),
    [
        ({"type": "deployment", "deployment_type": "production"}, True, True),
        ({"type": "deployment", "deployment_type": "staging"}, False, True),
        ({"type": "deployment", "deployment_type": None}, False, True),
        ({"type": "development"}, False, False),
        ({}, False, True),
    ],
)
def test_environments_tell_what_they_are_for(
    fields: dict[str, Any], production: bool, deployment: bool
) -> None:
    """Production is a mark on a deployment environment."""
    environment = Environment.model_validate({"id": 21, **fields})
    assert (environment.is_production, environment.is_deployment) == (production, deployment)


@pytest.mark.parametrize("fields", [{}, {"cause": ""}, {"cause": "x" * 256}])
def test_a_trigger_needs_a_cause_that_fits(fields: dict[str, Any]) -> None:
    """A longer one would be cut, and with it a mark at its end."""
    with pytest.raises(ValidationError):
        TriggerRun.model_validate(fields)


def test_a_trigger_refuses_what_it_does_not_know() -> None:
    """A misspelt override is not left out in silence."""
    with pytest.raises(ValidationError):
        TriggerRun.model_validate({"cause": "x", "step_override": []})
