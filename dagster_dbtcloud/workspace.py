"""The resources: credentials, and one project and environment of dbt Cloud.

A workspace finds its manifest, builds specs from it, and starts dbt commands. It follows no run
(``invocation.py``) and defines no assets (``assets.py``).
"""

# No `from __future__ import annotations`: Dagster reads the fields' annotations as objects.

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import dagster as dg
from pydantic import Field, PrivateAttr
from typing_extensions import Unpack

from dagster_dbtcloud.clock import Clock, SystemClock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import ACTIVE_STATUSES, Job, Run, TriggerRun
from dagster_dbtcloud.commands import (
    checked,
    for_nodes,
    nodes_of_job,
    part_of_job,
    selects_itself,
    words_of,
)
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.errors import (
    ApiError,
    ApiStatusError,
    ConfigError,
    DbtCloudError,
    NotFoundError,
    StateError,
)
from dagster_dbtcloud.events import Declared, Outcome
from dagster_dbtcloud.existing_jobs import (
    KnownJob,
    checked_url,
    find_job,
    known_job,
    mute,
    own_starts,
)
from dagster_dbtcloud.following import INCLUDED, NO_LIMITS, RunLimits, follow, seconds_of
from dagster_dbtcloud.harvest import harvest, last_outcomes
from dagster_dbtcloud.identity import raw_key, required_text, resolve, safe_name
from dagster_dbtcloud.invocation import (
    Context,
    DbtCloudCliInvocation,
    OnLeave,
    Past,
    command_line,
    op_context,
)
from dagster_dbtcloud.jobs import (
    PoolMode,
    adhoc_job_names,
    check_pool,
    claim_job,
    get_or_create_job,
)
from dagster_dbtcloud.marker import Marker, read_mark
from dagster_dbtcloud.options import OptionArguments, RunOptions, gather
from dagster_dbtcloud.partitions import has_microbatches, time_window, vars_of, with_event_time
from dagster_dbtcloud.recovery import (
    FRESH,
    RetryMode,
    check_mode,
    earlier_runs,
    lineage,
    nodes_of,
    plan,
)
from dagster_dbtcloud.specs import (
    UNIQUE_ID,
    DbtSpecs,
    ProjectLinks,
    build_specs,
    compiled_paths,
    specs_of,
)
from dagster_dbtcloud.starting import abandon, retry_run, start_run
from dagster_dbtcloud.state import (
    ManifestCache,
    State,
    StateSource,
    WorkspaceIds,
    default_cache_dir,
    find_state,
    load_state,
    remembered_pointer,
)
from dagster_dbtcloud.translator import DagsterDbtTranslator
from dagster_dbtcloud.verify import Verification, verify

DEFAULT_ACCESS_URL = "https://cloud.getdbt.com"
DEFAULT_SELECT = "fqn:*"

SELECT_TAG = "dagster_dbtcloud/select"
EXCLUDE_TAG = "dagster_dbtcloud/exclude"
SELECTOR_TAG = "dagster_dbtcloud/selector"
JOB_TAG = "dagster_dbtcloud/job"
"""Op tag: the id of the dbt Cloud job that a definition's assets are of."""

_LOAD_RETRY_SECONDS = 20.0
"""A code location that loads must not hang on a dbt Cloud that is down: the cache serves."""
_FOLLOW_RETRY_SECONDS = 600.0
"""How long a run is followed blindly while dbt Cloud gives no answer."""
_LEAVE_SECONDS = 4.0
"""How long a step that is being terminated tries to cancel its run."""

_PARSE_CAUSE = "Dagster needs a manifest: no run of this environment has one"

Start = Callable[[int], Run]
"""Trigger the job with this id, or adopt the run that a trigger without an answer has made."""
Narrow = Callable[[frozenset[str]], tuple[str, ...]]
"""From nodes to the commands that run them and no others."""
Claim = Callable[[DbtCloudClient, Start], Run]
"""Choose a job and start it; see ``DbtCloudWorkspace._launch``."""

logger = logging.getLogger("dagster_dbtcloud")


@dataclass(frozen=True)
class DbtCloudCredentials:
    """Who talks to which dbt Cloud.

    - ``account_id``: an int, digits, the account's name, or a ``dagster.EnvVar``.
    - ``token``: a service token or personal access token, or a ``dagster.EnvVar``. It is in no
      ``repr``, log, error or config snapshot.
    - ``access_url``: the address of your dbt Cloud, as shown under "Access URLs" in the account
      settings, with or without scheme and path.

    Values are checked when they are first used, not here.
    """

    account_id: Any
    token: Any = field(repr=False)
    access_url: Any = DEFAULT_ACCESS_URL


class DbtCloudWorkspace(dg.ConfigurableResource[Any]):
    """One project and environment of dbt Cloud, as a Dagster resource.

    ::

        workspace = DbtCloudWorkspace(
            credentials=DbtCloudCredentials(
                account_id=dg.EnvVar("DBT_CLOUD_ACCOUNT_ID"),
                token=dg.EnvVar("DBT_CLOUD_TOKEN"),
                access_url=dg.EnvVar("DBT_CLOUD_ACCESS_URL"),
            ),
            project_id=dg.EnvVar("DBT_CLOUD_PROJECT_ID"),
        )

    ``account_id``, ``token`` and ``access_url`` may also be given here, without ``credentials``.
    Ids may be ints, digits, names, URLs copied from dbt Cloud, or ``dagster.EnvVar``.
    """

    credentials: dg.ResourceDependency[Any]
    project_id: dg.ResourceDependency[Any]
    environment_id: dg.ResourceDependency[Any]
    manifest: dg.ResourceDependency[Any]
    cache_dir: dg.ResourceDependency[Any]
    clock: dg.ResourceDependency[Any]
    adhoc_job_name: str | None = Field(
        default=None, description="The job that Dagster's commands run in; made if missing."
    )
    adhoc_job_pool_size: int = Field(
        default=1,
        ge=1,
        description="How many such jobs: dbt Cloud runs one run of a job at a time.",
    )
    adhoc_job_pool_mode: str = Field(
        default="overflow",
        description="When all are busy: overflow (dbt Cloud queues the run), wait, or fail.",
    )
    adhoc_job_pool_wait_seconds: float | None = Field(
        default=None, description="In mode wait: how long at most; without it, as long as it takes."
    )
    request_timeout: float = Field(
        default=30.0, description="Seconds that one request to dbt Cloud may take."
    )

    _ids: WorkspaceIds | None = PrivateAttr(default=None)
    _specs: dict[tuple[object, ...], DbtSpecs] = PrivateAttr(default_factory=dict)
    _held: State | None = PrivateAttr(default=None)
    _held_job: KnownJob | None = PrivateAttr(default=None)

    def __init__(
        self,
        *,
        project_id: Any,
        environment_id: Any = None,
        credentials: DbtCloudCredentials | None = None,
        account_id: Any = None,
        token: Any = None,
        access_url: Any = None,
        manifest: str | Path | Mapping[str, Any] | None = None,
        cache_dir: str | Path | None = None,
        adhoc_job_name: str | None = None,
        adhoc_job_pool_size: int = 1,
        adhoc_job_pool_mode: PoolMode = "overflow",
        adhoc_job_pool_wait_seconds: float | None = None,
        request_timeout: float = 30.0,
        request_max_retries: int | None = None,
        request_retry_delay: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Describe a workspace; nothing is looked up before it is used.

        ``environment_id`` may be left out: the project's production environment.
        ``manifest`` is a path or a parsed manifest.json, used instead of dbt Cloud's.
        ``cache_dir`` is where manifests are kept (default: below DAGSTER_HOME).
        ``request_timeout`` is in seconds. ``request_max_retries`` and ``request_retry_delay`` are
        accepted for dagster-dbt's sake and not used: retries follow a budget in seconds.

        Raises: ConfigError.
        """
        del request_max_retries, request_retry_delay
        alone = (account_id, token, access_url)
        both = credentials is not None and any(value is not None for value in alone)
        if credentials is None:
            credentials = DbtCloudCredentials(account_id, token, access_url or DEFAULT_ACCESS_URL)
        del token, alone  # no later frame of this call may show it
        if both:
            raise ConfigError(
                "Give DbtCloudWorkspace either credentials or account_id, token and access_url."
            )
        super().__init__(
            credentials=credentials,
            project_id=project_id,
            environment_id=environment_id,
            manifest=manifest,
            cache_dir=cache_dir,
            clock=clock,
            adhoc_job_name=adhoc_job_name,
            adhoc_job_pool_size=adhoc_job_pool_size,
            adhoc_job_pool_mode=adhoc_job_pool_mode,
            adhoc_job_pool_wait_seconds=adhoc_job_pool_wait_seconds,
            request_timeout=request_timeout,
        )

    def __repr__(self) -> str:
        # Also shown for one whose making failed half way, in a traceback with locals.
        names = ("project_id", "environment_id")
        shown = (f"{name}={safe_name(getattr(self, name, None))!r}" for name in names)
        return f"DbtCloudWorkspace({', '.join(shown)})"

    __str__ = __repr__

    # --- identity

    @property
    def unique_id(self) -> str:
        """A name that needs no look-up: an ``EnvVar`` counts by its variable's name."""
        project, environment = safe_name(self.project_id), safe_name(self.environment_id)
        return project if environment == "None" else f"{project}-{environment}"

    @property
    def state_key(self) -> str:
        """The name of this workspace's state: from its configuration alone, without secrets."""
        text = raw_key(
            self.credentials.access_url,
            self.credentials.account_id,
            self.project_id,
            self.environment_id,
        )
        return sha256(text.encode()).hexdigest()[:24]

    def ids(self) -> WorkspaceIds:
        """Return the workspace's ids, names looked up once.

        Raises: ConfigError; ApiError, when a name has to be looked up and was never before.
        """
        if self._ids is None:
            pointer = remembered_pointer(self.state_key)
            self._ids = pointer.ids if pointer is not None else self._resolve()
        return self._ids

    def _resolve(self) -> WorkspaceIds:
        try:
            return resolve(
                access_url=self.credentials.access_url,
                account=self.credentials.account_id,
                project=self.project_id,
                environment=self.environment_id,
                client=lambda url, account: self._client(url, account, _LOAD_RETRY_SECONDS),
            )
        except ApiError:
            known = self._cache().last_good(self.state_key)
            if known is None:
                raise
            return known.ids

    # --- clients

    def get_client(self, *, retry_for: float = _FOLLOW_RETRY_SECONDS) -> DbtCloudClient:
        """Return a client for this workspace's account. The caller closes it.

        ``retry_for`` is the budget in seconds for the retries of one request.

        Raises: ConfigError, when a value is missing; ApiError, when a name cannot be looked up.
        """
        return self._client_for(self.ids(), retry_for)

    def _client_for(
        self,
        ids: WorkspaceIds,
        retry_for: float,
        *,
        timeout: float | None = None,
        log: logging.Logger | None = None,
    ) -> DbtCloudClient:
        return self._client(ids.access_url, ids.account_id, retry_for, timeout=timeout, log=log)

    def _client(
        self,
        access_url: str,
        account_id: int,
        retry_for: float,
        *,
        timeout: float | None = None,
        log: logging.Logger | None = None,
    ) -> DbtCloudClient:
        return DbtCloudClient(
            account_id=account_id,
            token=required_text(self.credentials.token, "The dbt Cloud token"),
            access_url=access_url,
            clock=self.get_clock(),
            timeout=timeout or self.request_timeout,
            retry_for=retry_for,
            logger=log,
            budget=self._cache().request_budget(access_url, account_id),
        )

    def get_clock(self) -> Clock:
        """Return the source of time: the machine's, unless a test holds one."""
        clock: Clock | None = self.clock
        return clock or SystemClock()

    # --- state

    def _cache(self) -> ManifestCache:
        own = Path(self.cache_dir).expanduser() if self.cache_dir else None
        return ManifestCache(own or default_cache_dir())

    def load_state(self, *, refresh: bool = False, retry_for: float = _LOAD_RETRY_SECONDS) -> State:
        """Return the manifest this workspace is built from, and where it came from.

        ``refresh`` asks dbt Cloud again though this process has loaded one. ``retry_for`` is the
        budget in seconds for the retries of a request. See ``state.py`` for the order in which
        manifests are looked for.

        Raises: StateError, ManifestError, ConfigError.
        """
        if self._held is not None and not refresh:
            return self._held
        return load_state(self._state_source(retry_for), refresh=refresh)

    def at_state(self, state: State, job: KnownJob | None = None) -> "DbtCloudWorkspace":
        """Return this workspace held at ``state``: it looks for another only when refreshed.

        ``job`` is what ``load_job`` gives of every job, for a definition that has one.
        """
        held = self.model_copy()
        held._held, held._held_job = state, job
        return held

    def find_state(self) -> State | None:
        """Look for the newest manifest; None when no run has one. Starts no dbt Cloud run.

        Raises: StateError, ConfigError.
        """
        return find_state(self._state_source())

    def _state_source(self, retry_for: float = _LOAD_RETRY_SECONDS) -> StateSource:
        return StateSource(
            key=self.state_key,
            resolve=self.ids,
            client=lambda ids: self._client_for(ids, retry_for),
            parse=self._parse,
            cache=self._cache(),
            clock=self.get_clock(),
            given=self.manifest,
        )

    def _parse(self, ids: WorkspaceIds) -> Run:
        """Run ``dbt parse`` in dbt Cloud and wait for it; a parse that is under way is joined."""
        clock = self.get_clock()
        trigger = TriggerRun(cause=f"{_PARSE_CAUSE} [{uuid4().hex}]", steps_override=("dbt parse",))
        with self._client_for(ids, _FOLLOW_RETRY_SECONDS) as client:
            job = get_or_create_job(client, ids, self._job_names(ids)[0], clock=clock)
            run = _parse_under_way(client, job.id)
            if run is None:
                own = start_run(client, job.id, trigger, clock=clock, log=logger.warning)
                run = _parse_under_way(client, job.id) or own
                if run.id != own.id:
                    with suppress(ApiError):  # one parse too many does no harm
                        client.cancel_run(own.id)
            *_, run = follow(client, run.id, clock=clock)
            if not run.is_success:
                raise StateError(
                    f"dbt Cloud run {run.id} could not parse the project: {run.status_name}. "
                    f"{run.status_message or ''} See {run.href}, mend the project, and reload."
                )
            return run

    def _job_names(self, ids: WorkspaceIds) -> tuple[str, ...]:
        return adhoc_job_names(ids, self.adhoc_job_name, self.adhoc_job_pool_size)

    # --- specs

    def load_specs(
        self,
        select: str = DEFAULT_SELECT,
        exclude: str = "",
        selector: str = "",
        dagster_dbt_translator: DagsterDbtTranslator | None = None,
        *,
        job: KnownJob | None = None,
    ) -> DbtSpecs:
        """Return the asset and check specs of the selected nodes; with ``job``, of those it builds.

        Raises: SelectionError, StateError, ManifestError, ConfigError.
        """
        state = self.load_state()
        steps = None if job is None else job.steps
        key = (state.manifest.digest, dagster_dbt_translator, select, exclude, selector, steps)
        specs = self._specs.get(key)
        if specs is None:
            only = None
            if job is not None:
                only = nodes_of_job(state.manifest, job.steps, job=f"{job.name!r} ({job.id})")
            specs = self._specs[key] = build_specs(
                state.manifest,
                select=select,
                exclude=exclude,
                selector=selector,
                translator=dagster_dbt_translator or DagsterDbtTranslator(),
                links=self._links(state),
                only=only,
            )
        return specs

    def load_job(self, job: int | str | dg.EnvVar, *, refresh: bool = False) -> KnownJob:
        """Return a job of dbt Cloud, by id, digits, name or URL, as definitions use it.

        All processes of a code location see the job as its code server did. When dbt Cloud gives
        no answer, the job as it was serves, with a warning. ``refresh`` asks dbt Cloud though this
        workspace is held at a state.

        Raises: ConfigError, for a job that cannot be used (see ``run_job``); ApiError.
        """

        if self._held_job is not None and not refresh:
            return self._held_job

        def fetch(text: str) -> Job:
            ids = self.ids()
            with self._client_for(ids, _LOAD_RETRY_SECONDS) as client:
                return find_job(client, ids, text)

        return known_job(job, key=self.state_key, cache_dir=self._cache().root, fetch=fetch)

    def _links(self, state: State) -> ProjectLinks | None:
        try:
            ids = state.pointer.ids if state.pointer else self.ids()
        except DbtCloudError:
            return None  # a given manifest needs no dbt Cloud, and links are an extra
        return ProjectLinks(ids.access_url, ids.account_id, ids.project_id, ids.environment_id)

    def load_asset_specs(
        self,
        select: str = DEFAULT_SELECT,
        exclude: str = "",
        selector: str = "",
        dagster_dbt_translator: DagsterDbtTranslator | None = None,
    ) -> Sequence[dg.AssetSpec]:
        """Return the asset specs of the selected nodes."""
        return self.load_specs(select, exclude, selector, dagster_dbt_translator).asset_specs

    def load_check_specs(
        self,
        select: str = DEFAULT_SELECT,
        exclude: str = "",
        selector: str = "",
        dagster_dbt_translator: DagsterDbtTranslator | None = None,
    ) -> Sequence[dg.AssetCheckSpec]:
        """Return the check specs of the selected nodes."""
        return self.load_specs(select, exclude, selector, dagster_dbt_translator).check_specs

    def verify(self) -> Verification:
        """Try all that is needed of dbt Cloud; ``print()`` the answer for a table with advice.

        Makes the ad hoc job if it is missing, and leaves no run behind. Raises nothing.
        """
        return verify(self)

    # --- running

    def cli(
        self,
        args: Sequence[str],
        dagster_dbt_translator: DagsterDbtTranslator | None = None,
        context: Context | None = None,
        *,
        on_leave: OnLeave = "cancel",
        limits: RunLimits = NO_LIMITS,
        retry: RetryMode = "auto",
        options: RunOptions | None = None,
        **overrides: Unpack[OptionArguments],
    ) -> DbtCloudCliInvocation:
        """Start a dbt command in dbt Cloud, through an ad hoc job, or the definition's own job.

        ``args`` are dbt's words without ``dbt``, one each: ``["build", "--full-refresh"]``. Inside
        a step of ``@dbt_cloud_assets`` the selection of the step's assets and checks is added,
        unless ``args`` hold a selection of their own. ``on_leave`` says what becomes of the run
        when the step is terminated or fails: ``"cancel"`` or ``"detach"``. ``limits`` says how
        long it may take. For ``options`` and ``overrides`` see ``RunOptions``; op config, run tags
        and partitions may set them, too.

        In a retry of the step, or a re-execution of the Dagster run, a dbt Cloud run that an
        earlier attempt has left behind is taken over instead of starting another. ``retry`` says
        what happens when that run failed: ``"auto"`` runs only its failed and skipped nodes again
        when Dagster was asked to go on from the failure (a retry policy, "re-execute from
        failure"), ``"on"`` in every re-execution, ``"off"`` never.

        Raises: ConfigError, SelectionError, StateError, ApiError; nothing was triggered then.
        PoolBusy, when there is no free ad hoc job and the pool's mode is not to queue.
        """
        words = checked(args)
        check_mode(retry)
        step = op_context(context)
        if overrides.get("steps_override") is not None:
            raise ConfigError(
                "cli() makes the steps of the run from its args; steps_override is for run_job() "
                "and trigger(), op config and run tags."
            )
        settings = self._options(context, overrides, options)
        check_pool(self.adhoc_job_pool_mode, self.adhoc_job_pool_wait_seconds)
        specs, declared = self._declared(step, dagster_dbt_translator)
        commands, expected = [words], frozenset[str]()
        job: int | None = None
        narrow: Narrow | None = None
        if step is not None and _runs_dbt_assets(step):
            job, wanted = _job_of(step), _wanted(step, specs)
            say = partial(
                for_nodes, specs, words=words, own=_own_selection(step), exact=job is not None
            )
            commands, expected = say(wanted)
            if not selects_itself(words) and settings.steps_override is None:

                def narrow(nodes: frozenset[str]) -> tuple[str, ...]:
                    part, _ = say(wanted & nodes or wanted)
                    return self._steps(context, specs, nodes, settings, map(command_line, part))

        if settings.steps_override is not None:
            expected = frozenset()
        steps = self._steps(context, specs, expected, settings, map(command_line, commands))
        return self._launch(
            step,
            self._from_pool(step, on_leave) if job is None else self._from_job(step, job),
            TriggerRun(cause=_cause(step), steps_override=steps, **settings.trigger_fields()),
            args=commands[0],
            declared=declared,
            expected=expected,
            on_leave=on_leave,
            limits=limits,
            retry=retry,
            manifest=specs.manifest,
            narrow=narrow,
        )

    def run_job(
        self,
        job: int | str | dg.EnvVar | None = None,
        *,
        context: Context | None = None,
        dagster_dbt_translator: DagsterDbtTranslator | None = None,
        on_leave: OnLeave = "cancel",
        limits: RunLimits = NO_LIMITS,
        retry: RetryMode = "auto",
        disable_schedule_on_trigger: bool = False,
        options: RunOptions | None = None,
        **overrides: Unpack[OptionArguments],
    ) -> DbtCloudCliInvocation:
        """Start a job that exists in dbt Cloud, by id, digits, name or URL.

        Inside a step of ``@dbt_cloud_assets(job=...)``, ``job`` may be left out. The job's own
        commands run; if the step selected only a part of the definition's assets and checks, they
        run for that part. A job that dbt Cloud also starts by itself is named in a warning;
        ``disable_schedule_on_trigger`` takes its schedule off, for good, once the run is triggered.
        The other arguments are as in ``cli``.

        Raises: ConfigError, for bad options and for a job that does not exist, is deleted or
        deactivated, or is of another account, project or environment; SelectionError, StateError,
        ApiError; nothing was triggered then.
        """
        check_mode(retry)
        step = op_context(context)
        settings = self._options(context, overrides, options)
        own = _job_of(step) if step is not None and _runs_dbt_assets(step) else None
        wanted_job = own if job is None else job
        if wanted_job is None:
            raise ConfigError(
                "run_job() got no job. Give its id, name or URL, or define the assets with "
                "@dbt_cloud_assets(job=...) and pass the context."
            )
        ids = self.ids()
        with self._client_for(ids, _LOAD_RETRY_SECONDS) as client:
            found = find_job(client, ids, wanted_job)
        specs, declared = self._declared(step, dagster_dbt_translator)
        expected: frozenset[str] = frozenset()
        lines: Sequence[str] = found.execute_steps
        name = f"{found.name!r} ({found.id})"
        narrow: Narrow | None = None
        if step is not None and _runs_dbt_assets(step) and settings.steps_override is None:
            wanted = _wanted(step, specs)
            if not wanted >= (specs.whole or frozenset()):
                lines = part_of_job(specs, lines, wanted, job=name)
                expected = wanted
            elif found.id == own:
                expected = wanted

            def narrow(nodes: frozenset[str]) -> tuple[str, ...]:
                left = wanted & nodes or wanted
                part = part_of_job(specs, found.execute_steps, left, job=name)
                return self._steps(context, specs, nodes, settings, part)

        steps = self._steps(context, specs, expected, settings, lines)
        changed = steps != found.execute_steps
        self._warn_of(found, step, disable_schedule_on_trigger)
        invocation = self._launch(
            step,
            lambda _, start: start(found.id),
            TriggerRun(
                cause=_cause(step),
                steps_override=steps if changed else None,
                **settings.trigger_fields(),
            ),
            args=words_of(steps[0]) if steps else (),
            commands=steps,
            declared=declared,
            expected=expected,
            on_leave=on_leave,
            limits=limits,
            retry=retry,
            manifest=specs.manifest,
            narrow=narrow,
        )
        if disable_schedule_on_trigger:
            try:
                self._mute(found, step)
            except BaseException:  # terminated meanwhile
                self._leave(ids, invocation.run_id, on_leave)
                raise
        return invocation

    def trigger(
        self,
        job: int | str | dg.EnvVar,
        *,
        context: Context | None = None,
        disable_schedule_on_trigger: bool = False,
        options: RunOptions | None = None,
        **overrides: Unpack[OptionArguments],
    ) -> Run:
        """Start a job that exists in dbt Cloud, as ``run_job`` does, and wait for nothing.

        The run goes on when the step ends; the polling sensor records it. ``follow`` takes the
        ``id`` of the run that is returned.

        Raises: as ``run_job``.
        """
        return self.run_job(
            job,
            context=context,
            on_leave="detach",
            retry="off",
            disable_schedule_on_trigger=disable_schedule_on_trigger,
            options=options,
            **overrides,
        ).run

    def follow(
        self,
        run_id: int | str,
        *,
        context: Context | None = None,
        dagster_dbt_translator: DagsterDbtTranslator | None = None,
        on_leave: OnLeave = "detach",
        limits: RunLimits = NO_LIMITS,
    ) -> DbtCloudCliInvocation:
        """Return any run of dbt Cloud, by id, digits or URL, to be waited for or looked at.

        It may be over already. With a ``context`` its results are recorded by that step, and not by
        the sensor again. Leaving lets it run, unless ``on_leave="cancel"``.

        Raises: ConfigError, for a run that does not exist or is of another account or project;
        StateError, ApiError.
        """
        step = op_context(context)
        specs, declared = self._declared(step, dagster_dbt_translator)
        ids = self.ids()
        client = self._client_for(ids, _FOLLOW_RETRY_SECONDS)
        with client:
            run = _run_to_follow(client, ids, str(run_id))
        commands = [step.command for step in run.run_steps if step.command]
        return self._invocation(
            step,
            run,
            args=(),
            commands=commands,
            declared=declared,
            expected=frozenset(),
            on_leave=on_leave,
            limits=limits,
            manifest=specs.manifest,
            past=Past(),
            started=False,
        )

    def _options(
        self,
        context: Context | None,
        overrides: Mapping[str, Any],
        options: RunOptions | None,
    ) -> RunOptions:
        step = op_context(context)
        if context is None or step is None:
            return gather(arguments=overrides, options=options)
        ours = _runs_dbt_assets(step)
        return gather(
            arguments=overrides,
            options=options,
            config=step.op_config,
            tags=step.run_tags,
            partition_vars=vars_of(context, step.assets_def.op.tags) if ours else None,
        )

    def _declared(
        self, step: dg.OpExecutionContext | None, translator: DagsterDbtTranslator | None
    ) -> tuple[DbtSpecs, Declared]:
        """Return the specs that a run's results are read by: the step's own, or all."""
        if step is not None and _runs_dbt_assets(step):
            specs = _declared_specs(step)
        else:
            specs = self.load_specs(dagster_dbt_translator=translator)
        declared = Declared.from_specs(specs.asset_specs, specs.check_specs)
        return specs, replace(declared, compiled_paths=compiled_paths(specs.manifest))

    def _steps(
        self,
        context: Context | None,
        specs: DbtSpecs,
        expected: frozenset[str],
        settings: RunOptions,
        lines: Iterable[str],
    ) -> tuple[str, ...]:
        """Return the commands of a run with what options and partitions add to them."""
        given = settings.steps_override
        window = None if context is None else time_window(context)
        microbatches = window is not None and has_microbatches(
            specs.manifest, expected or specs.asset_keys
        )
        steps = []
        for line in lines if given is None else given:
            words = words_of(line)
            added = settings.added_to(words)
            if given is None:
                added = with_event_time(added, window, microbatches)
            steps.append(line if added == words else command_line(added))
        return tuple(steps)

    def _from_pool(self, step: dg.OpExecutionContext | None, on_leave: OnLeave) -> Claim:
        log = logger if step is None else step.log
        ids = self.ids()

        def claim(client: DbtCloudClient, start: Start) -> Run:
            return claim_job(
                client,
                ids,
                self._job_names(ids),
                start,
                mode=self.adhoc_job_pool_mode,  # type: ignore[arg-type]  # checked there
                wait_seconds=self.adhoc_job_pool_wait_seconds,
                clock=self.get_clock(),
                log=log.info,
                leave=lambda run_id: self._leave(ids, run_id, on_leave),
            )

        return claim

    def _from_job(self, step: dg.OpExecutionContext | None, job: int) -> Claim:
        def claim(client: DbtCloudClient, start: Start) -> Run:
            found = find_job(client, self.ids(), job)
            self._warn_of(found, step, muted=False)
            return start(found.id)

        return claim

    def _warn_of(self, job: Job, step: dg.OpExecutionContext | None, muted: bool) -> None:
        starts = [said for said in own_starts(job) if not (muted and said == "its schedule")]
        if starts:
            (logger if step is None else step.log).warning(
                f"The dbt Cloud job {job.name!r} ({job.id}) is also started by "
                f"{' and '.join(starts)}: it may run twice."
            )

    def _mute(self, job: Job, step: dg.OpExecutionContext | None) -> None:
        log = logger if step is None else step.log
        try:
            with self._client_for(self.ids(), _LOAD_RETRY_SECONDS) as client:
                muted = mute(client, job.id)
            if muted:
                log.info(f"The schedule of the dbt Cloud job {job.name!r} ({job.id}) is off now.")
        except ApiError as error:
            log.warning(
                f"The schedule of the dbt Cloud job {job.name!r} ({job.id}) could not be taken "
                f"off: {error} Take it off in dbt Cloud, or the job may run twice."
            )

    def _leave(self, ids: WorkspaceIds, run_id: int, on_leave: OnLeave) -> None:
        """Cancel a run that has no invocation yet; why we leave is what counts."""
        if on_leave == "cancel":
            with suppress(DbtCloudError), self._short_client(ids) as client:
                client.cancel_run(run_id)

    def _short_client(self, ids: WorkspaceIds) -> DbtCloudClient:
        return self._client_for(ids, _LEAVE_SECONDS, timeout=_LEAVE_SECONDS)

    def _launch(
        self,
        step: dg.OpExecutionContext | None,
        claim: Claim,
        trigger: TriggerRun,
        *,
        args: Sequence[str],
        commands: Sequence[str] = (),
        declared: Declared,
        expected: frozenset[str],
        on_leave: OnLeave,
        limits: RunLimits,
        retry: RetryMode,
        manifest: Manifest,
        narrow: Narrow | None,
    ) -> DbtCloudCliInvocation:
        """Start one run, tie it to the step, and return the invocation that follows it.

        ``claim`` chooses the job: it is given a client and a function that triggers a job by its
        id (or adopts the run that an unclear trigger has made), and returns the run that is ours.
        ``narrow`` gives the commands that run only the given nodes, for a retry; None where there
        are none. ``commands`` are those of the job, for a trigger that brings none.

        Raises: whatever ``claim`` raises; ApiError.
        """
        ids, clock = self.ids(), self.get_clock()
        log = logger if step is None else step.log
        client = self._client_for(ids, seconds_of(limits.outage) or _FOLLOW_RETRY_SECONDS, log=log)

        @contextmanager
        def abandoning(job_id: int | None, retrying: int | None = None) -> Iterator[None]:
            try:
                yield
            except Exception:
                raise
            except BaseException:  # terminated while the trigger was on its way
                if on_leave == "cancel":
                    abandon(self._short_client(ids), job_id, trigger.cause, retrying=retrying)
                raise

        def start(job_id: int) -> Run:
            with abandoning(job_id):
                return start_run(client, job_id, trigger, clock=clock, log=log.warning)

        with client:
            line = None if step is None else lineage(step, _step_key(step), now=clock.now())
            todo = FRESH
            mark = read_mark(trigger.cause)
            commands = trigger.steps_override or tuple(commands)
            earlier: tuple[Run, ...] = ()
            if line is not None and mark is not None:
                earlier = earlier_runs(client, ids, mark, line)
                todo = plan(
                    earlier=earlier,
                    mark=mark,
                    line=line,
                    mode=retry,
                    commands=commands,
                    wanted=expected,
                    can_narrow=narrow is not None,
                    now=clock.now(),
                    outcomes_of=lambda run: _outcomes_of(client, run, declared, log.warning),
                    covers=lambda run, nodes: bool(nodes) and nodes <= nodes_of(manifest, run),
                    log=log.warning,
                )
            if todo.reason:
                log.info(todo.reason)
            run = todo.adopt
            if run is None and todo.retry_of is not None:
                with abandoning(todo.retry_of.job_id, todo.retry_of.id):
                    run = _retried(client, todo.retry_of, clock, log.warning)
            if run is None:
                if todo.remaining is not None and narrow is not None:
                    narrowed = narrow(todo.remaining)
                    trigger = trigger.model_copy(update={"steps_override": narrowed})
                run = claim(client, start)
        return self._invocation(
            step,
            run,
            args=args,
            commands=trigger.steps_override or commands,
            declared=declared,
            expected=expected,
            on_leave=on_leave,
            limits=limits,
            manifest=manifest,
            past=Past(
                settled=todo.settled,
                taken_over=todo.adopt is not None,
                dagster_run_ids=line.dagster_run_ids if line else (),
                since=min((each.created_at for each in earlier if each.created_at), default=None),
            ),
            started=todo.adopt is None,
        )

    def _invocation(
        self,
        step: dg.OpExecutionContext | None,
        run: Run,
        *,
        args: Sequence[str],
        commands: Sequence[str],
        declared: Declared,
        expected: frozenset[str],
        on_leave: OnLeave,
        limits: RunLimits,
        manifest: Manifest,
        past: Past,
        started: bool,
    ) -> DbtCloudCliInvocation:
        ids = self.ids()
        invocation = DbtCloudCliInvocation(
            args=args,
            commands=commands,
            run=run,
            client=self._client_for(
                ids,
                seconds_of(limits.outage) or _FOLLOW_RETRY_SECONDS,
                log=logger if step is None else step.log,
            ),
            short_client=lambda: self._short_client(ids),
            clock=self.get_clock(),
            declared=declared,
            context=step,
            manifest=manifest,
            expected=expected,
            on_leave=on_leave,
            limits=limits,
            past=past,
        )
        invocation.announce(started=started)
        return invocation


def _retried(
    client: DbtCloudClient, run: Run, clock: Clock, log: Callable[[str], None]
) -> Run | None:
    """Let dbt Cloud retry a run; None when it refuses, though it had said that it could."""
    try:
        return retry_run(client, run, clock=clock, log=log)
    except ApiStatusError as error:
        if error.status_code >= 500 or error.status_code in (401, 429):
            raise
        log(f"dbt Cloud did not retry run {run.id} ({error}); running its failed nodes anew.")
        return None


def _outcomes_of(
    client: DbtCloudClient, run: Run, declared: Declared, log: Callable[[str], None]
) -> Sequence[Outcome]:
    """Return what an earlier attempt's run did; nothing when it cannot be had."""
    try:
        found = harvest(client, client.run(run.id, include=INCLUDED))
    except DbtCloudError as error:
        log(f"The results of dbt Cloud run {run.id} cannot be had: {error}")
        return ()
    return last_outcomes(found, declared)[0]


def _parse_under_way(client: DbtCloudClient, job_id: int) -> Run | None:
    """Return the oldest active run that any Dagster process has started to get a manifest."""
    listed = client.runs(job_id=job_id, status_in=ACTIVE_STATUSES, order_by="id")
    ours = (run for run in listed if run.trigger and run.trigger.cause.startswith(_PARSE_CAUSE))
    return next(ours, None)


def _run_to_follow(client: DbtCloudClient, ids: WorkspaceIds, text: str) -> Run:
    number = text.strip()
    if not (number.isascii() and number.isdigit()):
        run_id = checked_url(number, client, "run").run_id if "/" in number else None
        if run_id is None:
            raise ConfigError(f"{text!r} is neither the id nor the address of a dbt Cloud run.")
        number = str(run_id)
    try:
        run = client.run(int(number), include=("trigger", "job", "run_steps"))
    except NotFoundError as error:
        raise ConfigError(
            f"Account {client.account_id} has no run {number} that the token may see: {error}"
        ) from error
    if run.project_id != ids.project_id:
        raise ConfigError(
            f"The dbt Cloud run {run.id} belongs to project {run.project_id}, and this workspace "
            f"is of project {ids.project_id}."
        )
    return run


def _runs_dbt_assets(context: dg.OpExecutionContext) -> bool:
    if not context.has_assets_def:
        return False
    assets = context.assets_def
    specs: list[dg.AssetSpec | dg.AssetCheckSpec] = [*assets.specs, *assets.check_specs]
    return any(UNIQUE_ID in spec.metadata for spec in specs)


def _declared_specs(context: dg.OpExecutionContext) -> DbtSpecs:
    """Return the specs as the step's definition has them, whatever was mapped over them."""
    assets = context.assets_def
    declared = Declared.from_specs(assets.specs, assets.check_specs)
    return replace(
        specs_of(assets),
        asset_specs=tuple(assets.specs),
        check_specs=tuple(assets.check_specs),
        asset_keys=declared.asset_keys,
        check_keys=declared.check_keys,
    )


def _wanted(context: dg.OpExecutionContext, specs: DbtSpecs) -> frozenset[str]:
    """Return the nodes of the assets and checks that the step selected."""
    assets, checks = context.selected_asset_keys, context.selected_asset_check_keys
    return frozenset(
        [node for node, key in specs.asset_keys.items() if key in assets]
        + [node for node, key in specs.check_keys.items() if key in checks]
    )


def _own_selection(context: dg.OpExecutionContext) -> tuple[str, str, str]:
    tags = context.assets_def.op.tags
    return (
        tags.get(SELECT_TAG, DEFAULT_SELECT),
        tags.get(EXCLUDE_TAG, ""),
        tags.get(SELECTOR_TAG, ""),
    )


def _job_of(context: dg.OpExecutionContext | None) -> int | None:
    """Return the id of the job that the step's definition is of."""
    if context is None:
        return None
    text = context.assets_def.op.tags.get(JOB_TAG)
    return int(text) if text else None


_calls: WeakKeyDictionary[object, int] = WeakKeyDictionary()
_counting = threading.Lock()


def _step_key(step: dg.OpExecutionContext) -> str:
    mapped = step.get_mapping_key()
    return f"{step.node_handle}[{mapped}]" if mapped else str(step.node_handle)


def _cause(step: dg.OpExecutionContext | None) -> str:
    """Return the sentence that dbt Cloud shows as the reason of the run, with our marker in it."""
    if step is None:
        return f"Started from Python by dagster_dbtcloud [{uuid4().hex}]"
    with _counting:
        number = _calls[step] = _calls.get(step, -1) + 1
    marker = Marker(
        dagster_run_id=step.run_id,
        step_key=_step_key(step),
        attempt=step.retry_number,
        number=number,
        deployment=os.environ.get("DAGSTER_CLOUD_DEPLOYMENT_NAME"),
    )
    return marker.cause()
