"""Jobs that people made in dbt Cloud: found by id, name or URL, checked, and remembered.

It triggers nothing and makes no jobs (``jobs.py`` does, for the ad hoc ones). What a definition
needs of a job travels from the code server to its run workers, as the manifest's pointer does.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from dagster_dbtcloud import _dagster_private
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import Job
from dagster_dbtcloud.cloud.urls import DbtCloudUrl, is_url, parse_url
from dagster_dbtcloud.errors import ApiError, ConfigError, NotFoundError
from dagster_dbtcloud.identity import Value, required_text
from dagster_dbtcloud.state import WorkspaceIds, write_whole

DELETED = 2
"""The ``state`` of a deleted job (docs/dbt-cloud-api.md, fact 36)."""

logger = logging.getLogger("dagster_dbtcloud")


@dataclass(frozen=True)
class KnownJob:
    """What a definition keeps of a job: its id, name, commands, what starts it, and where it is."""

    id: int
    name: str
    steps: tuple[str, ...]
    starts: tuple[str, ...] = ()
    project_id: int = 0
    environment_id: int = 0

    @classmethod
    def of(cls, job: Job) -> KnownJob:
        return cls(
            job.id,
            job.name,
            job.execute_steps,
            own_starts(job),
            job.project_id or 0,
            job.environment_id or 0,
        )

    def is_meant(self, job: Value) -> bool:
        """Whether ``find_job`` would have given this job for an id, digits, a name or a URL."""
        text = required_text(job, "The dbt Cloud job")
        if text.isascii() and text.isdigit():
            return int(text) == self.id
        if is_url(text):
            return parse_url(text).job_id == self.id
        return text.casefold() == self.name.casefold()

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> KnownJob | None:
        """Return the job; None when the text is not one."""
        try:
            raw = json.loads(text)
            return cls(
                int(raw["id"]),
                str(raw["name"]),
                tuple(map(str, raw["steps"])),
                tuple(map(str, raw["starts"])),
                int(raw["project_id"]),
                int(raw["environment_id"]),
            )
        except (ValueError, KeyError, TypeError):
            return None


def known_job(
    job: Value,
    *,
    key: str,
    cache_dir: Path,
    fetch: Callable[[str], Job],
) -> KnownJob:
    """Return a job as this code location was built from it.

    Order: what the code server remembered (in run workers and step processes); dbt Cloud, through
    ``fetch``; when it gives no answer, what the cache holds, with a warning.

    Raises: ConfigError; ApiError, when dbt Cloud gives no answer and nothing is cached.
    """
    text = required_text(job, "The dbt Cloud job")
    name = f"{key}/{sha256(text.encode()).hexdigest()[:16]}"
    memory, path = f"dagster_dbtcloud/job/{name}", cache_dir / "jobs" / f"{name}.json"
    remembered = _dagster_private.recall(memory)
    known = None if remembered is None else KnownJob.from_json(remembered)
    if known is not None:
        return known
    try:
        known = KnownJob.of(fetch(text))
    except ApiError as error:
        known = _cached(path)
        if known is None:
            raise
        logger.warning(
            "dbt Cloud gives no answer about the job %s (%s); the job as it was serves instead.",
            text,
            error,
        )
    else:
        _keep(path, known)
    _dagster_private.remember(memory, known.to_json())
    return known


def _cached(path: Path) -> KnownJob | None:
    try:
        return KnownJob.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def _keep(path: Path, job: KnownJob) -> None:
    try:
        write_whole(path, job.to_json().encode())
    except OSError as error:
        logger.warning("The cache %s cannot be written: %s", path.parent, error)


def find_job(client: DbtCloudClient, ids: WorkspaceIds, job: Value) -> Job:
    """Return the job that an id, digits, a name or a dbt Cloud URL means, fit to be triggered.

    A name is looked for in the workspace's environment, without regard to case.

    Raises: ConfigError, for a job that does not exist, is deleted or deactivated, or belongs to
    another account, project or environment; ApiError.
    """
    text = required_text(job, "The dbt Cloud job")
    if text.isascii() and text.isdigit():
        return _usable(job_of_id(client, int(text)), ids)
    if is_url(text):
        url = checked_url(text, client, "job")
        if url.job_id is None:
            raise ConfigError(f"{text} is not the address of a dbt Cloud job.")
        return _usable(job_of_id(client, url.job_id), ids)
    return _usable(_by_name(client, ids, text), ids)


def checked_url(text: str, client: DbtCloudClient, what: str) -> DbtCloudUrl:
    """Read a pasted URL. Raises: ConfigError, when it is of another dbt Cloud or account."""
    url = parse_url(text)
    if url.account_id is not None and url.account_id != client.account_id:
        raise ConfigError(
            f"The {what} {text} belongs to account {url.account_id}, and this workspace is of "
            f"account {client.account_id} at {client.access_url}."
        )
    return url


def job_of_id(client: DbtCloudClient, job_id: int) -> Job:
    """Return a job of the account. Raises: ConfigError, when there is none; ApiError."""
    try:
        return client.job(job_id)
    except NotFoundError as error:
        raise ConfigError(
            f"Account {client.account_id} has no job {job_id} that the token may see (it may have "
            f"been deleted, or be another account's): {error}"
        ) from error


def _by_name(client: DbtCloudClient, ids: WorkspaceIds, name: str) -> Job:
    listed = list(client.jobs(project_id=ids.project_id, name_contains=name))
    found = [job for job in listed if job.name.casefold() == name.casefold()]
    here = [job for job in found if job.environment_id == ids.environment_id]
    if len(here) == 1 or (not here and len(found) == 1):
        return (here or found)[0]
    where = f"environment {ids.environment_id} of project {ids.project_id}"
    if here:
        raise ConfigError(
            f"There are {len(here)} jobs named {name!r} in {where}: {_listed(here)}. "
            "Give the job's id or URL."
        )
    others = client.jobs(project_id=ids.project_id, environment_id=ids.environment_id)
    raise ConfigError(
        f"There is no job named {name!r} in {where} (as far as the token may see). "
        f"There are: {_listed(others)}."
    )


def _listed(jobs: Iterable[Job]) -> str:
    return ", ".join(f"{job.name!r} ({job.id})" for job in jobs) or "none"


def _usable(job: Job, ids: WorkspaceIds) -> Job:
    name = f"The dbt Cloud job {job.name!r} ({job.id})"
    if job.project_id != ids.project_id:
        raise ConfigError(
            f"{name} belongs to project {job.project_id}, and this workspace is of project "
            f"{ids.project_id}. Use a DbtCloudWorkspace of that project."
        )
    if job.environment_id != ids.environment_id:
        raise ConfigError(
            f"{name} belongs to environment {job.environment_id}, and this workspace is of "
            f"environment {ids.environment_id}. Use a DbtCloudWorkspace of that environment."
        )
    if job.state == DELETED:
        raise ConfigError(f"{name} is deleted in dbt Cloud.")
    if job.deactivated:
        raise ConfigError(
            f"{name} is deactivated in dbt Cloud, as jobs are that failed too often. Mend it, and "
            "activate it by a run or an edit in dbt Cloud."
        )
    return job


def own_starts(job: Job) -> tuple[str, ...]:
    """Say what starts this job in dbt Cloud besides Dagster; empty when nothing does."""
    triggers = job.triggers
    names = {
        "schedule": "its schedule",
        "github_webhook": "pull requests",
        "git_provider_webhook": "pull requests",
        "on_merge": "merges",
    }
    starts = [said for trigger, said in names.items() if triggers.get(trigger)]
    if job.job_completion_trigger_condition:
        starts.append("the end of another job")
    return tuple(dict.fromkeys(starts))


def mute(client: DbtCloudClient, job_id: int) -> bool:
    """Take a job's schedule off, and nothing else; False when it was off already.

    Raises: ApiError.
    """
    job = client.job(job_id)
    if not job.triggers.get("schedule"):
        return False
    client.update_job(job, triggers={**job.triggers, "schedule": False})
    return True
