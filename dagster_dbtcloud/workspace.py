"""The resources: credentials, and one project and environment of dbt Cloud.

A workspace finds its manifest, builds specs from it, and starts dbt commands. It follows no run
(``invocation.py``) and defines no assets (``assets.py``).
"""

# No `from __future__ import annotations`: Dagster reads the fields' annotations as objects.

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr
from typing_extensions import Unpack

from dagster_dbtcloud.clock import Clock, SystemClock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import Job, Run, TriggerRun
from dagster_dbtcloud.commands import (
    checked,
    command_line,
    for_nodes,
    nodes_of_job,
    part_of_job,
    selects_itself,
    words_of,
)
from dagster_dbtcloud.context import (
    DEFAULT_SELECT,
    Context,
    cause_of,
    declared_specs,
    job_of,
    own_selection,
    running_step,
    runs_dbt_assets,
    wanted_nodes,
)
from dagster_dbtcloud.errors import ApiError, ConfigError, DbtCloudError
from dagster_dbtcloud.events import Declared
from dagster_dbtcloud.existing_jobs import KnownJob, find_job, known_job
from dagster_dbtcloud.following import NO_LIMITS, RunLimits
from dagster_dbtcloud.identity import raw_key, required_text, resolve, safe_name
from dagster_dbtcloud.invocation import DbtCloudCliInvocation, OnLeave, check_on_leave
from dagster_dbtcloud.jobs import PoolMode, adhoc_job_names, check_pool, get_or_create_job
from dagster_dbtcloud.launching import (
    FOLLOW_RETRY_SECONDS,
    Call,
    Narrow,
    Service,
    from_job,
    from_pool,
    launch,
    mute_schedule,
    past_of,
    run_to_follow,
    take,
    warn_of,
)
from dagster_dbtcloud.options import OptionArguments, RunOptions, gather
from dagster_dbtcloud.parsing import parse_project
from dagster_dbtcloud.partitions import has_microbatches, time_window, vars_of, with_event_time
from dagster_dbtcloud.recovery import RetryMode, check_mode
from dagster_dbtcloud.specs import DbtSpecs, ProjectLinks, build_specs, compiled_paths
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
_LOAD_RETRY_SECONDS = 20.0
"""A code location that loads must not hang on a dbt Cloud that is down: the cache serves."""


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

    def __getstate__(self) -> dict[str, Any]:
        if not isinstance(self.token, dg.EnvVar):
            raise TypeError(
                "DbtCloudCredentials, and a DbtCloudWorkspace with them, are not pickled: the "
                "token would be. Give it as dagster.EnvVar."
            )
        return vars(self)

    def __copy__(self) -> "DbtCloudCredentials":
        return self

    def __deepcopy__(self, memo: object) -> "DbtCloudCredentials":
        return self


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
        if not isinstance(adhoc_job_pool_mode, dg.EnvVar):
            check_pool(adhoc_job_pool_mode, None)
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
        return self._ids_within(_LOAD_RETRY_SECONDS)

    def _ids_within(self, retry_for: float) -> WorkspaceIds:
        if self._ids is None:
            pointer = remembered_pointer(self.state_key)
            self._ids = pointer.ids if pointer is not None else self._resolve(retry_for)
        return self._ids

    def _resolve(self, retry_for: float) -> WorkspaceIds:
        try:
            return resolve(
                access_url=self.credentials.access_url,
                account=self.credentials.account_id,
                project=self.project_id,
                environment=self.environment_id,
                client=lambda url, account: self._client(url, account, retry_for),
            )
        except ApiError:
            known = self._cache().last_good(self.state_key)
            if known is None:
                raise
            return known.ids

    # --- clients

    def get_client(self, *, retry_for: float = FOLLOW_RETRY_SECONDS) -> DbtCloudClient:
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

    def _service(self) -> Service:
        ids = self.ids()
        return Service(ids, self.get_clock(), partial(self._client_for, ids))

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
            resolve=lambda: self._ids_within(retry_for),
            client=lambda ids: self._client_for(ids, retry_for),
            parse=self._parse,
            cache=self._cache(),
            clock=self.get_clock(),
            given=self.manifest,
        )

    def _parse(self, ids: WorkspaceIds) -> Run:
        clock = self.get_clock()
        with self._client_for(ids, FOLLOW_RETRY_SECONDS) as client:
            job = get_or_create_job(client, ids, self._job_names(ids)[0], clock=clock)
            return parse_project(client, job.id, clock=clock)

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
        check_on_leave(on_leave)
        step = running_step(context)
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
        if step is not None and runs_dbt_assets(step):
            job, wanted = job_of(step), wanted_nodes(step, specs)
            say = partial(
                for_nodes, specs, words=words, own=own_selection(step), exact=job is not None
            )
            commands, expected = say(wanted)
            if not selects_itself(words) and settings.steps_override is None:

                def narrow(nodes: frozenset[str]) -> tuple[str, ...]:
                    part, _ = say(wanted & nodes or wanted)
                    return self._steps(context, specs, nodes, settings, map(command_line, part))

        if settings.steps_override is not None:
            expected = frozenset()
        steps = self._steps(context, specs, expected, settings, map(command_line, commands))
        call = Call(
            step=step,
            args=commands[0],
            commands=steps,
            declared=declared,
            expected=expected,
            on_leave=on_leave,
            limits=limits,
            retry=retry,
            manifest=specs.manifest,
            narrow=narrow,
        )
        service = self._service()
        if job is None:
            names = self._job_names(service.ids)
            mode, seconds = self.adhoc_job_pool_mode, self.adhoc_job_pool_wait_seconds
            claim = from_pool(service, call, names, mode, seconds)
        else:
            claim = from_job(service, call, job)
        fields = settings.trigger_fields()
        trigger = TriggerRun(cause=cause_of(step), steps_override=steps, **fields)
        return launch(service, call, trigger, claim)

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
        check_on_leave(on_leave)
        step = running_step(context)
        settings = self._options(context, overrides, options)
        own = job_of(step) if step is not None and runs_dbt_assets(step) else None
        wanted_job = own if job is None else job
        if wanted_job is None:
            raise ConfigError(
                "run_job() got no job. Give its id, name or URL, or define the assets with "
                "@dbt_cloud_assets(job=...) and pass the context."
            )
        service = self._service()
        with service.new_client(_LOAD_RETRY_SECONDS) as client:
            found = find_job(client, service.ids, wanted_job)
        specs, declared = self._declared(step, dagster_dbt_translator)
        expected: frozenset[str] = frozenset()
        lines: Sequence[str] = found.execute_steps
        name = f"{found.name!r} ({found.id})"
        narrow: Narrow | None = None
        if step is not None and runs_dbt_assets(step) and settings.steps_override is None:
            wanted = wanted_nodes(step, specs)
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
        call = Call(
            step=step,
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
        warn_of(found, call.log, muted=disable_schedule_on_trigger)
        trigger = TriggerRun(
            cause=cause_of(step),
            steps_override=steps if steps != found.execute_steps else None,
            **settings.trigger_fields(),
        )
        invocation = launch(service, call, trigger, lambda _, start: start(found.id))
        if disable_schedule_on_trigger:
            try:
                mute_schedule(service, found, call.log, _LOAD_RETRY_SECONDS)
            except BaseException:  # terminated meanwhile
                service.leave(invocation.run_id, on_leave)
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

        It may be over already. With a ``context`` that step records those of its results that are
        not recorded yet, and the sensor none of them again. Leaving lets it run, unless
        ``on_leave="cancel"``.

        Raises: ConfigError, for a run that does not exist or is of another account or project;
        StateError, ApiError.
        """
        check_on_leave(on_leave)
        step = running_step(context)
        specs, declared = self._declared(step, dagster_dbt_translator)
        service = self._service()
        call = Call(
            step=step,
            commands=(),
            declared=declared,
            on_leave=on_leave,
            limits=limits,
            manifest=specs.manifest,
        )
        client = call.client(service)
        with client:
            run = run_to_follow(client, service.ids, str(run_id))
        commands = [each.command for each in run.run_steps if each.command]
        past = None if step is None else past_of(step, run, now=self.get_clock().now())
        return take(service, call, run, client=client, commands=commands, past=past)

    def _options(
        self,
        context: Context | None,
        overrides: Mapping[str, Any],
        options: RunOptions | None,
    ) -> RunOptions:
        step = running_step(context)
        if context is None or step is None:
            return gather(arguments=overrides, options=options)
        ours = runs_dbt_assets(step)
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
        if step is not None and runs_dbt_assets(step):
            specs = declared_specs(step)
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
