"""The ad hoc jobs: one of each name, whoever asks at the same time, and a free one when needed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dagster_dbtcloud.cloud.models import Job, TriggerRun
from dagster_dbtcloud.errors import ConfigError, NotFoundError, PoolBusy, ServerError
from dagster_dbtcloud.jobs import PoolMode, adhoc_job_names, claim_job, get_or_create_job
from dagster_dbtcloud.sandbox import Fault
from dagster_dbtcloud_tests.stage import Stage

NAME = "from Dagster"


def make(stage: Stage, name: str = NAME, **values: Any) -> Job:
    """Find or make the job as a process of its own would."""
    workspace = stage.workspace(**values)
    with workspace.get_client() as client:
        return get_or_create_job(client, workspace.ids(), name, clock=workspace.get_clock())


def named(stage: Stage, name: str = NAME) -> list[int]:
    return [int(job["id"]) for job in stage.sandbox.jobs() if job["name"] == name]


def test_a_job_is_made_once_and_found_again(stage: Stage) -> None:
    """The second asker sends nothing but the question."""
    first = make(stage)
    stage.sandbox.clear_requests()
    assert make(stage).id == first.id
    assert [request.method for request in stage.sandbox.requests] == ["GET"]
    assert named(stage) == [first.id]


def test_a_job_that_only_holds_the_name_is_not_taken(stage: Stage) -> None:
    """dbt Cloud's filter finds parts of names, in any case."""
    stage.sandbox.create_job(f"{NAME} nightly")
    stage.sandbox.create_job(NAME.upper())
    job = make(stage)
    assert job.name == NAME
    assert named(stage) == [job.id]


def test_many_at_once_agree_on_one(stage: Stage) -> None:
    """All get the same job, and no other is left."""
    with ThreadPoolExecutor(6) as pool:
        jobs = list(pool.map(lambda _: make(stage).id, range(6)))
    assert len(set(jobs)) == 1
    assert named(stage) == jobs[:1]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("lost", method="POST", path="*/jobs/", after_effect=True),
        Fault("lost", method="POST", path="*/jobs/"),
        Fault("reset", method="POST", path="*/jobs/", after_effect=True),
        Fault("cut", method="POST", path="*/jobs/"),
        Fault("html", method="POST", path="*/jobs/", after_effect=True),
        Fault("status", method="POST", path="*/jobs/", status=502, after_effect=True),
        Fault("status", method="POST", path="*/jobs/", status=503),
        Fault("status", method="POST", path="*/jobs/", status=503, count=2),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.after_effect}-{fault.count}",
)
def test_an_unclear_answer_makes_no_second_job(stage: Stage, fault: Fault) -> None:
    """Whether or not the request took effect, there is one job in the end."""
    stage.sandbox.faults.add(fault)
    job = make(stage)
    assert named(stage) == [job.id]


def test_many_at_once_with_lost_answers(stage: Stage) -> None:
    """Those who do not know what they made tidy up, too."""
    stage.sandbox.faults.add(
        Fault("lost", method="POST", path="*/jobs/", after_effect=True, count=3)
    )
    with ThreadPoolExecutor(6) as pool:
        jobs = list(pool.map(lambda _: make(stage).id, range(6)))
    assert len(set(jobs)) == 1
    assert named(stage) == jobs[:1]


def test_a_service_that_cannot_make_jobs(stage: Stage) -> None:
    """The error is dbt Cloud's own, after three tries."""
    stage.sandbox.faults.add(Fault("status", method="POST", status=503, count=None))
    with pytest.raises(ServerError):
        make(stage)
    assert len(stage.asked("POST", "/jobs/")) == 3
    assert named(stage) == []


def test_a_token_that_may_not_make_jobs(stage: Stage) -> None:
    """It may use one that is there."""
    token = stage.sandbox.create_token("job_runner")
    with pytest.raises(NotFoundError):
        make(stage, token=token)
    job = make(stage)
    assert make(stage, token=token).id == job.id


def test_the_name_in_another_environment_is_another_job(stage: Stage) -> None:
    """A run of that one would build the wrong tables."""
    environment = stage.sandbox.create_environment("Staging")
    other = stage.sandbox.create_job(NAME, environment_id=environment)
    job = make(stage)
    assert job.id != other
    assert job.environment_id == stage.sandbox.environment_id
    assert named(stage) == [other, job.id]


def test_names_of_a_pool(stage: Stage) -> None:
    """The first is the one that dagster-dbt uses, so that both libraries share it."""
    ids = stage.workspace().ids()
    first, second = adhoc_job_names(ids, None, 2)
    assert first == f"DAGSTER_ADHOC_JOB__{ids.project_id}__{ids.environment_id}"
    assert second == f"{first}__1"
    assert adhoc_job_names(ids, NAME, 1) == (NAME,)


# --- picking -------------------------------------------------------------------------------------


def pick(
    stage: Stage, size: int, mode: PoolMode, log: Callable[[str], None] = lambda _: None
) -> int:
    """Claim a job of the pool as a step does; return the job of the run that was started."""
    workspace = stage.workspace()
    with workspace.get_client() as client:
        names = adhoc_job_names(workspace.ids(), NAME, size)
        run = claim_job(
            client,
            workspace.ids(),
            names,
            lambda job_id: client.trigger_run(job_id, TriggerRun(cause="a claim")),
            mode=mode,
            clock=workspace.get_clock(),
            log=log,
        )
    assert run.job_id is not None
    return run.job_id


def keep_busy(stage: Stage, *jobs: Job, status: int = 3) -> list[int]:
    return [stage.sandbox.insert_run(job.id, status=status) for job in jobs]


@pytest.mark.parametrize("mode", ["overflow", "wait", "fail"])
@pytest.mark.parametrize("status", [1, 2, 3])
def test_a_free_job_of_the_pool_is_taken(stage: Stage, mode: PoolMode, status: int) -> None:
    """A queued run makes its job busy as a running one does."""
    first, second = make(stage), make(stage, f"{NAME}__1")
    keep_busy(stage, first, status=status)
    assert pick(stage, 2, mode) == second.id


def test_overflow_queues_on_the_first(stage: Stage) -> None:
    """dbt Cloud starts the run when the job is free."""
    first, second = make(stage), make(stage, f"{NAME}__1")
    keep_busy(stage, first, second)
    assert pick(stage, 2, "overflow") == first.id


def test_wait_takes_the_job_that_becomes_free(stage: Stage) -> None:
    """The log says what is waited for, once."""
    first, second = make(stage), make(stage, f"{NAME}__1")
    _, run = keep_busy(stage, first, second)
    said: list[str] = []

    def log(text: str) -> None:
        said.append(text)
        stage.sandbox.finish_run(run, 10)

    assert pick(stage, 2, "wait", log) == second.id
    (sentence,) = said
    assert "waiting" in sentence


@pytest.mark.parametrize("size", [1, 2])
def test_fail_says_what_to_change(stage: Stage, size: int) -> None:
    """A pool of one counts as well."""
    keep_busy(stage, *[make(stage, name) for name in (NAME, f"{NAME}__1")[:size]])
    with pytest.raises(PoolBusy, match="adhoc_job_pool_size"):
        pick(stage, size, "fail")


def test_an_unknown_mode_is_refused(stage: Stage) -> None:
    """Before anything is sent."""
    with pytest.raises(ConfigError, match="overflow, wait, fail"):
        pick(stage, 1, "later")  # type: ignore[arg-type]
    assert stage.sandbox.requests == ()


def test_a_job_that_was_deleted_is_made_again(stage: Stage) -> None:
    """Somebody tidied up dbt Cloud between two runs of Dagster."""
    stage.built()
    stage.play()
    workspace = stage.workspace(adhoc_job_name=NAME)
    assert workspace.cli(["build"]).is_successful()
    (job,) = named(stage)
    stage.sandbox.delete_job(job)
    assert workspace.cli(["build"]).is_successful()
    (again,) = named(stage)
    assert again != job
