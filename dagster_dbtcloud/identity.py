"""From what users write (ids, digits, names, URLs, ``EnvVar``) to the ids dbt Cloud wants.

It decides nothing about runs or manifests, and sends a request only where a name has to be looked
up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar, runtime_checkable

from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import Environment, Project
from dagster_dbtcloud.cloud.urls import DbtCloudUrl, is_url, parse_url
from dagster_dbtcloud.errors import ConfigError, NotFoundError
from dagster_dbtcloud.state import WorkspaceIds

Value = object
"""An int, a string of digits, a name, a dbt Cloud URL, a ``dagster.EnvVar``, or None."""


@runtime_checkable
class _EnvVar(Protocol):
    """``dagster.EnvVar`` and its int form, which Dagster does not export."""

    @property
    def env_var_name(self) -> str: ...

    def get_value(self) -> object: ...


def text_of(value: Value, what: str) -> str | None:
    """Return a value as text, an ``EnvVar`` resolved; None when it is not given.

    Raises: ConfigError, when the environment variable is not set.
    """
    if isinstance(value, _EnvVar):
        resolved = value.get_value()
        if resolved is None or not str(resolved).strip():
            raise ConfigError(
                f"{what} comes from the environment variable {value.env_var_name}, which is not "
                "set in this process."
            )
        return str(resolved).strip()
    if value is None or isinstance(value, bool):
        return None
    return str(value).strip() or None


def required_text(value: Value, what: str) -> str:
    """Return a value as text.

    Raises: ConfigError, when it is missing.
    """
    text = text_of(value, what)
    if text is None:
        raise ConfigError(
            f"{what} is missing. If it comes from os.getenv(...), the environment variable is not "
            "set in this process."
        )
    return text


def raw_key(*values: Value) -> str:
    """Return a text that names a configuration without looking anything up.

    An ``EnvVar`` counts by its value where it is set, so that two processes agree.
    """
    parts = []
    for value in values:
        if isinstance(value, _EnvVar):
            value = value.get_value()
        parts.append("" if value is None else str(value).strip())
    return "|".join(parts)


def safe_name(value: Value) -> str:
    """Return ``value`` as a part of a Dagster name; an ``EnvVar`` by its variable's name.

    It never resolves an ``EnvVar``: a definition's name must not depend on the machine.
    """
    text = value.env_var_name if isinstance(value, _EnvVar) else str(value)
    return "".join(letter if letter.isalnum() else "_" for letter in text).strip("_")[:80]


def resolve(
    *,
    access_url: Value,
    account: Value,
    project: Value,
    environment: Value,
    client: Callable[[str, int], DbtCloudClient],
) -> WorkspaceIds:
    """Return the ids of a workspace; ids given as numbers cost no request.

    A dbt Cloud URL given for any of them tells the others, as far as they are not given. Without
    an environment: that of the URL's job, else the project's production environment.
    ``client`` makes a client for (access URL, account id).

    Raises: ConfigError, naming what is wrong and what there is; ApiError.
    """
    account_text = required_text(account, "The dbt Cloud account id (account_id)")
    project_text = required_text(project, "The dbt Cloud project id (project_id)")
    environment_text = text_of(environment, "The dbt Cloud environment id (environment_id)")
    url_text = required_text(access_url, "The access URL (access_url)")
    urls = [
        parse_url(text)
        for text in (environment_text, project_text, account_text, url_text)
        if text and is_url(text)
    ]
    host = next((url.access_url for url in urls if url.account_id is not None), url_text)

    account_id = _digits(account_text) or _first(urls, lambda url: url.account_id)
    if account_id is None:
        account_id = _account_by_name(account_text, client(host, 0))
    with client(host, account_id) as cloud:
        project_id = _digits(project_text) or _first(urls, lambda url: url.project_id)
        if project_id is None:
            project_id = _by_name(
                project_text, cloud.projects(), "project", f"account {account_id}"
            ).id
        environment_id = _digits(environment_text) or _first(urls, lambda url: url.environment_id)
        if environment_id is None:
            environment_id = _environment(cloud, project_id, environment_text, urls)
        return WorkspaceIds(cloud.access_url, account_id, project_id, environment_id)


def _environment(
    cloud: DbtCloudClient, project_id: int, text: str | None, urls: Iterable[DbtCloudUrl]
) -> int:
    if text is None or is_url(text):
        job_id = _first(urls, lambda url: url.job_id)
        if job_id is not None:
            job = cloud.job(job_id)
            if job.environment_id is not None:
                return job.environment_id
        return _production(_environments(cloud, project_id), project_id).id
    listed = _environments(cloud, project_id)
    return _by_name(text, listed, "environment", f"project {project_id}").id


def _environments(cloud: DbtCloudClient, project_id: int) -> list[Environment]:
    try:
        return list(cloud.environments(project_id))
    except NotFoundError as error:
        raise ConfigError(
            f"Account {cloud.account_id} has no project {project_id} that the token may see: "
            f"{error}"
        ) from error


def _production(environments: list[Environment], project_id: int) -> Environment:
    production = [each for each in environments if each.deployment_type == "production"]
    deployment = [each for each in environments if each.type == "deployment"]
    for choice in (production, deployment):
        if len(choice) == 1:
            return choice[0]
    raise ConfigError(
        f"Project {project_id} has {len(production)} production environments, so environment_id "
        f"must be given. There are: {_listed(environments)}."
    )


def _account_by_name(name: str, cloud: DbtCloudClient) -> int:
    with cloud:
        accounts = list(cloud.accounts())
    found = [each for each in accounts if (each.name or "").casefold() == name.casefold()]
    if len(found) != 1:
        listed = ", ".join(f"{each.name!r} ({each.id})" for each in accounts) or "none"
        raise ConfigError(
            f"The token sees {len(found)} accounts named {name!r}. It sees: {listed}. "
            "Give account_id as a number."
        )
    return found[0].id


_Named = TypeVar("_Named", Project, Environment)


def _by_name(name: str, candidates: Iterable[_Named], what: str, where: str) -> _Named:
    listed = list(candidates)
    found = [each for each in listed if (each.name or "").casefold() == name.casefold()]
    if len(found) == 1:
        return found[0]
    how_many = f"is no {what}" if not found else f"are {len(found)} {what}s"
    raise ConfigError(
        f"There {how_many} named {name!r} in {where} (as far as the token may see). "
        f"There are: {_listed(listed)}."
    )


def _listed(items: Iterable[Project | Environment]) -> str:
    return ", ".join(f"{item.name!r} ({item.id})" for item in items) or "none"


def _digits(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _first(urls: Iterable[DbtCloudUrl], get: Callable[[DbtCloudUrl], int | None]) -> int | None:
    return next((value for url in urls if (value := get(url)) is not None), None)
