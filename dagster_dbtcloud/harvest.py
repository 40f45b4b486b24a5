"""The results of a finished dbt Cloud run: ``run_results.json`` of every step that builds or tests.

The artifact without a step number is that of the last step, which may be ``dbt docs generate``
(docs/dbt-cloud-api.md), so each step is asked for by its index. One look, no waiting: the caller
decides how long a late artifact is worth. Dagster is imported for outcomes only: the command line
harvests without it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import Run, RunStatus, RunStep
from dagster_dbtcloud.dbt.run_results import RunResults
from dagster_dbtcloud.dbt.sources import FreshnessResults
from dagster_dbtcloud.errors import ApiResponseError, NotFoundError, RunResultsError

if TYPE_CHECKING:
    from dagster_dbtcloud.events import Declared, Outcome, RunRef

RUN_RESULTS = "run_results.json"
SOURCES = "sources.json"

BUILDING = frozenset({"build", "run", "seed", "snapshot", "retry", "clone"})
CHECKING = frozenset({"test"})
_OTHER = {"clean", "compile", "debug", "deps", "docs", "init", "list", "ls", "parse", "show"}
_COMMANDS = BUILDING | CHECKING | _OTHER | {"run-operation", "source"}
_FLAGS_WITH_VALUE = frozenset(
    {"--log-format", "--log-format-file", "--log-level", "--log-level-file", "--log-path"}
    | {"--log-file-max-bytes", "--printer-width", "--profile", "--profiles-dir", "--project-dir"}
    | {"--target", "-t", "--target-path", "--state", "--defer-state", "--warn-error-options"}
    | {"--record-timing-info", "-r", "--indirect-selection"}
)
"""dbt's own flags that may stand before the sub-command; a value may look like one ("debug")."""


def dbt_command(command: str | None) -> str | None:
    """Return the sub-command of a step's command line: ``build`` of ``dbt --debug build -s x``.

    None when the step invokes no dbt, or a sub-command unknown to this package.
    """
    if command is None:
        return None
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    if not words or words[0].rsplit("/", 1)[-1] != "dbt":
        return None
    flags = iter(words[1:])
    before = ""
    for word in flags:
        if word in _FLAGS_WITH_VALUE:
            next(flags, None)
        elif word in _COMMANDS:
            return word
        elif not word.startswith("-") and not before.startswith("-"):
            return None  # else it may be the value of a flag that we do not know
        before = word
    return None


_Results = TypeVar("_Results", RunResults, FreshnessResults)


@dataclass(frozen=True)
class StepResults:
    """One step and what it did."""

    step: RunStep
    results: RunResults


@dataclass(frozen=True)
class StepFreshness:
    """A step that looked how fresh the sources are, and what it saw."""

    step: RunStep
    results: FreshnessResults


@dataclass(frozen=True)
class Harvest:
    """All that a finished run tells.

    ``late`` names the steps whose own artifact is not there yet (or never will be);
    ``damaged`` holds one error for each artifact that cannot be read.
    """

    run: Run
    steps: tuple[StepResults, ...]
    late: tuple[RunStep, ...] = ()
    damaged: tuple[RunResultsError, ...] = ()
    freshness: tuple[StepFreshness, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing that must be there: a failed step may leave no results."""
        return not self.damaged and not any(step.is_success for step in self.late)


def lone_command(run: Run) -> str | None:
    """Return the one dbt command of a listed run (with ``trigger`` and ``job``), if that is sure.

    It is when the trigger named it, or the job has not been changed since the run was made; and
    when neither source freshness nor docs were asked for beside it. A retry may do less.
    """
    job, trigger = run.job, run.trigger
    if job is None or trigger is None or run.retrying_run_id or trigger.cause_category == "rerun":
        return None
    if job.generate_docs is not False or job.run_generate_sources is not False:
        return None
    if trigger.generate_docs_override or run.created_at is None or job.updated_at is None:
        return None
    if job.updated_at > run.created_at:
        return None
    steps = trigger.steps_override or job.execute_steps
    return steps[0] if len(steps) == 1 else None


def harvest_lone(client: DbtCloudClient, run: Run) -> Harvest | None:
    """Fetch the results of a run of one command in one request; None when that does not do.

    Without a step number dbt Cloud gives the last step's artifact, which is the command's here.

    Raises: ApiError, when dbt Cloud does not answer.
    """
    command = lone_command(run)
    which = dbt_command(command)
    if command is None or which not in BUILDING | CHECKING:
        return None
    try:
        data = client.artifact(run.id, RUN_RESULTS)
        results = RunResults.from_bytes(data, origin=f"{RUN_RESULTS} of dbt Cloud run {run.id}")
    except (NotFoundError, RunResultsError, ApiResponseError):
        return None
    if results.command != which or results.env.get("DBT_CLOUD_RUN_ID", str(run.id)) != str(run.id):
        return None
    step = RunStep(index=0, name=f"Invoke dbt with `{command}`", status=run.status)
    return Harvest(run, (StepResults(step, results),))


def harvest(
    client: DbtCloudClient, run: Run, *, known: Harvest | None = None, freshness: bool = False
) -> Harvest:
    """Fetch the results of each building or testing step of ``run`` (which has its ``run_steps``).

    ``known`` is an earlier, incomplete harvest of the same run: only what it lacks is fetched.
    ``freshness`` also fetches what ``dbt source freshness`` saw.

    Raises: ApiError, when dbt Cloud does not answer.
    """
    found = {item.step.index: item for item in known.steps} if known else {}
    fresh = {item.step.index: item for item in known.freshness} if known else {}
    late: list[RunStep] = []
    damaged: list[RunResultsError] = []
    for step in run.run_steps:
        which = dbt_command(step.command)
        looks = freshness and which == "source"
        if not (looks or which in BUILDING | CHECKING) or step.index in {**found, **fresh}:
            continue
        if step.started_at is None and step.status not in (RunStatus.SUCCESS, RunStatus.ERROR):
            continue  # skipped after a failure: it never ran
        name = SOURCES if looks else RUN_RESULTS
        origin = f"{name} of dbt Cloud run {run.id}, step {step.index}"
        try:
            data = client.artifact(run.id, name, step=step.index)
            if looks:
                seen = FreshnessResults.from_bytes(data, origin=origin)
                if any(_same(seen, item.results) for item in fresh.values()):
                    late.append(step)
                else:
                    fresh[step.index] = StepFreshness(step, seen)
            else:
                results = RunResults.from_bytes(data, origin=origin)
                if any(_same(results, item.results) for item in found.values()):
                    late.append(step)
                else:
                    found[step.index] = StepResults(step, results)
        except NotFoundError:
            late.append(step)
        except RunResultsError as error:
            damaged.append(error)
        except ApiResponseError as error:
            damaged.append(RunResultsError(f"{origin} cannot be read: {error}", origin=origin))
    return Harvest(
        run,
        tuple(found[index] for index in sorted(found)),
        tuple(late),
        tuple(damaged),
        tuple(fresh[index] for index in sorted(fresh)),
    )


def _same(one: _Results, other: _Results) -> bool:
    """Tell whether two steps show one file: that of the first, where the second wrote none.

    Whether the steps of a run share a folder of artifacts is not known (fact 43); told twice, each
    of its results would be recorded twice.
    """
    return (one.invocation_id, one.generated_at, one.results) == (
        other.invocation_id,
        other.generated_at,
        other.results,
    )


def run_ref(run: Run, step_index: int | None, invocation_id: str | None) -> RunRef:
    """Return the reference that outcomes of one step of ``run`` carry."""
    from dagster_dbtcloud.events import RunRef

    return RunRef(
        run_id=run.id,
        url=run.href,
        job_id=run.job_id,
        git_sha=run.git_sha,
        step_index=step_index,
        invocation_id=invocation_id,
        artifacts_url=_artifacts_url(run),
    )


def _artifacts_url(run: Run) -> str | None:
    """Return the address of a run's artifacts, at the host of the run's page."""
    host, deploy, _ = (run.href or "").partition("/deploy/")
    if not deploy or run.account_id is None:
        return None
    return f"{host}/api/v2/accounts/{run.account_id}/runs/{run.id}/artifacts/"


def last_outcomes(found: Harvest, declared: Declared) -> tuple[list[Outcome], tuple[str, ...]]:
    """Return the last outcome of each node, and the nodes that nobody here declares.

    A later step's word counts, if the node did run in it.
    """
    from dagster_dbtcloud.events import OutcomeKind, interpret

    last: dict[str, Outcome] = {}
    undeclared: dict[str, None] = {}
    for item in found.steps:
        ref = run_ref(found.run, item.step.index, item.results.invocation_id)
        said = interpret(item.results, declared, ref)
        undeclared.update(dict.fromkeys(said.undeclared))
        for outcome in said.outcomes:
            earlier = last.get(outcome.unique_id)
            if earlier is None or outcome.kind is not OutcomeKind.SKIPPED:
                last.pop(outcome.unique_id, None)
                last[outcome.unique_id] = outcome
    return list(last.values()), tuple(undeclared)
