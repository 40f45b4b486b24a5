"""The options that every command for dbt Cloud has, and what is made of them: a ``Connection``.

A token is read from the environment, a file, standard input or a question on the terminal; there
is no option that takes it, since every user of a machine can read the options of its processes.
Nothing is sent before a command asks for something.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from dagster_dbtcloud.cli.profile import DEFAULT_FILE, Profile, read_profile
from dagster_dbtcloud.clock import Clock, SystemClock
from dagster_dbtcloud.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    from dagster_dbtcloud.cloud.client import DbtCloudClient
    from dagster_dbtcloud.cloud.models import Job
    from dagster_dbtcloud.state import State, WorkspaceIds

DEFAULT_ACCESS_URL = "https://cloud.getdbt.com"

TOKEN_VARIABLES = (
    "DBT_CLOUD_TOKEN",
    "DBT_CLOUD_API_TOKEN",
    "DBT_CLOUD_AUTH_TOKEN",
    "DBT_CLOUD_API_KEY",
)
URL_VARIABLES = (
    "DBT_CLOUD_ACCESS_URL",
    "DBT_CLOUD_HOST",
    "DBT_CLOUD_ACCOUNT_HOST",
    "DBT_CLOUD_HOST_URL",
)

RETRY_SECONDS = 60.0
"""How long one request is tried again, where a person or a script waits for the answer."""
LEAVE_SECONDS = 4.0
"""How long we try to cancel a run that is being left: within 5 s, all is over."""

_Command = TypeVar("_Command", bound=Callable[..., object])


@dataclass(frozen=True)
class Tools:
    """What a test may hold; a command finds it as its context's object."""

    clock: Clock = field(default_factory=SystemClock)


@dataclass
class Connection:
    """An account of dbt Cloud, and the project and environment that the options name, if any.

    Values are as users write them: ids, names, URLs. They are looked up when first needed.
    """

    access_url: str | None
    account: str | None
    project: str | None
    environment: str | None
    clock: Clock
    token: Callable[[], str] = field(repr=False)
    adhoc_job_name: str | None = None
    _account_id: int | None = field(default=None, repr=False)
    _token: str | None = field(default=None, repr=False)
    _ids: WorkspaceIds | None = field(default=None, repr=False)

    def get_client(
        self, *, retry_for: float = RETRY_SECONDS, timeout: float = 30.0
    ) -> DbtCloudClient:
        """Return a client of the account; the caller closes it. Raises: ConfigError, ApiError."""
        return self._client(self._host(), self.account_id(), retry_for, timeout)

    def leaving_client(self) -> DbtCloudClient:
        """Return a client for the last seconds: to cancel a run that nobody will watch."""
        return self.get_client(retry_for=LEAVE_SECONDS, timeout=LEAVE_SECONDS)

    def get_clock(self) -> Clock:
        return self.clock

    def account_id(self) -> int:
        """Return the account's id: as given, from a URL that was given, or the token's only one.

        Raises: ConfigError, listing what accounts there are; ApiError.
        """
        if self._account_id is None:
            self._account_id = self._find_account()
        return self._account_id

    def project_id(self, client: DbtCloudClient) -> int | None:
        """Return the project's id, None when no option names one. Raises: ConfigError."""
        from dagster_dbtcloud.cloud.urls import is_url, parse_url

        for text in (self.project, self.environment):
            if text and is_url(text) and (found := parse_url(text).project_id) is not None:
                return found
        if self.project is None or self.project.isdecimal():
            return int(self.project) if self.project else None
        listed = [(each.id, each.name) for each in client.projects()]
        return pick(self.project, listed, "project", f"account {self.account_id()}")

    def environment_id(self, client: DbtCloudClient) -> int | None:
        """Return the environment's id, None when no option names one. Raises: ConfigError."""
        from dagster_dbtcloud.cloud.urls import is_url, parse_url

        if self.environment is None or self.environment.isdecimal():
            return int(self.environment) if self.environment else None
        if is_url(self.environment):
            return parse_url(self.environment).environment_id
        project = self.project_id(client)
        projects = [project] if project is not None else [each.id for each in client.projects()]
        listed = [(each.id, each.name) for one in projects for each in client.environments(one)]
        where = f"project {project}" if project is not None else f"account {self.account_id()}"
        return pick(self.environment, listed, "environment", where)

    def ids(self) -> WorkspaceIds:
        """Return the ids of the one environment that is meant: the named one, else production.

        Raises: ConfigError, saying what there is; ApiError.
        """
        from dagster_dbtcloud.cloud.urls import is_url
        from dagster_dbtcloud.identity import resolve

        if self._ids is None:
            by_url = self.environment if is_url(self.environment or "") else None
            self._ids = resolve(
                access_url=self._host(),
                account=str(self.account_id()),
                project=self.project or by_url or str(self._only_project()),
                environment=self.environment,
                client=lambda url, account: self._client(url, account, RETRY_SECONDS, 30.0),
            )
        return self._ids

    def find_state(self) -> State | None:
        """Return the environment's newest production manifest, None when no run has one.

        Raises: StateError, ManifestError, ConfigError.
        """
        from dagster_dbtcloud.state import ManifestCache, StateSource, default_cache_dir, find_state

        ids = self.ids()
        key = sha256(
            f"{ids.access_url}|{ids.account_id}|{ids.project_id}|{ids.environment_id}".encode()
        ).hexdigest()[:24]
        cache = ManifestCache(default_cache_dir())

        def no_parse(_: object) -> Any:
            raise AssertionError("looking for a manifest starts nothing")

        source = StateSource(
            key=key,
            resolve=self.ids,
            client=lambda _: self.get_client(),
            parse=no_parse,
            cache=cache,
            clock=self.clock,
        )
        state = find_state(source)
        if state is not None and state.pointer is not None and state.warning is None:
            cache.set_last_good(key, state.pointer)
        return state

    def find_job(self, client: DbtCloudClient, text: str) -> Job:
        """Return the job of an id, a name or a URL.

        Raises: ConfigError, when there is none or more than one; ApiError.
        """
        from dagster_dbtcloud.cloud.urls import parse_url

        job_id = int(text) if text.isdecimal() else None
        if job_id is None and "://" in text:
            job_id = parse_url(text).job_id
            if job_id is None:
                raise ConfigError(
                    f"{text} is not the address of a job; open the job in dbt Cloud and copy its "
                    "address, or give its id or name."
                )
        if job_id is not None:
            try:
                return client.job(job_id)
            except NotFoundError as error:
                raise ConfigError(
                    f"There is no job {job_id} in account {client.account_id} that the token may "
                    "see; `dagster-dbtcloud jobs` lists them."
                ) from error
        project, environment = self.project_id(client), self.environment_id(client)
        jobs = list(client.jobs(project_id=project, environment_id=environment))
        found = pick(text, [(job.id, job.name) for job in jobs], "job", self._where(client))
        return next(job for job in jobs if job.id == found)

    def _only_project(self) -> int:
        with self.get_client() as client:
            listed = [(each.id, each.name) for each in client.projects()]
        if len(listed) == 1:
            return listed[0][0]
        raise self.which_project(listed)

    def which_project(self, listed: list[tuple[int, str]]) -> ConfigError:
        """Return what to say when a project is needed and ``listed`` are to choose from."""
        return ConfigError(
            "Which project? Give --project-id, or set DBT_CLOUD_PROJECT_ID. "
            f"Account {self.account_id()} has: {_listed(listed)}."
        )

    def learn(self, text: str) -> None:
        """Take host and account from a pasted address, as far as no option tells them.

        Raises: ConfigError, when an option tells another one, or the host is nobody's we know: the
        token would go astray.
        """
        from dagster_dbtcloud.cloud.urls import is_loopback, normalize_access_url, parse_url

        if "://" not in text:
            return
        url = parse_url(text)
        if self.access_url is None:
            host = urlsplit(url.access_url).hostname or ""
            if not (host.endswith((".dbt.com", ".getdbt.com")) or is_loopback(host)):
                raise ConfigError(
                    f"{host} is not one of dbt Cloud's own addresses; if it is yours, say so with "
                    "--access-url, and the token is sent there."
                )
            self.access_url = url.access_url
        elif normalize_access_url(self.access_url) != url.access_url:
            raise ConfigError(
                f"{text} is of another dbt Cloud than {normalize_access_url(self.access_url)}; set "
                "--access-url, and a token of that one."
            )
        if url.account_id is None:
            return
        if self.account is None:
            self.account = str(url.account_id)
        elif self.account.isdecimal() and int(self.account) != url.account_id:
            raise ConfigError(
                f"{text} is of account {url.account_id}, not {self.account}; set --account-id."
            )

    def get_token(self) -> str:
        """Return the token; only a client or a file of the user's gets it. Raises: ConfigError."""
        if self._token is None:
            self._token = self.token()
        return self._token

    def knows_account(self) -> bool:
        """Whether options or URLs name the account."""
        return self._account_in_options() is not None or bool(self.account)

    def knows_host(self) -> bool:
        """Whether options or URLs tell the address."""
        named = (self.account, self.project, self.environment)
        return bool(self.access_url) or any("://" in (text or "") for text in named)

    def accounts(self) -> list[tuple[int, str]]:
        """Return the ids and names of the accounts that the token sees. Raises: ApiError."""
        with self._client(self._host(), 0, RETRY_SECONDS, 30.0) as client:
            return [(each.id, each.name) for each in client.accounts()]

    def _where(self, client: DbtCloudClient) -> str:
        given = [("environment", self.environment), ("project", self.project)]
        named = [f"{what} {value}" for what, value in given if value]
        return named[0] if named else f"account {client.account_id}"

    def _client(self, url: str, account: int, retry: float, timeout: float) -> DbtCloudClient:
        from dagster_dbtcloud.cloud.client import DbtCloudClient

        return DbtCloudClient(
            account_id=account,
            token=self.get_token(),
            access_url=url,
            clock=self.clock,
            timeout=timeout,
            retry_for=retry,
            user_agent_suffix="cli",
        )

    def _host(self) -> str:
        """Return the address: that of a URL given for the account or project, else the option's."""
        from dagster_dbtcloud.cloud.urls import parse_url

        for text in (self.account, self.project, self.environment):
            if text and "://" in text:
                return parse_url(text).access_url
        return self.access_url or DEFAULT_ACCESS_URL

    def _account_in_options(self) -> int | None:
        from dagster_dbtcloud.cloud.urls import is_url, parse_url

        if self.account and self.account.isdecimal():
            return int(self.account)
        for text in (self.account, self.project, self.environment, self.access_url):
            if text and is_url(text) and (found := parse_url(text).account_id) is not None:
                return found
        return None

    def _find_account(self) -> int:
        given = self._account_in_options()
        if given is not None:
            return given
        listed = self.accounts()
        if self.account:
            return pick(self.account, listed, "account", "what the token sees")
        if len(listed) == 1:
            return listed[0][0]
        raise ConfigError(
            "Which account? Give --account-id, or set DBT_CLOUD_ACCOUNT_ID. The token sees: "
            f"{_listed(listed)}."
        )


def pick(name: str, candidates: list[tuple[int, str]], what: str, where: str) -> int:
    """Return the id of the only candidate of this name, whatever its capitals.

    Raises: ConfigError, listing what there is.
    """
    found = [each for each in candidates if each[1] == name] or [
        each for each in candidates if each[1].casefold() == name.casefold()
    ]
    if len(found) == 1:
        return found[0][0]
    if found:
        raise ConfigError(
            f"{len(found)} {what}s in {where} are named {name!r}; give an id: {_listed(found)}."
        )
    raise ConfigError(f"There is no {what} {name!r} in {where}. There are: {_listed(candidates)}.")


def _listed(items: list[tuple[int, str]]) -> str:
    shown = ", ".join(f"{name} ({number})" for number, name in items[:20])
    more = f" and {len(items) - 20} more" if len(items) > 20 else ""
    return f"{shown}{more}" if items else "none"


def run_id_of(cloud: Connection, text: str) -> int:
    """Return the id in ``text``: digits, or a run's URL, which may tell the account as well.

    Raises: ConfigError.
    """
    from dagster_dbtcloud.cloud.urls import parse_url

    found = int(text) if text.isdecimal() else None
    if found is None and "/" in text:
        found = parse_url(text).run_id
    if found is None:
        raise ConfigError(
            f"{text!r} is not a run: give its id or its address in dbt Cloud; "
            "`dagster-dbtcloud runs` lists them."
        )
    cloud.learn(text)
    return found


def connected(command: _Command) -> _Command:
    """Give a command the options of a connection, and the ``Connection`` as first argument."""

    @click.option(
        "--account-id",
        envvar="DBT_CLOUD_ACCOUNT_ID",
        show_envvar=True,
        metavar="ID|NAME|URL",
        help="The account; left out: the only one that the token sees.",
    )
    @click.option(
        "--project-id",
        envvar="DBT_CLOUD_PROJECT_ID",
        show_envvar=True,
        metavar="ID|NAME|URL",
        help="The project.",
    )
    @click.option(
        "--environment-id",
        envvar="DBT_CLOUD_ENVIRONMENT_ID",
        show_envvar=True,
        metavar="ID|NAME|URL",
        help="The environment.",
    )
    @click.option(
        "--access-url",
        envvar=URL_VARIABLES,
        show_envvar=True,
        metavar="URL",
        help=f"The address of your dbt Cloud.  [default: {DEFAULT_ACCESS_URL}]",
    )
    @click.option(
        "--token-file",
        type=click.Path(dir_okay=False, allow_dash=True),
        help="A file that holds the token; - reads standard input.  "
        f"[env var: {', '.join(TOKEN_VARIABLES)} hold the token itself]",
    )
    @click.option(
        "--profile-file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="DBT_CLOUD_PROFILE_FILE",
        show_envvar=True,
        help=f"dbt's credentials file. {DEFAULT_FILE} is read when there is no token elsewhere.",
    )
    @click.pass_context
    @functools.wraps(command)
    def connect(
        ctx: click.Context,
        /,
        *args: Any,
        account_id: str | None,
        project_id: str | None,
        environment_id: str | None,
        access_url: str | None,
        token_file: str | None,
        profile_file: Path | None,
        **kwargs: Any,
    ) -> object:
        given = {
            "account_id": account_id,
            "project_id": project_id,
            "environment_id": environment_id,
            "access_url": access_url,
        }
        cloud = _connection(ctx, given, token_file, profile_file)
        return command(cloud, *args, **kwargs)

    return connect  # type: ignore[return-value]  # the options are click's business


def _connection(
    ctx: click.Context, given: dict[str, str | None], token_file: str | None, file: Path | None
) -> Connection:
    """Put the sources in order: options, a profile file that is named, environment, dbt's own."""
    token = None if token_file else _token_of_environment()
    profile = None
    if file is not None or (not token and not token_file and DEFAULT_FILE.expanduser().is_file()):
        profile = read_profile(file or DEFAULT_FILE, project=given["project_id"])
        named = file is not None

        def filled(name: str, value: str | None) -> str | None:
            by_hand = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
            own = given[name]
            return own if own and (by_hand or not named) else value or own

        given = {
            **given,
            "account_id": filled("account_id", profile.account_id),
            "project_id": filled("project_id", profile.project_id),
            "access_url": filled("access_url", profile.host),
        }
        if named and not token_file:
            token = None
    tools = ctx.find_object(Tools) or Tools()
    return Connection(
        access_url=given["access_url"],
        account=given["account_id"],
        project=given["project_id"],
        environment=given["environment_id"],
        clock=tools.clock,
        token=functools.partial(_token, token, token_file, profile),
    )


def _token_of_environment() -> str | None:
    return next((value for name in TOKEN_VARIABLES if (value := os.environ.get(name))), None)


def _token(token: str | None, file: str | None, profile: Profile | None) -> str:
    """Return the token, asked for on a terminal when there is none. Raises: ConfigError."""
    if file == "-":
        token = sys.stdin.readline()
    elif file is not None:
        try:
            token = Path(file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigError(f"The token file {file} cannot be read: {reason}.") from None
    elif not token and profile is not None:
        token = profile.token
    if token and token.strip():
        return token.strip()
    if file is None and sys.stdin.isatty() and sys.stderr.isatty():
        asked: str = click.prompt("dbt Cloud token", hide_input=True, err=True)
        return asked.strip()
    raise ConfigError(
        "There is no dbt Cloud token: set DBT_CLOUD_TOKEN, or give --token-file or --profile-file."
        if file is None
        else f"The token file {file} is empty."
    )
