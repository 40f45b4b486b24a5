"""The account's jobs and runs as dagster-dbt's older client gave them, and what a run gave.

Requests, triggers and results are those of the other rooms. It holds no definitions.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import Enum
from hashlib import sha256
from typing import Any, TypeVar
from urllib.parse import parse_qsl
from uuid import uuid4

import dagster as dg

from dagster_dbtcloud.clock import Clock, SystemClock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import CAUSE_LIMIT, Job, Run, RunStep, TriggerRun
from dagster_dbtcloud.cloud.urls import normalize_access_url
from dagster_dbtcloud.errors import ApiError, ConfigError, DbtCloudError, NotFoundError, RunTimedOut
from dagster_dbtcloud.existing_jobs import job_of_id, known_job, mute
from dagster_dbtcloud.following import follow
from dagster_dbtcloud.harvest import BUILDING, CHECKING, RUN_RESULTS, dbt_command
from dagster_dbtcloud.identity import required_text
from dagster_dbtcloud.legacy.notice import deprecated
from dagster_dbtcloud.starting import abandon, start_run
from dagster_dbtcloud.state import default_cache_dir
from dagster_dbtcloud.workspace import DEFAULT_ACCESS_URL, DbtCloudWorkspace

DEFAULT_POLL_INTERVAL = 10
_LATE_RESULTS_SECONDS = 60.0
_LEAVE_SECONDS = 4.0
_LOAD_SECONDS = 20.0
_ACCOUNT = "The dbt Cloud account id (account_id)"

T = TypeVar("T")


class DbtCloudRunStatus(str, Enum):
    """A run's status in dbt Cloud's words."""

    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    SUCCESS = "Success"
    ERROR = "Error"
    CANCELLED = "Cancelled"


# --- what a run gave -----------------------------------------------------------------------------


class DbtCloudOutput:
    """A finished run: ``run_details`` as the API gives them, and dbt's results of all its steps.

    ``result`` has the form of run_results.json, with the ``results`` of every step that builds or
    tests; empty when no step left any.
    """

    def __init__(
        self,
        run_details: Mapping[str, Any],
        result: Mapping[str, Any],
        client: "DbtCloudResource | None" = None,
    ) -> None:
        self.run_details = run_details
        self.result = result
        self._client = client

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_client": None}  # an IO manager keeps it; the token stays here

    @property
    def run_id(self) -> int:
        return int(self.run_details["id"])

    @property
    def job_id(self) -> int:
        return int(self.run_details.get("job_id") or self.run_details["job_definition_id"])

    @property
    def job_name(self) -> str | None:
        return (self.run_details.get("job") or {}).get("name")

    @property
    def run_status(self) -> DbtCloudRunStatus:
        return DbtCloudRunStatus(as_run(self.run_details).status_name)

    @property
    def is_successful(self) -> bool:
        return as_run(self.run_details).is_success

    @property
    def docs_url(self) -> str | None:
        """The documentation that the run generated, if it did."""
        if not (self.run_details.get("job") or {}).get("generate_docs"):
            return None
        href = str(self.run_details.get("href") or "")
        return f"{href.rstrip('/')}/docs/" if href else None

    @property
    def created_at(self) -> datetime | None:
        return as_run(self.run_details).created_at

    @property
    def updated_at(self) -> datetime | None:
        return as_run(self.run_details).updated_at

    @property
    def dequeued_at(self) -> datetime | None:
        return as_run(self.run_details).dequeued_at

    @property
    def started_at(self) -> datetime | None:
        return as_run(self.run_details).started_at

    @property
    def finished_at(self) -> datetime | None:
        return as_run(self.run_details).finished_at

    def get_artifact(self, path: str, step: int | None = None) -> str:
        """Return an artifact of the run as text. Raises: dagster.Failure; ConfigError."""
        if self._client is None:
            raise ConfigError(
                "This DbtCloudOutput came from an IO manager, without its connection: use "
                "get_run_artifact(run_id, path) of the resource."
            )
        return self._client.get_run_artifact(self.run_id, path, step=step)


def as_run(details: Mapping[str, Any]) -> Run:
    return Run.model_validate(details)


# --- the client ----------------------------------------------------------------------------------


class DbtCloudResource:
    """The account's jobs and runs, by methods that take and return what the API does.

    Failures are ``dagster.Failure``. Retries follow a budget in seconds, so
    ``request_max_retries``, ``request_retry_delay`` and ``poll_interval`` are accepted and not
    used: a run is looked at every second at first, then ever less often, down to every ten.
    """

    def __init__(
        self,
        auth_token: Any = None,
        account_id: Any = None,
        disable_schedule_on_trigger: bool = True,
        request_max_retries: int = 3,
        request_retry_delay: float = 0.25,
        dbt_cloud_host: str = DEFAULT_ACCESS_URL,
        log: logging.Logger | None = None,
        log_requests: bool = False,
        *,
        api_token: Any = None,
        clock: Clock | None = None,
    ) -> None:
        del request_max_retries, request_retry_delay, log_requests
        self._token = auth_token if auth_token is not None else api_token
        del auth_token, api_token
        self._account = account_id
        self.disable_schedule_on_trigger = disable_schedule_on_trigger
        self._host = normalize_access_url(required_text(dbt_cloud_host, "dbt_cloud_host"))
        self._log = log or logging.getLogger("dagster_dbtcloud")
        self._clock = clock or SystemClock()
        deprecated("DbtCloudResource", "DbtCloudWorkspace", stacklevel=4)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dbt_cloud_host={self._host!r})"

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("The dbt Cloud resource is not pickled, since its token would be.")

    def _client(self, *, retry_for: float = 600.0, timeout: float = 30.0) -> DbtCloudClient:
        return DbtCloudClient(
            account_id=int(required_text(self._account, _ACCOUNT)),
            token=required_text(self._token, "The dbt Cloud token (auth_token)"),
            access_url=self._host,
            clock=self._clock,
            retry_for=retry_for,
            timeout=timeout,
            logger=self._log,
        )

    def workspace(self, job_id: int) -> DbtCloudWorkspace:
        """Return the workspace that a job belongs to: the new way to all that this class does."""
        account = required_text(self._account, _ACCOUNT)

        def fetch(_: str) -> Job:
            with self._client(retry_for=_LOAD_SECONDS) as client:
                return job_of_id(client, job_id)

        known = self._or_failure(
            lambda: known_job(
                job_id,
                key=sha256(f"{self._host}|{account}".encode()).hexdigest()[:24],
                cache_dir=default_cache_dir(),
                fetch=fetch,
            )
        )
        return DbtCloudWorkspace(
            account_id=account,
            token=self._token,
            access_url=self._host,
            project_id=known.project_id,
            environment_id=known.environment_id,
            clock=self._clock,
        )

    def _asked(self, ask: Callable[[DbtCloudClient], T]) -> T:
        def do() -> T:
            with self._client() as client:
                return ask(client)

        return self._or_failure(do)

    def _or_failure(self, do: Callable[[], T]) -> T:
        try:
            return do()
        except ApiError as error:
            raise dg.Failure(description=str(error)) from error

    def build_url_for_job(self, project_id: int, job_id: int) -> str:
        """Return the address of a job's page."""
        account = required_text(self._account, _ACCOUNT)
        return f"{self._host}/deploy/{account}/projects/{project_id}/jobs/{job_id}/"

    def build_url_for_cloud_docs(self, job_id: int, resource_type: str, unique_id: str) -> str:
        """Return the address of a node in the documentation that a job generates."""
        account = required_text(self._account, _ACCOUNT)
        return f"{self._host}/accounts/{account}/jobs/{job_id}/docs/#!/{resource_type}/{unique_id}"

    def make_request(
        self,
        method: str,
        endpoint: str,
        data: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        return_text: bool = False,
        base_url: str | None = None,
    ) -> Any:
        """Send a request; ``endpoint`` begins with the account's id. Raises: dagster.Failure."""
        version = "v3" if base_url is not None and "/v3/" in base_url else "v2"
        path, _, query = endpoint.strip("/").partition("?")
        rest = path.strip("/").split("/", 1)[1] if "/" in path.strip("/") else ""
        given = {**dict(parse_qsl(query)), **(params or {})}
        answer = self._asked(
            lambda client: client.request(method, f"{version}/{rest}", params=given, body=data)
        )
        return {"text": json.dumps(answer)} if return_text else answer

    @property
    def api_v2_base_url(self) -> str:
        return f"{self._host}/api/v2/accounts/"

    @property
    def api_v3_base_url(self) -> str:
        return f"{self._host}/api/v3/accounts/"

    # jobs

    def list_jobs(
        self, project_id: int, order_by: str | None = "-id"
    ) -> Sequence[Mapping[str, Any]]:
        """Return all jobs of a project."""
        found: list[Mapping[str, Any]] = []
        while True:
            params = {"project_id": project_id, "order_by": order_by, "offset": len(found)}
            page = self._get("v2/jobs/", params) or ()
            found += page
            if len(page) < 100:
                return found

    def get_job(self, job_id: int) -> Mapping[str, Any]:
        job: Mapping[str, Any] = self._get(f"v2/jobs/{job_id}/")
        return job

    def update_job(self, job_id: int, **kwargs: Any) -> Mapping[str, Any]:
        """Change fields of a job; a mapping among them changes only the fields that it names."""

        def update(client: DbtCloudClient) -> None:
            job = client.job(job_id)
            merged = {
                name: {**getattr(job, name, {}), **value} if isinstance(value, Mapping) else value
                for name, value in kwargs.items()
            }
            client.update_job(job, **merged)

        self._asked(update)
        return self.get_job(job_id)

    def get_job_environment_variables(self, project_id: int, job_id: int) -> Mapping[str, Any]:
        """Return the environment variables of a job, by name."""
        variables: Mapping[str, Any] = self._get(
            f"v3/projects/{project_id}/environment-variables/job/", {"job_definition_id": job_id}
        )
        return variables

    def set_job_environment_variable(
        self, project_id: int, job_id: int, environment_variable_id: int, name: str, value: str
    ) -> Mapping[str, Any]:
        """Set an environment variable for a job."""
        path = f"v3/projects/{project_id}/environment-variables/{environment_variable_id}/"

        def send(client: DbtCloudClient) -> Mapping[str, Any]:
            answer: Mapping[str, Any] = client.request(
                "POST",
                path,
                body={
                    "id": environment_variable_id,
                    "account_id": client.account_id,
                    "project_id": project_id,
                    "job_definition_id": job_id,
                    "type": "job",
                    "name": name,
                    "raw_value": value,
                },
            )
            return answer

        return self._asked(send)

    # runs

    def get_runs(
        self,
        include_related: Sequence[str] | None = None,
        job_id: int | None = None,
        order_by: str | None = "-id",
        offset: int = 0,
        limit: int = 100,
    ) -> Sequence[Mapping[str, Any]]:
        """Return one page of runs."""
        params = {
            "include_related": ",".join(include_related or ()) or None,
            "job_definition_id": job_id,
            "order_by": order_by,
            "offset": offset,
            "limit": limit,
        }
        return self._get("v2/runs/", params) or []

    def get_run(
        self, run_id: int, include_related: Sequence[str] | None = None
    ) -> Mapping[str, Any]:
        params = {"include_related": ",".join(include_related or ()) or None}
        run: Mapping[str, Any] = self._get(f"v2/runs/{run_id}/", params)
        return run

    def get_run_steps(self, run_id: int) -> Sequence[str]:
        """Return the dbt commands that a run was made with."""
        details = self.get_run(run_id, ["trigger", "job"])
        steps = (details.get("trigger") or {}).get("steps_override")
        return steps or (details.get("job") or {}).get("execute_steps") or []

    def cancel_run(self, run_id: int) -> Mapping[str, Any]:
        """Cancel a run; one that is over already stays as it is."""
        self._log.info(f"Cancelling dbt Cloud run {run_id}.")
        self._asked(lambda client: client.cancel_run(run_id))
        return self.get_run(run_id)

    def list_run_artifacts(self, run_id: int, step: int | None = None) -> Sequence[str]:
        return list(self._asked(lambda client: client.artifact_paths(run_id, step=step)))

    def get_run_artifact(self, run_id: int, path: str, step: int | None = None) -> str:
        return self._asked(lambda client: client.artifact(run_id, path, step=step)).decode()

    def get_manifest(self, run_id: int, step: int | None = None) -> Mapping[str, Any]:
        return self._json(run_id, "manifest.json", step)

    def get_run_results(self, run_id: int, step: int | None = None) -> Mapping[str, Any]:
        """Return run_results.json of a step; of the last one by default, as dbt Cloud does."""
        return self._json(run_id, RUN_RESULTS, step)

    def _json(self, run_id: int, path: str, step: int | None) -> Mapping[str, Any]:
        content: Mapping[str, Any] = json.loads(self.get_run_artifact(run_id, path, step))
        return content

    def _get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return self._asked(lambda client: client.request("GET", path, params=params))

    def run_job(self, job_id: int, **kwargs: Any) -> Mapping[str, Any]:
        """Start a run of a job, once; ``kwargs`` are the overrides that the API takes.

        A trigger whose answer is lost is looked for by its cause before another is sent.

        Raises: dagster.Failure; ConfigError, for an override that the API does not take.
        """
        return self.get_run(self._start(job_id, kwargs).id, ["trigger", "job"])

    def _start(self, job_id: int, overrides: Mapping[str, Any]) -> Run:
        fields = {key: value for key, value in overrides.items() if value is not None}
        unknown = sorted(set(fields) - set(TriggerRun.model_fields))
        if unknown:
            known = ", ".join(sorted(TriggerRun.model_fields))
            raise ConfigError(f"A run has no {unknown[0]!r} to override; it takes {known}.")
        mark = f"[{uuid4().hex}]"  # what an unanswered trigger is found by
        cause = str(fields.pop("cause", "") or "Triggered via Dagster")
        cause = f"{cause[: CAUSE_LIMIT - len(mark) - 1]} {mark}"
        if "steps_override" in fields:
            fields["steps_override"] = tuple(fields["steps_override"])
        trigger = TriggerRun(cause=cause, **fields)

        def start(client: DbtCloudClient) -> Run:
            try:
                run = start_run(client, job_id, trigger, clock=self._clock, log=self._log.warning)
            except Exception:
                raise
            except BaseException:  # terminated while the trigger was on its way
                abandon(self._short_client(), job_id, cause)
                raise
            if self.disable_schedule_on_trigger:
                with self._leaving(run.id):
                    self._mute(client, job_id)
            return run

        run = self._asked(start)
        self._log.info(f"Started dbt Cloud run {run.id} of job {job_id}. {run.href or ''}")
        return run

    def _mute(self, client: DbtCloudClient, job_id: int) -> None:
        try:
            if mute(client, job_id):
                self._log.info(f"The schedule of the dbt Cloud job {job_id} is off now.")
        except ApiError as error:  # the run goes on
            self._log.warning(f"The schedule of job {job_id} could not be taken off: {error}")

    def _short_client(self) -> DbtCloudClient:
        return self._client(retry_for=_LEAVE_SECONDS, timeout=_LEAVE_SECONDS)

    def poll_run(
        self,
        run_id: int,
        poll_interval: float = DEFAULT_POLL_INTERVAL,
        poll_timeout: float | None = None,
        href: str | None = None,
    ) -> Mapping[str, Any]:
        """Follow a run to its end; return its details with job, trigger and steps.

        ``poll_timeout`` is in seconds; then, or when the step is terminated, the run is cancelled.

        Raises: dagster.Failure, when the run does not succeed in time.
        """
        del poll_interval
        status = ""
        try:
            with self._leaving(run_id), self._client() as client:
                for run in follow(client, run_id, clock=self._clock, timeout=poll_timeout):
                    if run.status_name != status:
                        status = run.status_name
                        self._log.info(f"dbt Cloud run {run_id}: {status}. {run.href or ''}")
        except RunTimedOut as error:
            raise self._failure(str(error), error.run_url or href) from error
        except ApiError as error:
            raise self._failure(str(error), href) from error
        details = self.get_run(run_id, ["job", "trigger", "run_steps"])
        if run.is_success:
            return details
        raise self._failure(
            f"dbt Cloud run {run_id} did not succeed: {run.status_name}. "
            f"{run.status_message or ''}".strip(),
            run.href or href,
            details,
        )

    @contextmanager
    def _leaving(self, run_id: int) -> Iterator[None]:
        """Cancel the run that nobody will watch any more; never hide why we leave."""
        try:
            yield
        except BaseException:
            with suppress(DbtCloudError), self._short_client() as client:
                client.cancel_run(run_id)
                self._log.warning(f"Cancelled dbt Cloud run {run_id}.")
            raise

    def _failure(
        self, description: str, href: str | None, details: Mapping[str, Any] | None = None
    ) -> dg.Failure:
        metadata: dict[str, dg.MetadataValue] = {}
        if href:
            metadata["run_page_url"] = dg.MetadataValue.url(href)
        if details:
            without_logs = {key: value for key, value in details.items() if key != "run_steps"}
            metadata["run_details"] = dg.MetadataValue.json(without_logs)
        return dg.Failure(description=description, metadata=metadata)

    def run_job_and_poll(
        self,
        job_id: int,
        poll_interval: float = DEFAULT_POLL_INTERVAL,
        poll_timeout: float | None = None,
        **kwargs: Any,
    ) -> DbtCloudOutput:
        """Run a job to its end: ``run_job``, then ``poll_run``, then the results of every step.

        Raises: dagster.Failure; ConfigError.
        """
        started = self._start(job_id, kwargs)
        details = self.poll_run(started.id, poll_interval, poll_timeout, started.href)
        return DbtCloudOutput(details, self._results(as_run(details)), client=self)

    def _results(self, run: Run) -> Mapping[str, Any]:
        """Return run_results.json of all steps that build or test, as one; empty without any."""
        whole: dict[str, Any] = {}
        seen: list[Mapping[str, Any]] = []
        for step in run.run_steps:
            if dbt_command(step.command) in BUILDING | CHECKING:
                content = self._results_of(run, step)
                if content in seen:
                    continue  # that of a step before: this one wrote none
                seen.append(content)
                results = [*whole.get("results", ()), *(content.get("results") or ())]
                whole = {**whole, **content, "results": results}
        if not whole:
            self._log.info(f"dbt Cloud run {run.id} left no results.")
        return whole

    def _results_of(self, run: Run, step: RunStep) -> Mapping[str, Any]:
        waited, delay = 0.0, 1.0
        while True:
            try:
                with self._client() as client:
                    data = client.artifact(run.id, RUN_RESULTS, step=step.index)
                content: Mapping[str, Any] = json.loads(data)
                return content
            except NotFoundError:
                if waited >= _LATE_RESULTS_SECONDS:
                    return {}
            except ApiError as error:
                raise dg.Failure(description=str(error)) from error
            self._clock.sleep(delay)
            waited, delay = waited + delay, min(delay * 2, 10.0)
