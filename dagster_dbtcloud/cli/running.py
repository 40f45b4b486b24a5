"""``run``, ``retry`` and ``cancel``: runs started from here, watched, and never left by accident.

A trigger whose answer is lost never becomes a second run (``starting.py``).
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from uuid import uuid4

import click

from dagster_dbtcloud.cli.commands import FAILED, TIMED_OUT
from dagster_dbtcloud.cli.connection import Connection, connected, run_id_of
from dagster_dbtcloud.cli.output import (
    coloured,
    json_option,
    run_facts,
    seconds_of,
    show_json,
    show_table,
    span,
)
from dagster_dbtcloud.cli.signals import deaf, signals_end
from dagster_dbtcloud.cli.times import Duration
from dagster_dbtcloud.errors import (
    ApiError,
    ConfigError,
    DbtCloudError,
    NotFoundError,
    RunTimedOut,
)

if TYPE_CHECKING:
    from dagster_dbtcloud.clock import Clock
    from dagster_dbtcloud.cloud.client import DbtCloudClient
    from dagster_dbtcloud.cloud.models import Run
    from dagster_dbtcloud.dbt.run_results import NodeResult

OnLeave = Literal["cancel", "detach"]

_FOLLOW_SECONDS = 600.0
"""How long dbt Cloud may give no answer while a run is followed."""
_EARLIER_SECONDS = 5.0
"""How long an earlier run may take to be read, which is a comfort only."""
_SEEN_OFF_SECONDS = 2.0
"""How long a cancelled run is looked at until it is over."""
_LATE_RESULTS = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Seconds between looks for the results of a run that failed."""
_CAUSE_LIMIT = 255
_LAST_LINES = 20

_Command = TypeVar("_Command", bound=Callable[..., object])


@dataclass(frozen=True)
class Watching:
    """Whether and how a run that was started is watched."""

    wait: bool
    timeout: float | None
    on_leave: OnLeave
    as_json: bool


def watched(command: _Command) -> _Command:
    """Give a command the options of watching, and a ``Watching`` of them."""

    @click.option("--wait", is_flag=True, help="Stay until the run is over, and show how it goes.")
    @click.option(
        "--timeout",
        type=Duration(),
        help="With --wait: how long it may take, in the queue and running: 90, 30m, 2h. Then the "
        "run is cancelled, and the exit code is 4.",
    )
    @click.option(
        "--on-leave",
        type=click.Choice(["cancel", "detach"]),
        default="cancel",
        show_default=True,
        help="With --wait: what becomes of the run when this command is interrupted or timed out.",
    )
    @json_option
    @functools.wraps(command)
    def with_watching(
        *args: Any, wait: bool, timeout: float | None, on_leave: OnLeave, as_json: bool, **kw: Any
    ) -> object:
        if timeout is not None and not wait:
            raise click.UsageError("--timeout needs --wait: nobody would look at the clock.")
        return command(*args, watching=Watching(wait, timeout, on_leave, as_json), **kw)

    return with_watching  # type: ignore[return-value]  # the options are click's business


@click.command()
@click.argument("job", envvar="DBT_CLOUD_JOB_ID")
@click.option(
    "--steps",
    multiple=True,
    metavar="COMMAND",
    help="Run this dbt command instead of the job's own; may be given again.",
)
@click.option("--vars", "variables", metavar="YAML", help="dbt variables, given to each step.")
@click.option("--cause", help="The reason shown in dbt Cloud.")
@click.option("--git-branch", metavar="NAME", help="Run this branch, not the environment's.")
@click.option("--git-sha", metavar="SHA", help="Run this commit.")
@click.option("--schema-override", metavar="NAME", help="Write to this schema.")
@click.option("--target", metavar="NAME", help="The name of dbt's target.")
@click.option("--threads", type=click.IntRange(min=1), help="How many nodes run at once.")
@watched
@connected
def run(
    cloud: Connection,
    job: str,
    steps: tuple[str, ...],
    variables: str | None,
    cause: str | None,
    git_branch: str | None,
    git_sha: str | None,
    schema_override: str | None,
    target: str | None,
    threads: int | None,
    watching: Watching,
) -> int:
    """Run JOB, which is an id, a name or a URL (or comes from DBT_CLOUD_JOB_ID).

    Without --wait it starts the run and ends. With --wait it shows the run while it goes on, then
    the nodes that failed, and the exit code tells how it ended: 0 success, 1 not, 4 timed out. When
    it is interrupted (130, or 143 by SIGTERM) the run is cancelled first.

    \b
    Examples:
      dagster-dbtcloud run nightly --wait --timeout 2h
      dagster-dbtcloud run 1042 --steps "dbt build -s orders+" --vars '{day: 2026-01-31}'
      dagster-dbtcloud run nightly --json | jq .id
    """
    from dagster_dbtcloud.variables import read_vars

    cloud.learn(job)
    mapping = read_vars(variables) if variables is not None else {}
    with signals_end(), cloud.get_client(retry_for=_FOLLOW_SECONDS) as client:
        from dagster_dbtcloud.cloud.models import TriggerRun
        from dagster_dbtcloud.starting import abandon, start_run

        found = cloud.find_job(client, job)
        commands = [_with_dbt(step) for step in steps]
        if found.deactivated:
            raise ConfigError(f"Job {found.id} ({found.name!r}) is deactivated in dbt Cloud.")
        if mapping:
            commands = _with_vars(commands or list(found.execute_steps), mapping)
        trigger = TriggerRun(
            cause=_cause(cause),
            steps_override=tuple(commands) or None,
            git_branch=git_branch,
            git_sha=git_sha,
            schema_override=schema_override,
            target_name_override=target,
            threads_override=threads,
        )
        try:
            started = start_run(client, found.id, trigger, clock=cloud.clock, log=_tell)
        except KeyboardInterrupt:
            if watching.on_leave == "cancel":
                with deaf():
                    abandon(cloud.leaving_client(), found.id, trigger.cause)
            raise
        other_schemas = bool(schema_override or target)
        return _go_on(cloud, client, started, found.name, watching, other_schemas=other_schemas)


@click.command()
@click.argument("run")
@watched
@connected
def retry(cloud: Connection, run: str, watching: Watching) -> int:
    """Start a run that does what failed in RUN and what was skipped, at the same commit.

    RUN is the id or URL of a run that failed. Options and exit codes are those of
    `dagster-dbtcloud run`.

    \b
    Example:
      dagster-dbtcloud retry 70403103919483 --wait
    """
    run_id = run_id_of(cloud, run)
    with signals_end(), cloud.get_client(retry_for=_FOLLOW_SECONDS) as client:
        from dagster_dbtcloud.starting import abandon, retry_run

        failed = _existing(client, run_id)
        if not failed.is_error:
            raise ConfigError(
                f"Run {run_id} is {failed.status_name.lower()}; only a run that ended with an "
                "error can be retried. `dagster-dbtcloud runs --status error` lists them."
            )
        if failed.can_retry is False:
            reason = failed.retry_not_supported_reason or "it gives no reason"
            raise ConfigError(
                f"dbt Cloud cannot retry run {run_id} ({reason}); start the job anew: "
                f"`dagster-dbtcloud run {failed.job_id}`."
            )
        try:
            started = retry_run(client, failed, clock=cloud.clock, log=_tell)
        except KeyboardInterrupt:
            if watching.on_leave == "cancel":
                with deaf():
                    abandon(cloud.leaving_client(), failed.job_id, "", retrying=run_id)
            raise
        name = failed.job.name if failed.job else str(failed.job_id)
        return _go_on(cloud, client, started, name, watching)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@json_option
@connected
def cancel(cloud: Connection, runs: tuple[str, ...], as_json: bool) -> int:
    """Cancel each RUN, which is an id or a URL.

    A run that is over already is left as it is, and that is no error.

    \b
    Example:
      dagster-dbtcloud cancel 70403103919483 70403103919484
    """
    ids = [run_id_of(cloud, text) for text in runs]
    left: list[dict[str, Any]] = []
    with cloud.get_client() as client:
        for run_id in ids:
            run = _existing(client, run_id)
            if run.is_complete:
                told = f"Run {run_id} was over already: {run.status_name}."
            else:
                run = client.cancel_run(run_id)
                told = _cancelled(run)
            left.append(run_facts(run))
            click.echo(told, err=as_json)
    if as_json:
        show_json(left)
    return 0


# --- watching ------------------------------------------------------------------------------------


def _go_on(
    cloud: Connection,
    client: DbtCloudClient,
    run: Run,
    job_name: str,
    watching: Watching,
    *,
    other_schemas: bool = False,
) -> int:
    """Say that the run was started; watch it, if that is wanted. Return the exit code."""
    if not watching.wait:
        _started(run, job_name)
        if watching.as_json:
            show_json(run_facts(run))
        else:
            click.echo(str(run.id))
        return 0
    code: int | None = None
    last = run
    try:
        _started(run, job_name)
        from dagster_dbtcloud.cli.watching import Story, display_for
        from dagster_dbtcloud.following import follow

        # the limit counts from here, also while the earlier run is read
        began = cloud.clock.monotonic()
        manifest, timings = _earlier(cloud, run)
        story = Story(cloud.clock, manifest=manifest, timings=timings, other_schemas=other_schemas)
        spent = cloud.clock.monotonic() - began
        timeout = None if watching.timeout is None else max(watching.timeout - spent, 0.0)
        with display_for(story) as display:
            for last in follow(client, run.id, clock=cloud.clock, timeout=timeout):
                display.show(last)
    except RunTimedOut:
        _tell(f"Run {run.id} was not over after {span(watching.timeout)} (--timeout).")
        last = _leave(cloud, last, watching.on_leave)
        code = TIMED_OUT
    except BaseException:  # a signal, an outage, a closed pipe: whatever it is, the run is left
        _leave(cloud, last, watching.on_leave)
        raise
    results = _results(cloud, client, last, patient=code is None and not last.is_success)
    counts = _counts(results) or story.counts
    _show_ending(last, counts, results, watching.as_json)
    return code if code is not None else _code(last)


def _started(run: Run, job_name: str) -> None:
    _tell(f"Run {run.id} of job {job_name!r} is started. {run.href or ''}".rstrip())


def _leave(cloud: Connection, run: Run, on_leave: OnLeave) -> Run:
    """Cancel the run that nobody watches any more; return it as it is then."""
    if run.is_complete:
        return run
    if on_leave == "detach":
        _tell(f"Run {run.id} goes on. `dagster-dbtcloud cancel {run.id}` cancels it.")
        return run
    try:
        with deaf(), cloud.leaving_client() as client:
            run = client.cancel_run(run.id)
        with suppress(KeyboardInterrupt), cloud.leaving_client() as client:
            run = _seen_off(client, run, cloud.clock)
    except DbtCloudError as trouble:
        _tell(
            f"Run {run.id} could not be cancelled and may go on ({trouble}). Cancel it with "
            f"`dagster-dbtcloud cancel {run.id}`, or at {run.href}."
        )
    else:
        _tell(_cancelled(run))
    return run


def _seen_off(client: DbtCloudClient, run: Run, clock: Clock) -> Run:
    """Return the run as it is a moment after it was asked to end, which it may do late."""
    start = clock.monotonic()
    while not run.is_complete and clock.monotonic() - start < _SEEN_OFF_SECONDS:
        clock.sleep(0.5)
        with suppress(ApiError):  # it was cancelled: how soon, the user can look
            run = client.run(run.id, include=("trigger", "job", "run_steps"))
    return run


def _cancelled(run: Run) -> str:
    if run.is_cancelled:
        return f"Run {run.id} is cancelled."
    if run.is_complete:
        return f"Run {run.id} was over before it could be cancelled: {run.status_name}."
    return f"Run {run.id} is being cancelled."


def _earlier(cloud: Connection, run: Run) -> tuple[Any, dict[str, float]]:
    """Return the manifest and timings of the job's last success; nothing when they are not had."""
    from dagster_dbtcloud.dbt.manifest import Manifest
    from dagster_dbtcloud.dbt.progress import timings
    from dagster_dbtcloud.harvest import harvest

    manifest, seconds = None, {}
    with (
        suppress(DbtCloudError),  # an estimate is an extra
        cloud.get_client(retry_for=_EARLIER_SECONDS) as client,
    ):
        listed = client.runs(
            job_id=run.job_id, status_in=(10,), order_by="-id", include=(), page_size=1
        )
        if (earlier := next(iter(listed), None)) is not None:
            found = harvest(client, client.run(earlier.id, include=("run_steps",)))
            seconds = timings(step.results for step in found.steps)
            origin = f"manifest.json of dbt Cloud run {earlier.id}"
            content = client.artifact(earlier.id, "manifest.json")
            manifest = Manifest.from_bytes(content, origin=origin)
    return manifest, seconds


# --- how it ended --------------------------------------------------------------------------------


def _results(
    cloud: Connection, client: DbtCloudClient, run: Run, *, patient: bool
) -> tuple[NodeResult, ...]:
    """Return the last result of each node; those of a run that failed are waited for a little."""
    from dagster_dbtcloud.harvest import harvest

    found = None
    with suppress(ApiError):  # how the run ended is known; this is why
        for number, delay in enumerate(_LATE_RESULTS if patient else (0.0,)):
            if number == 1:
                _tell("Waiting for dbt Cloud to store the results.")
            cloud.clock.sleep(delay)
            found = harvest(client, run, known=found)
            if not found.late:
                break
    steps = found.steps if found else ()
    last = {result.unique_id: result for item in steps for result in item.results.results}
    return tuple(last.values())


def _counts(results: Sequence[NodeResult]) -> dict[str, int]:
    from dagster_dbtcloud.dbt.progress import state_of

    counts: dict[str, int] = {}
    for result in results:
        counts[state_of(result.status)] = counts.get(state_of(result.status), 0) + 1
    return counts


def _show_ending(
    run: Run, counts: dict[str, int], results: Sequence[NodeResult], as_json: bool
) -> None:
    from dagster_dbtcloud.dbt.progress import STATES, state_of, tally

    broken = [result for result in results if state_of(result.status) == "failed"]
    if as_json:
        failed = [
            {
                "unique_id": result.unique_id,
                "status": result.status,
                "seconds": result.execution_time,
                "message": result.message,
            }
            for result in broken
        ]
        complete = {state: counts.get(state, 0) for state in STATES}
        show_json({**run_facts(run), "nodes": complete, "failed": failed})
        return
    took = seconds_of(run)
    words = [f"Run {run.id}: {coloured(run.status_name)}"]
    if took is not None:
        words.append(f"after {span(took)}")
    if counts:
        words.append(tally(counts))  # type: ignore[arg-type]  # the keys are its states
    click.echo(f"{', '.join(words)}. {run.href or ''}".rstrip())
    if run.status_message and not run.is_success:
        click.echo(run.status_message)
    if broken:
        show_table(
            ["NODE", "STATUS", ">TOOK", "MESSAGE"],
            [
                (
                    result.unique_id,
                    result.status,
                    span(result.execution_time),
                    " ".join((result.message or "").split()),
                )
                for result in broken
            ],
            none="",
        )
    elif run.is_error:
        for line in _last_words(run):
            click.echo(line)


def _last_words(run: Run) -> list[str]:
    """Return the end of the log of the step that failed."""
    step = next((step for step in run.run_steps if step.is_error), None)
    if step is None:
        return []
    lines = [line for line in step.logs.splitlines() if line.strip()]
    return [f"Step {step.index} ({step.name}) ended with an error:", *lines[-_LAST_LINES:]]


def _code(run: Run) -> int:
    if run.is_success:
        return 0
    # dbt Cloud's own time limit is a cancelled run that says so (docs/dbt-cloud-api.md, fact 13)
    timed_out = run.is_cancelled and "timed out" in (run.status_message or "")
    return TIMED_OUT if timed_out else FAILED


# --- what is sent --------------------------------------------------------------------------------


def _cause(text: str | None) -> str:
    """Return the cause with a mark that finds the run again when the answer is lost."""
    mark = f"[cli:{uuid4().hex[:16]}]"
    return f"{(text or 'dagster-dbtcloud run')[: _CAUSE_LIMIT - len(mark) - 1]} {mark}"


def _with_dbt(step: str) -> str:
    """Return a step as dbt Cloud wants it, ``dbt`` put before a bare sub-command."""
    from dagster_dbtcloud.harvest import dbt_command

    if not step.strip():
        raise click.UsageError('--steps takes a dbt command, such as "dbt build -s orders+".')
    return step if dbt_command(step) or not dbt_command(f"dbt {step}") else f"dbt {step}"


def _with_vars(commands: Sequence[str], variables: dict[str, Any]) -> list[str]:
    """Return the commands, each that takes variables with these; its own win name by name."""
    from dagster_dbtcloud.variables import with_vars

    if not commands:
        raise click.UsageError("The job has no steps to give --vars to; name them with --steps.")
    result = []
    for command in commands:
        try:
            program, *words = shlex.split(command)
        except ValueError as error:
            raise click.UsageError(f"The step {command!r} cannot be read: {error}.") from error
        result.append(shlex.join([program, *with_vars(words, variables)]))
    return result


def _existing(client: DbtCloudClient, run_id: int) -> Run:
    try:
        return client.run(run_id, include=("trigger", "job"))
    except NotFoundError as error:
        raise ConfigError(
            f"There is no run {run_id} in account {client.account_id} that the token may see; "
            "`dagster-dbtcloud runs` lists them."
        ) from error


def _tell(text: str) -> None:
    click.echo(text, err=True)
