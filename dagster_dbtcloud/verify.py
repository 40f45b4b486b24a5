"""Does a workspace work? One table of checks, and for each that fails, what to do.

It changes nothing in dbt Cloud except that the ad hoc job is made if it is missing: Dagster needs
it anyway, and making it is the only proof that it can be made. No run is left behind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import Job, TriggerRun
from dagster_dbtcloud.errors import (
    ApiError,
    ApiStatusError,
    AuthenticationError,
    ConfigError,
    DbtCloudError,
    NotFoundError,
    PermissionDeniedError,
)
from dagster_dbtcloud.jobs import adhoc_job_names, get_or_create_job
from dagster_dbtcloud.state import State, WorkspaceIds

_RETRY_SECONDS = 5.0


class Workspace(Protocol):
    """What of a ``DbtCloudWorkspace`` is tried here."""

    @property
    def adhoc_job_name(self) -> str | None: ...

    def ids(self) -> WorkspaceIds: ...

    def get_client(self, *, retry_for: float) -> DbtCloudClient: ...

    def get_clock(self) -> Clock: ...

    def find_state(self) -> State | None: ...


@dataclass(frozen=True)
class Check:
    """One line of the table. ``ok`` is None when an earlier failure kept it from being tried."""

    name: str
    ok: bool | None
    detail: str
    advice: str = ""


@dataclass(frozen=True)
class Verification:
    """The whole table; ``ok`` when every check is. ``str()`` renders it in plain text."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = []
        for check in self.checks:
            mark = {True: "ok  ", False: "FAIL", None: "-   "}[check.ok]
            lines.append(f"{mark}  {check.name:<{width}}  {check.detail}")
            if check.advice:
                lines.append(f"      {'':<{width}}  -> {check.advice}")
        return "\n".join(lines)


_ORDER = (
    "configuration",
    "host",
    "token",
    "account",
    "project",
    "environment",
    "list jobs",
    "list runs",
    "create a job",
    "trigger a run",
    "manifest",
)


def verify(workspace: Workspace) -> Verification:
    """Try everything the library will need, in an order in which each failure explains the next.

    Never raises for what it finds; a failure is a line of the table.
    """
    done: dict[str, Check] = {}
    for check in _checks(workspace):
        done[check.name] = check
    return Verification(tuple(done.get(name, Check(name, None, "not tried")) for name in _ORDER))


def _checks(workspace: Workspace) -> list[Check]:
    checks: list[Check] = []
    try:
        ids = workspace.ids()
    except ConfigError as error:
        return [Check("configuration", False, str(error), "Mend the value and try again.")]
    except ApiError as error:
        return [
            Check("configuration", True, "a name has to be looked up"),
            *_connection_failure(error),
        ]
    checks.append(Check("configuration", True, _described(ids)))
    try:
        client = workspace.get_client(retry_for=_RETRY_SECONDS)
    except ConfigError as error:
        return [Check("configuration", False, str(error), "Mend the value and try again.")]
    with client:
        try:
            account = client.account()
        except ApiError as error:
            return [*checks, *_connection_failure(error)]
        checks.append(Check("host", True, client.access_url))
        checks.append(Check("token", True, "accepted"))
        checks.append(Check("account", True, f"{account.name} ({account.id})"))
        checks.extend(_in_account(workspace, client, ids))
    return checks


def _described(ids: WorkspaceIds) -> str:
    return f"account {ids.account_id}, project {ids.project_id}, environment {ids.environment_id}"


def _connection_failure(error: ApiError) -> list[Check]:
    """Say which of host, token and account an error speaks of."""
    if isinstance(error, AuthenticationError):
        return [
            Check("host", True, "it answers"),
            Check(
                "token",
                False,
                str(error),
                "Make a new token, or set access_url to the address shown under 'Access URLs' in "
                "the account settings: a token is only known to its own host.",
            ),
        ]
    # dbt Cloud says it in JSON; a page comes from a server that is something else
    if isinstance(error, PermissionDeniedError | NotFoundError) and error.body.startswith("{"):
        return [
            Check("host", True, "it answers"),
            Check("token", True, "accepted"),
            Check(
                "account",
                False,
                str(error),
                "Use the account id in dbt Cloud's URLs (/deploy/ACCOUNT/...), and a token of that "
                "account.",
            ),
        ]
    return [
        Check(
            "host",
            False,
            str(error),
            "Set access_url to your dbt Cloud's address, and see that this machine reaches it "
            "(HTTPS_PROXY and SSL_CERT_FILE are honoured).",
        )
    ]


def _in_account(workspace: Workspace, client: DbtCloudClient, ids: WorkspaceIds) -> list[Check]:
    project = _try(
        "project",
        lambda: f"{client.project(ids.project_id).name} ({ids.project_id})",
        "Use a project id of this account; the token must be allowed to see the project.",
    )
    if not project.ok:
        return [project]
    environment = _try(
        "environment",
        lambda: (
            f"{client.environment(ids.project_id, ids.environment_id).name} ({ids.environment_id})"
        ),
        "Use an environment id of this project, or leave environment_id out for the production "
        "environment.",
    )
    if not environment.ok:
        return [project, environment]
    checks = [project, environment]
    read = "The token needs to read jobs and runs: 'Job Viewer' or more."
    checks.append(_try("list jobs", lambda: _listed_jobs(client, ids), read))
    checks.append(_try("list runs", lambda: _listed_runs(client, ids), read))
    found: list[Job] = []
    checks.append(
        _try(
            "create a job",
            lambda: _adhoc_job(workspace, client, ids, found),
            "The token needs 'Job Admin' or 'Job Creator'; or make a job with this name yourself.",
        )
    )
    if found:
        checks.append(
            _try(
                "trigger a run",
                lambda: _trigger(client, found[0]),
                "The token needs to run jobs: 'Job Runner' or more.",
            )
        )
    checks.append(
        _try(
            "manifest",
            lambda: _manifest(workspace),
            "Run a job with `dbt build` (or `dbt parse`) in this environment.",
        )
    )
    return checks


def _try(name: str, attempt: Callable[[], str], advice: str) -> Check:
    try:
        return Check(name, True, attempt())
    except DbtCloudError as error:
        return Check(name, False, str(error), advice)


def _listed_jobs(client: DbtCloudClient, ids: WorkspaceIds) -> str:
    jobs = list(client.jobs(project_id=ids.project_id, environment_id=ids.environment_id))
    return f"{len(jobs)} in the environment"


def _listed_runs(client: DbtCloudClient, ids: WorkspaceIds) -> str:
    listed = client.runs(
        project_id=ids.project_id, environment_id=ids.environment_id, order_by="-id", page_size=1
    )
    newest = next(iter(listed), None)
    return "none yet" if newest is None else f"newest is {newest.id} ({newest.status_name})"


def _adhoc_job(
    workspace: Workspace, client: DbtCloudClient, ids: WorkspaceIds, found: list[Job]
) -> str:
    name = adhoc_job_names(ids, workspace.adhoc_job_name, 1)[0]
    found.append(get_or_create_job(client, ids, name, clock=workspace.get_clock()))
    return f"{name} ({found[0].id})"


def _trigger(client: DbtCloudClient, job: Job) -> str:
    """Trigger without a cause, which dbt Cloud refuses once it has let us in.

    The cause is required and has at least one character (dbt Cloud API v2, Trigger Job Run), so our
    own model would not make such a trigger. Should a run come of it after all, it is cancelled.
    """
    try:
        run = client.trigger_run(job.id, TriggerRun.model_construct(cause=""))
    except (AuthenticationError, PermissionDeniedError, NotFoundError):
        raise
    except ApiStatusError as error:
        if error.status_code in (400, 422):
            return "permitted"
        raise
    client.cancel_run(run.id)
    return "permitted"


def _manifest(workspace: Workspace) -> str:
    state = workspace.find_state()
    if state is None:
        return "none yet: loading the code location will run `dbt parse` once"
    if state.warning:
        raise DbtCloudError(state.warning)
    where = "given" if state.pointer is None else f"of run {state.pointer.run_id}"
    return f"{where}: {len(state.manifest.nodes)} nodes of {state.manifest.metadata.project_name}"
