"""The client of dbt Cloud's API: one method for each question, one funnel for all requests.

It does not wait for runs and keeps no results; who needs either builds on it.
Facts 1 to 9 and 21 to 33 of docs/dbt-cloud-api.md.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from dagster_dbtcloud.clock import Clock, SystemClock
from dagster_dbtcloud.cloud import pages, retry
from dagster_dbtcloud.cloud.answer import Answer, Envelope, envelope_of, error_of
from dagster_dbtcloud.cloud.budget import SharedBudget
from dagster_dbtcloud.cloud.models import (
    Account,
    BrokenRun,
    Environment,
    Job,
    Project,
    Run,
    RunStep,
    TriggerRun,
)
from dagster_dbtcloud.cloud.secret import Secret
from dagster_dbtcloud.cloud.urls import normalize_access_url, quote_path
from dagster_dbtcloud.errors import (
    ApiConnectionError,
    ApiError,
    ApiResponseError,
    ApiStatusError,
    ConfigError,
    NotFoundError,
    RateLimitedError,
)
from dagster_dbtcloud.version import __version__

if TYPE_CHECKING:
    import httpx
    from typing_extensions import Self

    from dagster_dbtcloud.cloud.transport import Transport

T = TypeVar("T")
RowT = TypeVar("RowT", Account, Environment, Job, Project, Run)
Params = Mapping[str, str | int | None]

_LOGGER = logging.getLogger("dagster_dbtcloud.cloud")

# Fields of a job that the service works out by itself; they are not sent back (fact 25).
_READ_ONLY_JOB_FIELDS = frozenset(
    {"account", "project", "environment", "custom_environment_variables", "fusion_readiness"}
    | {"most_recent_run", "most_recent_completed_run", "cron_humanized", "next_run"}
    | {"next_run_humanized", "created_at", "updated_at", "raw_dbt_version", "run_failure_count"}
)


class DbtCloudClient:
    """A connection to one dbt Cloud account. Thread-safe; ``with`` or ``close()`` ends it.

    ``token``: a service token or personal access token; it shows up nowhere. ``timeout`` is in
    seconds, for connecting and for each silence of the server. ``retry_for`` is the budget in
    seconds of one call for trying again (``retry.py`` tells what is tried again); 0 tries once.
    ``jitter`` gives numbers in [0, 1). ``logger`` gets a warning for each new try; each request is
    counted, and logged at DEBUG to ``dagster_dbtcloud.cloud`` only. Proxies and the CA bundle come
    from httpx's usual environment variables (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE ...);
    ``transport`` replaces them. ``budget`` counts the requests of all processes together.

    Nothing is sent before the first call. A forked process gets connections of its own. A client is
    not pickled, since its token would be; a copy is the same client. ``close()`` may be followed by
    further calls, which connect anew.

    Every method raises ApiError (see ``errors.py``); ConfigError for unusable arguments here.
    """

    def __init__(
        self,
        *,
        account_id: int,
        token: str,
        access_url: str = "https://cloud.getdbt.com",
        clock: Clock | None = None,
        timeout: float = 30.0,
        retry_for: float = 600.0,
        user_agent_suffix: str = "",
        transport: httpx.BaseTransport | None = None,
        logger: logging.Logger | None = None,
        jitter: Callable[[], float] = random.random,
        budget: SharedBudget | None = None,
    ) -> None:
        self._secret = Secret(token)
        # A traceback that shows the locals of this frame is not to show it.
        del token
        if fault := self._secret.fault():
            raise ConfigError(fault)
        self.account_id = _account(account_id)
        self.access_url = normalize_access_url(access_url)
        self.requests_made = 0
        self._clock = clock or SystemClock()
        self._timeout = timeout
        self._retry_for = retry_for
        self._user_agent = f"dagster-dbtcloud/{__version__} {user_agent_suffix}".strip()
        if not (self._user_agent.isascii() and self._user_agent.isprintable()):
            raise ConfigError("user_agent_suffix holds characters that a header cannot carry")
        self._given_transport = transport
        self._logger = logger or _LOGGER
        self._jitter = jitter
        self._budget = budget
        self._lock = threading.Lock()
        self._open: Transport | None = None
        self._process = os.getpid()
        self._left_behind: list[Transport] = []

    # accounts, projects, environments

    def account(self) -> Account:
        return self._get(self._v2()).one(Account)

    def accounts(self) -> Iterator[Account]:
        """Walk the accounts that the token sees: few, and this list takes no parameters."""
        yield from self._get("/api/v3/accounts/").rows(Account)

    def projects(self, *, name_contains: str | None = None) -> Iterator[Project]:
        """Walk the account's projects. ``name_contains`` is compared without regard to case."""
        return self._by_offset(
            self._v3("projects"), Project, {"name__icontains": name_contains, "order_by": "id"}
        )

    def project(self, project_id: int) -> Project:
        return self._get(self._v3("projects", project_id)).one(Project)

    def environments(self, project_id: int) -> Iterator[Environment]:
        path = self._v3("projects", project_id, "environments")
        return self._by_offset(path, Environment, {"order_by": "id"})

    def environment(self, project_id: int, environment_id: int) -> Environment:
        path = self._v3("projects", project_id, "environments", environment_id)
        return self._get(path).one(Environment)

    # jobs

    def jobs(
        self,
        *,
        project_id: int | None = None,
        environment_id: int | None = None,
        name_contains: str | None = None,
    ) -> Iterator[Job]:
        """Walk the active jobs, oldest first, without those that dbt Cloud made for itself."""
        return self._by_offset(
            self._v2("jobs"),
            Job,
            {
                "project_id": project_id,
                "environment_id": environment_id,
                "name__icontains": name_contains,
                "order_by": "id",
            },
        )

    def job(self, job_id: int) -> Job:
        return self._get(self._v2("jobs", job_id)).one(Job)

    def create_job(
        self,
        *,
        project_id: int,
        environment_id: int,
        name: str,
        execute_steps: Sequence[str],
        description: str = "",
        job_type: str = "other",
        **settings: Any,
    ) -> Job:
        """Create a job that starts only when triggered.

        ``settings`` are further fields of the job, or replace those that are set here (fact 24).
        Tried again only while it surely was not carried out, as with ``trigger_run``.
        """
        body = {
            "id": None,
            "account_id": self.account_id,
            "project_id": project_id,
            "environment_id": environment_id,
            "name": name,
            "description": description,
            "dbt_version": None,
            "execute_steps": list(execute_steps),
            "job_type": job_type,
            "state": 1,
            "execution": {"timeout_seconds": 0},
            "settings": {"threads": 4, "target_name": "default"},
            "generate_docs": False,
            "run_generate_sources": False,
            "run_compare_changes": False,
            "triggers": {
                "github_webhook": False,
                "git_provider_webhook": False,
                "schedule": False,
                "on_merge": False,
            },
            # Asked for even though the trigger is off.
            "schedule": {
                "cron": "0 * * * *",
                "date": {"type": "every_day"},
                "time": {"type": "every_hour", "interval": 1},
            },
            **settings,
        }
        return self._post(self._v2("jobs"), body).one(Job)

    def update_job(self, job: Job, **changes: Any) -> Job:
        """Change fields of a job; all others stay as they are in dbt Cloud now.

        The service wants the whole object back (fact 25), with fields that ``Job`` does not know
        too, so it is read first.
        """
        path = self._v2("jobs", job.id)
        current = self._get(path).mapping()
        kept = {key: value for key, value in current.items() if key not in _READ_ONLY_JOB_FIELDS}
        body = {**kept, **changes}
        return self._call("POST", path, body=body, read=self._envelope, repeatable=True).one(Job)

    def delete_job(self, job_id: int) -> None:
        """Delete a job. If the answer to a first try was lost, its absence later is a success."""
        self._call("DELETE", self._v2("jobs", job_id), read=_nothing, repeatable=True)

    # runs

    def trigger_run(self, job_id: int, trigger: TriggerRun) -> Run:
        """Start a run of a job; one that is already active makes it wait in the queue (fact 26).

        A request that surely was not carried out (never sent, 429) is tried again. After any other
        failure nobody knows: it is raised at once (ApiConnectionError with ``sent``, ServerError,
        ApiResponseError), and the caller looks for its own mark in the ``cause`` of new runs.
        """
        path = self._v2("jobs", job_id, "run")
        return self._post(path, trigger.model_dump(mode="json", exclude_none=True)).one(Run)

    def rerun_job(self, job_id: int) -> Run:
        """Retry the job's last run from where it failed; if it did not fail, run all (fact 27)."""
        return self._post(self._v2("jobs", job_id, "rerun")).one(Run)

    def retry_run(self, run_id: int) -> Run:
        """Start a new run that takes up a failed one where it failed (fact 27)."""
        return self._post(self._v2("runs", run_id, "retry")).one(Run)

    def runs(
        self,
        *,
        project_id: int | None = None,
        environment_id: int | None = None,
        job_id: int | None = None,
        status_in: Sequence[int] = (),
        finished_at: tuple[datetime, datetime] | None = None,
        created_at: tuple[datetime, datetime] | None = None,
        id_above: int | None = None,
        order_by: str = "id",
        include: Sequence[str] = ("trigger", "job"),
        page_size: int = pages.LARGEST_PAGE,
        tolerant: bool = False,
    ) -> Iterator[Run]:
        """Walk runs, page by page as they are taken.

        ``order_by``: ``id`` (oldest first), ``created_at``, ``finished_at``, each with ``-`` for
        the reverse. Ranges are inclusive and of aware datetimes. In the order of ``id`` the first n
        runs cost ceil(n / page_size) requests; in other orders each further page repeats one row.
        A run that is there all the time is given exactly once, whatever comes and goes meanwhile.
        ``tolerant`` gives a ``BrokenRun`` for one that cannot be read, instead of ending there.
        """
        size = max(1, min(page_size, pages.LARGEST_PAGE))
        params: dict[str, str | int | None] = {
            "project_id": project_id,
            "environment_id": environment_id,
            "job_definition_id": job_id,
            "status__in": json.dumps([int(s) for s in status_in]) if status_in else None,
            "finished_at__range": _range(finished_at),
            "created_at__range": _range(created_at),
            "order_by": order_by,
            "include_related": _joined(include),
        }
        path = self._v2("runs")
        instead = BrokenRun.of if tolerant else None
        fetch = self._fetch(path, Run, params, instead)
        if order_by == "id":
            return self._told(path, pages.by_id(fetch, page_size=size, above=id_above))
        if id_above is not None:
            fetch = self._fetch(path, Run, {**params, "id__gt": id_above}, instead)
        return self._told(path, pages.by_offset(fetch, page_size=size))

    def run(self, run_id: int, *, include: Sequence[str] = ()) -> Run:
        """Return a run; ``include`` e.g. ``("trigger", "job", "run_steps", "debug_logs")``."""
        path = self._v2("runs", run_id)
        return self._get(path, {"include_related": _joined(include)}).one(Run)

    def cancel_run(self, run_id: int) -> Run:
        """Ask for a run to be cancelled; it may still be active in the answer (fact 28).

        A run that is already over is returned as it is.
        """
        path = self._v2("runs", run_id, "cancel")
        try:
            answered = self._call("POST", path, read=self._envelope_or_none, repeatable=True)
        except ApiStatusError as error:
            if error.status_code not in (400, 409, 422):
                raise
            run = self.run(run_id)
            if not run.is_complete:
                raise
            return run
        return self.run(run_id) if answered is None else answered.one(Run)

    def step(self, step_id: int, *, include: Sequence[str] = ()) -> RunStep:
        path = self._v2("steps", step_id)
        return self._get(path, {"include_related": _joined(include)}).one(RunStep)

    # artifacts

    def artifact_paths(self, run_id: int, *, step: int | None = None) -> tuple[str, ...]:
        """Return the paths of a run's artifacts, relative to ``target/`` (fact 17)."""
        return self._get(self._v2("runs", run_id, "artifacts"), {"step": step}).texts()

    def artifact(self, run_id: int, path: str, *, step: int | None = None) -> bytes:
        """Return one artifact's bytes, of any size.

        ``step`` is a step's index; without it the run's last step is meant (fact 17). Soon after
        the end of a run an artifact may not be there yet: NotFoundError.
        """
        # The one kind of path without a trailing slash (fact 2).
        address = f"{self._v2('runs', run_id, 'artifacts')}{quote_path(path)}"
        name = path.lower()

        def read(answer: Answer) -> bytes:
            if answer.is_html and not name.endswith((".html", ".htm")):
                raise answer.unreadable(f"an HTML page instead of the artifact {path!r}")
            if name.endswith(".json") and not _spans_json(answer.body):
                raise answer.unreadable(f"the artifact {path!r} is not JSON, or was cut")
            return answer.body

        return self._call(
            "GET", address, params={"step": step}, read=read, repeatable=True, accept="*/*"
        )

    # what has no method here

    def request(
        self, method: str, path: str, *, params: Params | None = None, body: Any = None
    ) -> Any:
        """Send a request of the caller's own; return the answer's ``data`` as it came.

        ``path`` is below the account, with the version: ``v2/jobs/1/``, ``v3/projects/``. Only GET
        is tried again after a failure that may have had an effect.
        """
        version, _, rest = path.strip("/").partition("/")
        if version not in ("v2", "v3") or ".." in rest.split("/"):
            raise ConfigError(f"{path!r} is no path below an account: v2/... or v3/...")
        return self._call(
            method,
            _path(version, self.account_id, *filter(None, rest.split("/"))),
            params=params,
            body=body,
            read=self._envelope,
            repeatable=method == "GET",
        ).data()

    # the client itself

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            opened, self._open = self._open, None
        if opened is not None and self._process == os.getpid():
            opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        # Also shown for one whose making failed half way.
        shown = (f"{name}={vars(self).get(name)!r}" for name in ("account_id", "access_url"))
        return f"DbtCloudClient({', '.join(shown)})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("DbtCloudClient is not pickled: build it anew in each process")

    def _v2(self, *parts: str | int) -> str:
        return _path("v2", self.account_id, *parts)

    def _v3(self, *parts: str | int) -> str:
        return _path("v3", self.account_id, *parts)

    def _get(self, path: str, params: Params | None = None) -> Envelope:
        return self._call("GET", path, params=params, read=self._envelope, repeatable=True)

    def _post(self, path: str, body: Any = None) -> Envelope:
        return self._call("POST", path, body=body, read=self._envelope, repeatable=False)

    def _envelope(self, answer: Answer) -> Envelope:
        return envelope_of(answer, access_url=self.access_url)

    def _envelope_or_none(self, answer: Answer) -> Envelope | None:
        return self._envelope(answer) if answer.body.strip() else None

    def _fetch(
        self,
        path: str,
        model: type[RowT],
        params: Params,
        instead: Callable[[Mapping[str, Any], str], RowT] | None = None,
    ) -> pages.Fetch[RowT]:
        def fetch(place: Mapping[str, int]) -> pages.Page[RowT]:
            envelope = self._get(path, {**params, **place})
            return pages.Page(envelope.rows(model, instead=instead), envelope.total_count())

        return fetch

    def _by_offset(self, path: str, model: type[RowT], params: Params) -> Iterator[RowT]:
        fetch = self._fetch(path, model, params)
        return self._told(path, pages.by_offset(fetch, page_size=pages.LARGEST_PAGE))

    def _told(self, path: str, rows: Iterator[RowT]) -> Iterator[RowT]:
        try:
            yield from rows
        except pages.PagingError as error:
            url = f"{self.access_url}{path}"
            raise ApiResponseError(f"GET {url}: {error}", method="GET", url=url) from error

    def _call(
        self,
        method: str,
        path: str,
        *,
        read: Callable[[Answer], T],
        repeatable: bool,
        params: Params | None = None,
        body: Any = None,
        accept: str = "application/json",
    ) -> T:
        """Send a request until it is answered or ``retry.decide`` gives up: the one funnel.

        ``read`` raises ApiResponseError for an answer that is worth another try.
        """
        set_params = {key: value for key, value in (params or {}).items() if value is not None}
        started = self._clock.monotonic()
        attempt = 0
        doubtful = False
        while True:
            attempt += 1
            retry_after: float | None = None
            self._wait_for_budget(started)
            try:
                answer = self._send(method, path, set_params, body, accept)
                retry_after = retry.parse_retry_after(
                    answer.headers.get("retry-after"), now=self._clock.now()
                )
                if error := error_of(answer, access_url=self.access_url):
                    raise error
                return read(answer)
            except ApiError as error:
                if isinstance(error, RateLimitedError):
                    error.retry_after = retry_after
                    if self._budget is not None:
                        self._budget.close(
                            self._clock.now(), retry_after or retry.FIRST_RATE_LIMIT_WAIT
                        )
                if method == "DELETE" and doubtful and isinstance(error, NotFoundError):
                    return read(answer)
                failure = _failure(error)
                elapsed = self._clock.monotonic() - started
                wait = retry.decide(
                    failure,
                    repeatable=repeatable,
                    attempt=attempt,
                    elapsed=elapsed,
                    retry_for=self._retry_for,
                    retry_after=retry_after,
                    jitter=self._jitter(),
                )
                if wait is None:
                    _add(error, _verdict(failure, repeatable, attempt, elapsed))
                    raise
                doubtful = doubtful or failure not in retry.SURELY_UNDONE
                self._logger.warning("%s Trying again in %.1f s (try %d).", error, wait, attempt)
            self._clock.sleep(wait)

    def _wait_for_budget(self, started: float) -> None:
        """Wait until all processes together have room for a request, within this call's budget.

        After that it is sent all the same: a cancel that must go out now may be lucky.
        """
        while self._budget is not None and (wait := self._budget.take(self._clock.now())):
            left = self._retry_for - (self._clock.monotonic() - started)
            if left <= 0:
                return
            self._logger.warning(
                "Waiting %.0f s: Dagster's processes on this machine have sent dbt Cloud as many "
                "requests as it takes for now.",
                min(wait, left),
            )
            self._clock.sleep(min(wait, left))

    def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str | int],
        body: Any,
        accept: str,
    ) -> Answer:
        transport = self._transport()
        with self._lock:
            self.requests_made += 1
            number = self.requests_made
        started = self._clock.monotonic()
        answer = transport.send(
            method, f"{self.access_url}{path}", params=params, json=body, accept=accept
        )
        _LOGGER.debug(
            "dbt Cloud request %d: %s %s -> %d, %d bytes, %.3f s",
            number,
            method,
            answer.url,
            answer.status_code,
            len(answer.body),
            self._clock.monotonic() - started,
        )
        return answer

    def _transport(self) -> Transport:
        from dagster_dbtcloud.cloud.transport import Transport

        if self._process != os.getpid():
            # After a fork: the parent's sockets are not ours to use or to close, and its lock may
            # have been held by a thread that does not exist here.
            self._lock = threading.Lock()
            self._left_behind += [self._open] if self._open else []
            self._open = None
            self._process = os.getpid()
        with self._lock:
            if self._open is None:
                self._open = Transport(
                    access_url=self.access_url,
                    secret=self._secret,
                    timeout=self._timeout,
                    user_agent=self._user_agent,
                    clock=self._clock,
                    transport=self._given_transport,
                )
            return self._open


def _path(version: str, *parts: str | int) -> str:
    end = "" if "webhooks" in parts[1:2] else "/"  # fact 2
    return f"/api/{version}/accounts/{'/'.join(map(str, parts))}{end}"


def _account(account_id: object) -> int:
    digits = str(account_id).strip()
    # Not shown: two settings that were swapped put the token here.
    if not (digits.isascii() and digits.isdigit()):
        raise ConfigError(
            "account_id is not a number; it stands in dbt Cloud's addresses, after /deploy/"
        )
    return int(digits)


def _joined(include: Sequence[str]) -> str | None:
    """Return the form of ``include_related`` that the API's own description has (fact 8)."""
    return ",".join(include) or None


def _range(bounds: tuple[datetime, datetime] | None) -> str | None:
    """Return a range filter's value (fact 8)."""
    if bounds is None:
        return None
    if any(bound.tzinfo is None for bound in bounds):
        raise ValueError("a range of times needs datetimes with a time zone")
    return json.dumps([bound.astimezone(timezone.utc).isoformat() for bound in bounds])


def _spans_json(body: bytes) -> bool:
    """Tell whether a body starts and ends as a JSON object or array does."""
    return (body[:64].lstrip()[:1], body[-64:].rstrip()[-1:]) in ((b"{", b"}"), (b"[", b"]"))


def _nothing(answer: Answer) -> None:
    if answer.body.strip() and answer.status_code != 404:
        answer.json()


def _failure(error: ApiError) -> retry.Failure:
    if isinstance(error, ApiStatusError):
        return retry.of_status(error.status_code)
    if isinstance(error, ApiConnectionError):
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return retry.Failure.REFUSED
        return retry.Failure.NO_ANSWER if error.sent else retry.Failure.NEVER_SENT
    return retry.Failure.UNREADABLE


def _verdict(failure: retry.Failure, repeatable: bool, attempt: int, elapsed: float) -> str:
    if not repeatable and failure not in (retry.Failure.REFUSED, *retry.SURELY_UNDONE):
        return " It may have been carried out all the same, so it is not sent again."
    return f" Gave up after {attempt} tries in {elapsed:.0f} s." if attempt > 1 else ""


def _add(error: ApiError, words: str) -> None:
    if words:
        said = str(error.args[0]).rstrip(".")
        error.args = (f"{said}.{words}", *error.args[1:])
