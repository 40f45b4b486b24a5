"""The ad hoc jobs: one of each name, whoever asks at the same time, and a free one when needed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dagster_dbtcloud.cloud.models import Job, Run, TriggerRun
from dagster_dbtcloud.errors import ConfigError, NotFoundError, PoolBusy, ServerError
from dagster_dbtcloud.jobs import (
    PoolMode,
    adhoc_job_names,
    claim_job,
    clean_jobs,
    get_or_create_job,
)
from dagster_dbtcloud.sandbox import Fault, PastStep
from dagster_dbtcloud.starting import start_run
from dagster_dbtcloud_tests.stage import Stage, until

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


@pytest.mark.parametrize("size", [1, 2])
def test_a_job_that_is_deleted_just_before_its_trigger_is_made_again(
    stage: Stage, size: int
) -> None:
    """Who waits for a free job has looked it up long ago."""
    jobs = [make(stage, name) for name in (NAME, f"{NAME}__1")[:size]]
    runs = keep_busy(stage, *jobs)

    def log(_: str) -> None:
        for run in runs:
            stage.sandbox.finish_run(run, 10)
        for job in jobs:
            stage.sandbox.delete_job(job.id)

    found = pick(stage, size, "wait", log)
    assert found not in {job.id for job in jobs}
    assert found in named(stage)


# --- claiming, many at once ----------------------------------------------------------------------


def hold(stage: Stage) -> None:
    """Let every run of the sandbox go on until it is told to end."""
    stage.sandbox.play(lambda _, command: PastStep(command, hold=True))


def claim(stage: Stage, size: int, mode: PoolMode, barrier: threading.Barrier, name: str) -> Run:
    """Claim a job of the pool; all who claim trigger their first choice at the same moment."""
    workspace = stage.workspace()
    met = False
    with workspace.get_client() as client:

        def start(job_id: int) -> Run:
            nonlocal met
            if not met:
                met = True
                barrier.wait(60)
            return client.trigger_run(job_id, TriggerRun(cause=name))

        return claim_job(
            client,
            workspace.ids(),
            adhoc_job_names(workspace.ids(), NAME, size),
            start,
            mode=mode,
            clock=workspace.get_clock(),
            log=lambda _: None,
        )


def claims(stage: Stage, many: int, size: int, mode: PoolMode) -> list[Run]:
    barrier = threading.Barrier(many)
    with ThreadPoolExecutor(many) as pool:
        runs = [pool.submit(claim, stage, size, mode, barrier, f"claim {n}") for n in range(many)]
        return [run.result(120) for run in runs]


def alive(stage: Stage) -> dict[int, str]:
    """The job and cause of each active run, by its id."""
    return {
        run["id"]: f"{run['job_definition_id']} {run['trigger']['cause']}"
        for run in stage.sandbox.runs()
        if run["status"] in (1, 2, 3)
    }


def test_claimants_at_the_same_moment_get_a_job_each(stage: Stage) -> None:
    """All see the same free job and trigger it; the first keeps it, the others move on."""
    hold(stage)
    jobs = {make(stage, name).id for name in (NAME, f"{NAME}__1", f"{NAME}__2")}
    runs = claims(stage, 3, 3, "overflow")
    assert {run.job_id for run in runs} == jobs
    assert alive(stage).keys() == {run.id for run in runs}
    shown = stage.sandbox.runs()
    lost = [run for run in shown if run["id"] not in alive(stage)]
    assert len(lost) == 3  # two on the first job, one of them on the second, too
    assert all(run["status_humanized"] == "Cancelled" for run in lost)
    assert all(run["started_at"] is None for run in lost)


def test_a_pool_is_made_by_those_who_claim_it(stage: Stage) -> None:
    """Finding, making and claiming at once ends with one job of each name."""
    hold(stage)
    runs = claims(stage, 3, 3, "overflow")
    assert len({run.job_id for run in runs}) == 3
    for name in (NAME, f"{NAME}__1", f"{NAME}__2"):
        assert len(named(stage, name)) == 1


def test_more_claimants_than_jobs_queue_where_there_is_least(stage: Stage) -> None:
    """Each has exactly one run in the end, whoever waits for whom."""
    hold(stage)
    for name in (NAME, f"{NAME}__1"):
        make(stage, name)
    runs = claims(stage, 4, 2, "overflow")
    assert sorted(alive(stage)) == sorted(run.id for run in runs)
    causes = [text.split(" ", 1)[1] for text in alive(stage).values()]
    assert sorted(causes) == [f"claim {n}" for n in range(4)]


def test_those_who_wait_take_turns(stage: Stage) -> None:
    """A pool of one never has a second active run, and everybody gets it."""
    built = stage.built()
    stage.play()
    ids = {run.id for run in claims(stage, 3, 1, "wait")}
    assert len(ids) == 3
    for run_id in ids:
        assert stage.sandbox.wait(run_id)["status_humanized"] == "Success"
    # A claim may be cancelled the moment it starts: whoever it waited for has ended just then.
    shown = stage.sandbox.runs()
    assert {run["id"] for run in shown if run["status_humanized"] == "Success"} == {built, *ids}


@pytest.mark.nightly
def test_claimants_in_processes_of_their_own(stage: Stage, tmp_path: Path) -> None:
    """Nothing in memory holds them apart: dbt Cloud's queue does."""
    hold(stage)
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from dagster_dbtcloud import DbtCloudWorkspace\n"
        "from dagster_dbtcloud.clock import SystemClock\n"
        "workspace = DbtCloudWorkspace(\n"
        "    account_id=os.environ['DBT_CLOUD_ACCOUNT_ID'], token=os.environ['DBT_CLOUD_TOKEN'],\n"
        "    access_url=os.environ['DBT_CLOUD_ACCESS_URL'],\n"
        "    project_id=os.environ['DBT_CLOUD_PROJECT_ID'],\n"
        "    environment_id=os.environ['DBT_CLOUD_ENVIRONMENT_ID'],\n"
        "    cache_dir=sys.argv[1], adhoc_job_pool_size=4)\n"
        "workspace.load_specs()\n"
        "Path(sys.argv[1], f'ready{os.getpid()}').touch()\n"
        "while not Path(sys.argv[1], 'go').exists():\n"
        "    SystemClock().sleep(0.005)\n"
        "print(workspace.cli(['build'], on_leave='detach').run_id)\n"
    )
    stage.built()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, **stage.sandbox.env},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    until(lambda: len(list(tmp_path.glob("ready*"))) == 4)
    (tmp_path / "go").touch()
    ids = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert sorted(alive(stage)) == sorted(ids)
    assert len({text.split()[0] for text in alive(stage).values()}) == 4


def test_an_answer_that_says_too_little_is_not_believed(stage: Stage) -> None:
    """The trigger's answer may be older than the queue: the list of the job's runs decides."""
    hold(stage)
    first, second = make(stage), make(stage, f"{NAME}__1")
    workspace = stage.workspace()
    with workspace.get_client() as client:

        def start(job_id: int) -> Run:
            if job_id == first.id:
                stage.sandbox.insert_run(job_id, status=3)  # somebody was quicker
            run = client.trigger_run(job_id, TriggerRun(cause="a claim"))
            return run.model_copy(update={"blocked_by": ()})

        run = claim_job(
            client,
            workspace.ids(),
            adhoc_job_names(workspace.ids(), NAME, 2),
            start,
            mode="fail",
            clock=workspace.get_clock(),
            log=lambda _: None,
        )
    assert run.job_id == second.id


def test_a_claim_that_cannot_be_cancelled_is_kept(stage: Stage) -> None:
    """A second run beside it might build everything twice."""
    hold(stage)
    first, second = make(stage), make(stage, f"{NAME}__1")
    stage.sandbox.faults.add(Fault("status", method="POST", path="*/cancel/", status=403))
    workspace = stage.workspace()
    with workspace.get_client() as client:

        def start(job_id: int) -> Run:
            stage.sandbox.insert_run(job_id, status=3)
            return client.trigger_run(job_id, TriggerRun(cause="a claim"))

        names = adhoc_job_names(workspace.ids(), NAME, 2)
        clock = workspace.get_clock()
        said: list[str] = []
        run = claim_job(
            client, workspace.ids(), names, start, mode="wait", clock=clock, log=said.append
        )
    assert run.job_id == first.id != second.id
    assert "stays in the queue" in said[0]
    assert "a claim" in alive(stage)[run.id]


def test_a_claim_that_was_given_up_is_not_found_again(stage: Stage) -> None:
    """A later trigger without an answer looks for its cause, and the old claim bears it, too."""
    hold(stage)
    job = make(stage)
    workspace = stage.workspace()
    said: list[str] = []
    tries = 0
    with workspace.get_client(retry_for=0) as client:
        clock = workspace.get_clock()

        def start(job_id: int) -> Run:
            nonlocal tries
            tries += 1
            if tries == 1:
                (busy,) = keep_busy(stage, job)
                run = start_run(client, job_id, trigger, clock=clock, log=said.append)
                stage.sandbox.finish_run(busy, 10)
                return run.model_copy(update={"blocked_by": (busy,)})
            if tries == 2:
                stage.sandbox.faults.add(Fault("lost", method="POST", path="*/run/"))
            return start_run(client, job_id, trigger, clock=clock, log=said.append)

        trigger = TriggerRun(cause="a claim")
        run = claim_job(
            client, workspace.ids(), [NAME], start, mode="wait", clock=clock, log=said.append
        )
    assert tries == 3
    assert any("Found it" in sentence for sentence in said)
    assert "a claim" in alive(stage)[run.id]


def test_waiting_ends_at_the_limit(stage: Stage) -> None:
    """Nothing was started, and the message says which setting to change."""
    stage.built()
    keep_busy(stage, make(stage))
    workspace = stage.workspace(
        adhoc_job_name=NAME, adhoc_job_pool_mode="wait", adhoc_job_pool_wait_seconds=60
    )
    before = len(stage.sandbox.runs())
    with pytest.raises(PoolBusy, match=r"for 60 s \(adhoc_job_pool_wait_seconds\)"):
        workspace.cli(["build"])
    assert len(stage.sandbox.runs()) == before


def test_a_claim_that_is_interrupted_is_left(stage: Stage) -> None:
    """Terminated between the trigger and the look at the queue."""
    first = make(stage)
    make(stage, f"{NAME}__1")
    workspace = stage.workspace()
    left: list[int] = []
    with workspace.get_client() as client:

        def start(job_id: int) -> Run:
            run = client.trigger_run(job_id, TriggerRun(cause="a claim"))
            client.close()
            return run.model_copy(update={"job_id": Interrupting()})

        names = adhoc_job_names(workspace.ids(), NAME, 2)
        with pytest.raises(KeyboardInterrupt):
            claim_job(
                client,
                workspace.ids(),
                names,
                start,
                mode="wait",
                clock=workspace.get_clock(),
                log=lambda _: None,
                leave=left.append,
            )
    (run,) = [run for run in stage.sandbox.runs() if run["job_definition_id"] == first.id]
    assert left == [run["id"]]


class Interrupting:
    """A value whose use is interrupted, as a signal would."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


# --- tidying up ----------------------------------------------------------------------------------


def clean(stage: Stage, **options: Any) -> tuple[list[int], dict[int, str]]:
    workspace = stage.workspace()
    with workspace.get_client() as client:
        done = clean_jobs(client, workspace.ids(), **options)
    return [job.id for job in done.deleted], {job.id: why for job, why in done.kept}


def test_only_the_jobs_that_we_made_are_removed(stage: Stage) -> None:
    """By their description: a person's job of the same name stays; so does one that is busy."""
    free, busy = make(stage), make(stage, f"{NAME}__1")
    (run,) = keep_busy(stage, busy)
    mine = stage.sandbox.create_job(NAME, description="Mine.")
    assert clean(stage, dry_run=True)[0] == [free.id]
    deleted, kept = clean(stage)
    assert deleted == [free.id]
    assert kept == {busy.id: f"dbt Cloud run {run} of it is running"}
    assert [int(job["id"]) for job in stage.sandbox.jobs()] == [stage.job, busy.id, mine]


def test_jobs_of_other_environments_are_removed_on_demand(stage: Stage) -> None:
    """After a workspace has moved."""
    other = stage.sandbox.create_environment("Staging")
    job = make(stage, environment_id=other)
    assert clean(stage) == ([], {})
    assert clean(stage, whole_project=True) == ([job.id], {})


def test_a_job_that_cannot_be_deleted_is_told(stage: Stage) -> None:
    """The others go."""
    stays, goes = make(stage), make(stage, f"{NAME}__1")
    stage.sandbox.faults.add(
        Fault("status", method="DELETE", path=f"*/jobs/{stays.id}/", status=403, count=None)
    )
    deleted, kept = clean(stage)
    assert deleted == [goes.id]
    assert "403" in kept[stays.id]
