"""`DbtCloudComponent`: a dbt Cloud project as a component, from YAML or from Python.

It is `@dbt_cloud_assets` and the polling sensor over a state that Dagster keeps. It builds no specs
and runs nothing by itself.
"""

# No `from __future__ import annotations`: Dagster and pydantic read the annotations as objects.

import json
import logging
from collections import UserString
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NewType, TypeVar

import dagster as dg
from dagster.components import DefsStateConfig, DefsStateConfigArgs, ResolvedDefsStateConfig
from pydantic import ConfigDict, Field, PrivateAttr

from dagster_dbtcloud._dagster_private import (
    backfill_resolver,
    partitions_resolver,
    translation_resolver,
)
from dagster_dbtcloud.assets import dbt_cloud_assets
from dagster_dbtcloud.context import DEFAULT_SELECT
from dagster_dbtcloud.errors import ConfigError, StateError
from dagster_dbtcloud.existing_jobs import KnownJob
from dagster_dbtcloud.following import NO_LIMITS, RunLimits
from dagster_dbtcloud.identity import raw_key, safe_name
from dagster_dbtcloud.invocation import OnLeave
from dagster_dbtcloud.options import RunOptions
from dagster_dbtcloud.partitions import PartitionVars, time_window_vars
from dagster_dbtcloud.polling import MAX_EVENTS
from dagster_dbtcloud.recovery import RetryMode
from dagster_dbtcloud.scaffolding import DbtCloudScaffolder
from dagster_dbtcloud.sensor import build_dbt_cloud_polling_sensor
from dagster_dbtcloud.state import State, pack_state, unpack_state
from dagster_dbtcloud.translator import DagsterDbtTranslator, DagsterDbtTranslatorSettings
from dagster_dbtcloud.workspace import DEFAULT_ACCESS_URL, DbtCloudWorkspace

if TYPE_CHECKING:
    _Workspace = DbtCloudWorkspace
else:
    # The same at run time by another name: Dagster would look into the fields of a pydantic model,
    # and some of a resource's are no YAML. How a workspace is read is said beside the field.
    _Workspace = NewType("_Workspace", DbtCloudWorkspace)
TranslationFn = Callable[[dg.AssetSpec, Mapping[str, Any]], dg.AssetSpec]
CliArg = str | dict[str, Any]
T = TypeVar("T")

_OFFLINE_SECONDS = 2.0
"""How long a refresh that comes with loading tries to reach dbt Cloud, when a state is there."""

logger = logging.getLogger("dagster_dbtcloud")


# --- what may be written in YAML -----------------------------------------------------------------


class DbtCloudWorkspaceArgs(dg.Model, dg.Resolvable):
    """A workspace in YAML; the fields are those of ``DbtCloudWorkspace``."""

    # One of the values is the token, whatever line it was written on.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    account_id: int | str | None = Field(description="The account: its id, name, or a URL.")
    token: str | int | None = Field(
        description="A service token. Take it from the environment: {{ env.DBT_CLOUD_TOKEN }}."
    )
    project_id: int | str | None = Field(description="The project: its id, name, or a URL.")
    environment_id: int | str | None = Field(
        default=None,
        description="The environment: its id or name. Without it, the production environment.",
    )
    access_url: str | None = Field(
        default=DEFAULT_ACCESS_URL, description="The address of your dbt Cloud."
    )
    adhoc_job_name: str | None = Field(
        default=None, description="The job that Dagster's commands run in; made if missing."
    )
    adhoc_job_pool_size: int = Field(default=1, description="How many such jobs.")
    adhoc_job_pool_mode: str = Field(
        default="overflow", description="When all are busy: overflow, wait, or fail."
    )
    adhoc_job_pool_wait_seconds: float | None = Field(
        default=None, description="In mode wait: how long at most."
    )
    request_timeout: float = Field(
        default=30.0, description="Seconds that one request to dbt Cloud may take."
    )
    cache_dir: str | None = Field(default=None, description="Where manifests are kept.")
    request_max_retries: int | None = Field(default=None, description="Accepted, and not used.")
    request_retry_delay: float | None = Field(default=None, description="Accepted, and not used.")


def _resolve_workspace(context: dg.ResolutionContext, model: Any) -> DbtCloudWorkspace:
    if isinstance(model, DbtCloudWorkspace):  # a template variable
        return model
    args = dict(DbtCloudWorkspaceArgs.resolve_from_model(context, model))
    token = args.pop("token")
    return DbtCloudWorkspace(**args, token=None if token is None else str(token))


class RetrySpec(dg.Model, dg.Resolvable):
    """``dagster.RetryPolicy`` in YAML."""

    max_retries: int = 1
    delay: float | None = Field(default=None, description="Seconds before the next attempt.")
    backoff: dg.Backoff | None = Field(default=None, description="LINEAR or EXPONENTIAL.")
    jitter: dg.Jitter | None = Field(default=None, description="FULL or PLUS_MINUS.")


def _resolve_retry(context: dg.ResolutionContext, model: Any) -> dg.RetryPolicy | None:
    if model is None or isinstance(model, dg.RetryPolicy):
        return model
    return dg.RetryPolicy(**dict(RetrySpec.resolve_from_model(context, model)))


class OpSpec(dg.Model, dg.Resolvable):
    """The step that runs dbt."""

    model_config = ConfigDict(arbitrary_types_allowed=True, from_attributes=True)

    name: str | None = None
    tags: dict[str, Any] | None = None
    description: str | None = None
    pool: str | None = None
    backfill_policy: Annotated[dg.BackfillPolicy | None, backfill_resolver()] = None
    retry: Annotated[
        dg.RetryPolicy | None,
        dg.Resolver(
            _resolve_retry,
            model_field_type=RetrySpec.model(),
            description="What Dagster does when the step fails.",
            examples=[{"max_retries": 2, "delay": 60, "backoff": "EXPONENTIAL"}],
        ),
    ] = None


def _resolve_time(context: dg.ResolutionContext, value: Any) -> datetime | timedelta | None:
    value = context.resolve_value(value)
    if isinstance(value, timedelta):  # a template variable
        return value
    if value is None or isinstance(value, datetime):
        time = value
    else:
        time = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    return time.replace(tzinfo=timezone.utc) if time and time.tzinfo is None else time


def _template(meaning: str) -> dg.Resolver:
    """Return what reads a function, which YAML can only name: a template variable."""
    description = f"A template variable: {meaning}"
    resolver: dg.Resolver = dg.Resolver.default(model_field_type=str, description=description)
    return resolver


class SensorSpec(dg.Model, dg.Resolvable):
    """The polling sensor; the fields are those of ``build_dbt_cloud_polling_sensor``."""

    name: str | None = None
    minimum_interval_seconds: int = 30
    default_status: dg.DefaultSensorStatus = Field(
        default=dg.DefaultSensorStatus.STOPPED, description="RUNNING or STOPPED, when first seen."
    )
    start_at: Annotated[
        datetime | timedelta | None,
        dg.Resolver(
            _resolve_time,
            model_field_type=str,
            description="Where history begins at the very first tick: a time (UTC by default), or "
            "a template variable that is a timedelta before it.",
            examples=["2026-01-01T00:00:00Z"],
        ),
    ] = None
    run_filter: Annotated[Callable[..., Any] | None, _template("run -> whether to record it.")] = (
        None
    )
    partition_key_fn: Annotated[
        Callable[..., Any] | None, _template("(run, dbt's arguments) -> the partition it built.")
    ] = None
    tags: dict[str, str] | None = None
    jobs: list[int | str] = Field(default=[], description="Only these jobs' runs.")
    exclude_jobs: list[int | str] = Field(default=[], description="Not these jobs' runs.")
    count_reused: bool = Field(
        default=False, description="Whether what dbt reused counts as materialized."
    )
    on_drift: Annotated[
        Callable[..., Any] | None, _template("called when the dbt project has changed.")
    ] = None
    webhooks: bool = Field(default=False, description="Whether dbt Cloud's webhooks are received.")
    max_events_per_tick: int = Field(default=MAX_EVENTS, description="Events of one tick at most.")


def _resolve_options(context: dg.ResolutionContext, model: Any) -> RunOptions | None:
    values = context.resolve_value(model)
    if values is None or isinstance(values, RunOptions):
        return values
    return _made(RunOptions, values, "options")


def _resolve_limits(context: dg.ResolutionContext, model: Any) -> RunLimits:
    values = context.resolve_value(model)
    return values if isinstance(values, RunLimits) else _made(RunLimits, values, "limits")


def _made(kind: type[T], values: Mapping[str, Any], what: str) -> T:
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ConfigError(f"{what} has no {unknown[0]!r}; it takes {', '.join(known)}.")
    return kind(**values)


# --- the translator ------------------------------------------------------------------------------


class _ComponentTranslator(DagsterDbtTranslator):
    """Asks the component, which a subclass may have changed, then applies ``translation``.

    One translator for both, so that keys changed in either are those that dependencies use.
    """

    def __init__(self, component: "DbtCloudComponent") -> None:
        super().__init__(component.translation_settings)
        self._component = component

    def get_asset_spec(
        self, manifest: Mapping[str, Any], unique_id: str, project: Any
    ) -> dg.AssetSpec:
        spec = self._component.get_asset_spec(manifest, unique_id, project)
        translation = self._component.translation
        if translation is None:
            return spec
        return translation(spec, self.get_resource_props(manifest, unique_id))

    def get_asset_check_spec(
        self,
        asset_spec: dg.AssetSpec,
        manifest: Mapping[str, Any],
        unique_id: str,
        project: Any,
    ) -> dg.AssetCheckSpec | None:
        # by name: those who come from dagster-dbt have overridden it with names only
        return self._component.get_asset_check_spec(
            asset_spec, manifest=manifest, unique_id=unique_id, project=project
        )


# --- the component -------------------------------------------------------------------------------


@dg.scaffold_with(DbtCloudScaffolder)
class DbtCloudComponent(dg.StateBackedComponent, dg.Resolvable, dg.Model):
    """The models, seeds, snapshots and tests of a dbt Cloud project, and the sensor for its runs.

    ::

        type: dagster_dbtcloud.DbtCloudComponent
        attributes:
          workspace:
            account_id: 12345
            token: "{{ env.DBT_CLOUD_TOKEN }}"
            project_id: 67890

    Assets, checks and runs are those of ``@dbt_cloud_assets``. The manifest is the component's
    state: it is written by a refresh (``dg utils refresh-defs-state``, the UI, or ``dg dev``), and
    loading reads it back without dbt Cloud. A refresh starts no dbt Cloud run while some run of the
    environment has a manifest.

    A subclass may override ``get_asset_spec``, ``get_asset_check_spec``, ``get_cli_args``,
    ``op_config_schema`` and ``execute``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    workspace: Annotated[
        _Workspace,
        dg.Resolver(
            _resolve_workspace,
            model_field_type=DbtCloudWorkspaceArgs.model(),
            description="The dbt Cloud project and environment, and who may use it.",
            examples=[
                {
                    "account_id": 12345,
                    "token": "{{ env.DBT_CLOUD_TOKEN }}",
                    "access_url": "https://ab123.us1.dbt.com",
                    "project_id": 67890,
                    "environment_id": 24680,
                }
            ],
        ),
    ]
    select: Annotated[
        str,
        dg.Resolver.default(
            description="The dbt nodes to take, in dbt's selection language.",
            examples=["tag:nightly"],
        ),
    ] = DEFAULT_SELECT
    exclude: Annotated[
        str,
        dg.Resolver.default(description="The dbt nodes to leave out.", examples=["tag:slow"]),
    ] = ""
    selector: Annotated[
        str,
        dg.Resolver.default(
            description="A selector of the project's selectors.yml, instead of select.",
            examples=["nightly"],
        ),
    ] = ""
    cli_args: Annotated[
        list[CliArg],
        dg.Resolver.passthrough(
            description=(
                "The dbt command, one word each; a mapping is an option with its value, as JSON if "
                "it is a mapping itself. Templates are filled in when the step runs, with "
                "partition_key, partition_key_range and partition_time_window at hand."
            ),
            examples=[
                ["build", "--full-refresh"],
                ["build", {"--vars": {"day": "{{ partition_key }}"}}],
            ],
        ),
    ] = Field(default=["build"])
    op: Annotated[
        OpSpec | None,
        dg.Resolver.default(
            description="The step that runs dbt: name, tags, pool, backfill_policy, retry.",
            examples=[{"name": "dbt", "pool": "dbt_cloud", "retry": {"max_retries": 2}}],
        ),
    ] = None
    partitions_def: Annotated[dg.PartitionsDefinition[Any] | None, partitions_resolver()] = None
    translation: Annotated[TranslationFn | None, translation_resolver()] = None
    translation_settings: DagsterDbtTranslatorSettings = Field(
        default=DagsterDbtTranslatorSettings(),
        description="What of the dbt project is shown in Dagster, and how.",
        examples=[{"enable_source_tests_as_checks": False}],
    )
    job: Annotated[
        int | str | None,
        dg.Resolver.default(
            description="A job of dbt Cloud by id, name or URL: its nodes are the assets, and it "
            "is what runs. With cli_args, these run in it instead of its own commands.",
            examples=[12345, "Nightly"],
        ),
    ] = None
    options: Annotated[
        RunOptions | None,
        dg.Resolver(
            _resolve_options,
            model_field_type=dict[str, Any],
            description="What is set for each run: vars, threads_override, git_branch ...",
            examples=[{"threads_override": 8, "vars": {"region": "eu"}}],
        ),
    ] = None
    limits: Annotated[
        RunLimits,
        dg.Resolver(
            _resolve_limits,
            model_field_type=dict[str, Any],
            description="Seconds that a run may take: queued, running, without_progress, outage.",
            examples=[{"queued": 900, "running": 7200}],
        ),
    ] = NO_LIMITS
    retry: Annotated[
        RetryMode,
        dg.Resolver.default(
            description="Whether a retry runs only what failed: auto, on, off (as in cli)."
        ),
    ] = "auto"
    on_leave: Annotated[
        OnLeave,
        dg.Resolver.default(
            description="What becomes of the run when the step ends early: cancel, detach."
        ),
    ] = "cancel"
    partition_vars: Annotated[
        PartitionVars | None,
        _template(
            "the step's context -> dbt's vars. By default min_date and max_date of time partitions."
        ),
    ] = time_window_vars
    create_sensor: Annotated[
        bool,
        dg.Resolver.default(
            description="Whether to record what dbt Cloud runs by itself, by a polling sensor."
        ),
    ] = True
    sensor: Annotated[
        SensorSpec | None,
        dg.Resolver.default(
            description="The polling sensor's name, interval, start, filter and tags.",
            examples=[{"minimum_interval_seconds": 60, "default_status": "RUNNING"}],
        ),
    ] = None
    defs_state: ResolvedDefsStateConfig = DefsStateConfigArgs.local_filesystem()

    _resolution: dg.ResolutionContext | None = PrivateAttr(default=None)
    _loading: bool = PrivateAttr(default=False)

    # --- state

    @property
    def defs_state_config(self) -> DefsStateConfig:
        of = self.workspace.unique_id
        if self.job is not None:  # the state holds the job, too
            of = f"{of}-{safe_name(self.job)}"
        return DefsStateConfig.from_args(self.defs_state, default_key=f"DbtCloudComponent[{of}]")

    def build_defs(self, context: dg.ComponentLoadContext | None = None) -> dg.Definitions:
        """Return the assets, checks and sensor.

        Without a context, which is to say outside a `dg` project, there is no place for Dagster's
        state: the manifest is the workspace's own, as with ``@dbt_cloud_assets``.
        """
        if context is None:
            return self._definitions()
        self._loading = True
        try:
            return super().build_defs(context)
        finally:
            self._loading = False

    def write_state_to_path(self, state_path: Path) -> None:
        """Write the newest manifest of the workspace, and where it is from.

        A refresh that somebody asked for fails when dbt Cloud gives no answer. One that comes with
        loading (``dg dev``) lets an earlier state serve, so that work goes on offline.

        Raises: StateError, ManifestError, ConfigError.
        """
        earlier_serves = self._loading and state_path.is_file()
        retry_for = {"retry_for": _OFFLINE_SECONDS} if earlier_serves else {}
        try:
            state = self.workspace.load_state(refresh=True, **retry_for)
        except StateError as error:
            if not earlier_serves:
                raise
            logger.warning("%s The state of an earlier refresh serves.", error)
            return
        if state.warning is not None and not self._loading:
            raise StateError(
                "The state is left as it was, since a refresh takes the newest manifest or none. "
                f"{state.warning}"
            )
        known = None if self.job is None else self.workspace.load_job(self.job, refresh=True)
        text = pack_state(state, job=None if known is None else known.to_json())
        state_path.write_text(text, encoding="utf-8")

    def build_defs_from_state(
        self, context: dg.ComponentLoadContext, state_path: Path | None
    ) -> dg.Definitions:
        """Return the assets, checks and sensor of a state; none of them before the first refresh.

        Raises: StateError for a state that cannot be read; ConfigError, SelectionError.
        """
        if state_path is None:
            logger.warning(
                "%s has no state yet, so it defines no assets. Write it with `dg utils "
                "refresh-defs-state`, when the image is built or at any time.",
                self.defs_state_config.key,
            )
            return dg.Definitions()
        state, job = unpack_state(
            state_path.read_text(encoding="utf-8"),
            origin=f"The state {self.defs_state_config.key}",
        )
        known = None if job is None else KnownJob.from_json(job)
        self._refuse_foreign(state, known)
        self.workspace = self.workspace.at_state(state, known)
        self._resolution = context.resolution_context
        return self._definitions()

    def _refuse_foreign(self, state: State, known_job: KnownJob | None) -> None:
        """Refuse a state of another project or job: its graph would be run in this one."""
        if self.job is not None and known_job is not None and not known_job.is_meant(self.job):
            raise StateError(
                f"The state {self.defs_state_config.key} is of the job {known_job.name!r} "
                f"({known_job.id}), and the component of the job {self.job!r}. Give each its own "
                "defs_state key, or refresh: `dg utils refresh-defs-state`."
            )
        if state.pointer is None:
            return
        ids, workspace = state.pointer.ids, self.workspace
        for what, configured, known in (
            ("account", workspace.credentials.account_id, ids.account_id),
            ("project", workspace.project_id, ids.project_id),
            ("environment", workspace.environment_id, ids.environment_id),
        ):
            text = raw_key(configured)
            if text.isdigit() and int(text) != known:  # names would cost requests
                raise StateError(
                    f"The state {self.defs_state_config.key} is of {what} {known}, and the "
                    f"component of {what} {text}. Give each its own defs_state key, or refresh: "
                    "`dg utils refresh-defs-state`."
                )

    # --- definitions

    def _definitions(self) -> dg.Definitions:
        return dg.Definitions(assets=[self._assets()], sensors=self._sensors())

    @cached_property
    def translator(self) -> DagsterDbtTranslator:
        """What makes specs of nodes: the settings, then ``get_asset_spec``, then translation."""
        return _ComponentTranslator(self)

    def get_asset_spec(
        self, manifest: Mapping[str, Any], unique_id: str, project: Any
    ) -> dg.AssetSpec:
        """Return the asset spec of a node, before ``translation``; for subclasses to override.

        ``manifest`` is manifest.json as parsed; ``project`` is always None.
        """
        return DagsterDbtTranslator.get_asset_spec(self.translator, manifest, unique_id, project)

    def get_asset_check_spec(
        self,
        asset_spec: dg.AssetSpec,
        manifest: Mapping[str, Any],
        unique_id: str,
        project: Any,
    ) -> dg.AssetCheckSpec | None:
        """Return the check spec of a test; None for no check. For subclasses to override."""
        return DagsterDbtTranslator.get_asset_check_spec(
            self.translator, asset_spec, manifest, unique_id, project
        )

    @property
    def op_config_schema(self) -> type[dg.Config] | None:
        """What the step may be configured with in the launchpad; for subclasses to override.

        ``RunOptionsConfig`` gives it the options of a run.
        """
        return None

    def _assets(self) -> dg.AssetsDefinition:
        op = self.op or OpSpec()
        schema = self.op_config_schema

        @dbt_cloud_assets(
            workspace=self.workspace,
            select=self.select,
            exclude=self.exclude,
            selector=self.selector,
            name=op.name or "dbt_cloud_assets",
            dagster_dbt_translator=self.translator,
            partitions_def=self.partitions_def,
            partition_vars=self.partition_vars,
            job=self.job,
            backfill_policy=op.backfill_policy,
            retry_policy=op.retry,
            op_tags=op.tags,
            description=op.description,
            pool=op.pool,
            config_schema=None if schema is None else schema.to_fields_dict(),
        )
        def assets(context: dg.AssetExecutionContext) -> Iterator[Any]:
            yield from self.execute(context=context)

        return assets

    def _sensors(self) -> list[dg.SensorDefinition]:
        if not self.create_sensor:
            return []
        given = self.sensor or SensorSpec()
        return [
            build_dbt_cloud_polling_sensor(
                workspace=self.workspace,
                dagster_dbt_translator=self.translator,
                minimum_interval_seconds=given.minimum_interval_seconds,
                default_sensor_status=given.default_status,
                name=given.name,
                start_at=given.start_at,
                run_filter=given.run_filter,
                jobs=given.jobs,
                exclude_jobs=given.exclude_jobs,
                partition_key_fn=given.partition_key_fn,
                count_reused=given.count_reused,
                on_drift=given.on_drift,
                webhooks=given.webhooks,
                max_events_per_tick=given.max_events_per_tick,
                tags=given.tags,
            )
        ]

    # --- running

    def get_cli_args(self, context: dg.AssetExecutionContext) -> list[str]:
        """Return the words of the dbt command for this step, templates filled in.

        Raises: ConfigError for arguments that cannot become words.
        """
        resolution = self._resolution or dg.ResolutionContext.default()
        filled = resolution.with_scope(**_partition_scope(context)).resolve_value(self.cli_args)
        return [word for arg in filled for word in _words(arg)]

    def execute(self, context: dg.AssetExecutionContext) -> Iterator[Any]:
        """Run dbt for what the step selected, and yield its results; for subclasses to override.

        Raises: dagster.Failure when the run did not succeed; ConfigError, ApiError.
        """
        if self.job is not None and "cli_args" not in self.model_fields_set:
            invocation = self.workspace.run_job(
                context=context,
                on_leave=self.on_leave,
                limits=self.limits,
                retry=self.retry,
                options=self.options,
            )
        else:
            invocation = self.workspace.cli(
                self.get_cli_args(context),
                context=context,
                on_leave=self.on_leave,
                limits=self.limits,
                retry=self.retry,
                options=self.options,
            )
        yield from invocation.wait()


class _Literal(UserString):
    """A text that a template hands on as it is.

    Dagster's templates read a text that looks like a number as one, and partition keys may.
    """


def _partition_scope(context: dg.AssetExecutionContext) -> dict[str, Any]:
    """Return the names that templates of ``cli_args`` may use; none in an unpartitioned run."""
    if not (context.has_partition_key or context.has_partition_key_range):
        return {}
    given = context.partition_key_range
    keys = _Range(_Literal(given.start), _Literal(given.end))
    scope: dict[str, Any] = {
        "partition_key_range": keys,
        "partition_range_start": keys.start,
        "partition_range_end": keys.end,
    }
    if context.has_partition_key:
        scope["partition_key"] = _Literal(context.partition_key)
    if isinstance(context.assets_def.partitions_def, dg.TimeWindowPartitionsDefinition):
        scope["partition_time_window"] = context.partition_time_window
    return scope


@dataclass(frozen=True)
class _Range:
    start: _Literal
    end: _Literal


def _words(arg: object) -> list[str]:
    if not isinstance(arg, Mapping):
        return [_word(arg)]
    return [word for option, value in arg.items() for word in (str(option), _word(value))]


def _word(value: object) -> str:
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, default=_as_json)
    if value is None or isinstance(value, bool):
        raise ConfigError(f"cli_args: {value!r} is no word of a dbt command.")
    return _as_json(value)


def _as_json(value: object) -> str:
    return value.isoformat() if isinstance(value, (date, datetime)) else str(value)
