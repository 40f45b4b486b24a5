"""`DbtCloudComponent`: what it defines, what its state is, and when dbt Cloud is asked."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.definitions_load_context import (
    DefinitionsLoadContext,
    DefinitionsLoadType,
)
from dagster.components import DefsStateConfigArgs
from dagster.components.testing import create_defs_folder_sandbox

from dagster_dbtcloud import (
    DbtCloudComponent,
    DbtCloudWorkspace,
    RunOptionsConfig,
    build_dbt_cloud_polling_sensor,
    dbt_cloud_assets,
)
from dagster_dbtcloud.component import OpSpec, SensorSpec
from dagster_dbtcloud.errors import ConfigError, StateError
from dagster_dbtcloud.sandbox import Fault
from dagster_dbtcloud_tests.stage import Stage

# Dagster's own loading of components uses parts of Dagster that are in beta or preview.
pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
]

ORDERS = dg.AssetKey("orders")
REFUSED = Fault("status", status=401, count=None)
BUILT = (("seed.tiny.raw_orders", "success"), ("model.tiny.orders", "success"))


class Project:
    """A `dg` project with one component, whose YAML a test writes."""

    def __init__(self, folder: Any, stage: Stage) -> None:
        self.root: Path = folder.project_root
        self.stage = stage
        self._folder = folder

    def write(self, **attributes: Any) -> Path:
        sandbox = self.stage.sandbox
        workspace = {
            "account_id": sandbox.account_id,
            "token": "{{ env.DBT_CLOUD_TOKEN }}",
            "access_url": sandbox.url,
            "project_id": sandbox.project_id,
            "environment_id": sandbox.environment_id,
            "cache_dir": str(self.stage.cache_dir),
        }
        path: Path = self._folder.defs_folder_path / "dbt"
        path.mkdir(exist_ok=True)
        (path / "defs.yaml").write_text(
            yaml.safe_dump(
                {
                    "type": "dagster_dbtcloud.DbtCloudComponent",
                    "attributes": {"workspace": workspace, **attributes},
                }
            )
        )
        return path

    def load(self) -> tuple[DbtCloudComponent, dg.Definitions]:
        path = self._folder.defs_folder_path / "dbt"
        with self._folder.load_component_and_build_defs(defs_path=path) as (component, defs):
            return cast("DbtCloudComponent", component), defs

    def refresh(self) -> None:
        """Do what `dg utils refresh-defs-state` does."""
        component, _ = self.load()
        asyncio.run(component.refresh_state(self.root))

    def build(self, **attributes: Any) -> tuple[DbtCloudComponent, dg.Definitions]:
        self.write(**attributes)
        self.refresh()
        return self.load()


@pytest.fixture
def project(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    stage.built()
    monkeypatch.setenv("DBT_CLOUD_TOKEN", stage.sandbox.token)
    with create_defs_folder_sandbox() as folder:
        yield Project(folder, stage)


@contextmanager
def told(words: str) -> Iterator[None]:
    """Expect an error of ours under those that Dagster wraps it in."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - Dagster's own kind differs by version
        yield
    errors: list[str] = []
    error: BaseException | None = raised.value
    while error is not None:
        errors.append(str(error))
        error = error.__cause__
    assert words in "\n".join(errors)


def assets_of(defs: dg.Definitions) -> dg.AssetsDefinition:
    return defs.resolve_assets_def(ORDERS)


def told_of(assets: dg.AssetsDefinition) -> dict[Any, Any]:
    """Return all that specs say, but for where Dagster notes that any component's are from."""
    origin = ("dagster/component_origin", "dagster/code_references")

    def plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in metadata.items() if key not in origin}

    return {
        **{s.key: s.replace_attributes(metadata=plain(s.metadata)) for s in assets.specs},
        **{c.key: c._replace(metadata=plain(c.metadata or {})) for c in assets.check_specs},
    }


def sensor_of(defs: dg.Definitions) -> dg.SensorDefinition:
    (sensor,) = defs.sensors or ()
    assert isinstance(sensor, dg.SensorDefinition)
    return sensor


def in_python(stage: Stage, **values: Any) -> DbtCloudComponent:
    return DbtCloudComponent(workspace=stage.workspace(), **values)


# --- the same as in Python -----------------------------------------------------------------------


def test_yaml_defines_what_python_does(project: Project, instance: dg.DagsterInstance) -> None:
    """Specs with their kinds and metadata, checks, sensor, and the results of a run."""
    stage = project.stage
    stage.play(*BUILT)
    _, defs = project.build()
    workspace = stage.workspace()

    @dbt_cloud_assets(workspace=workspace, name="dbt_cloud_assets")
    def plain(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from workspace.cli(["build"], context=context).wait()

    ours = assets_of(defs)
    assert told_of(ours) == told_of(plain)
    assert ours.op.name == plain.op.name
    assert ours.op.tags == plain.op.tags
    sensor = build_dbt_cloud_polling_sensor(workspace=workspace)
    assert sensor_of(defs).name == sensor.name
    assert sensor_of(defs).minimum_interval_seconds == sensor.minimum_interval_seconds

    def told(assets: dg.AssetsDefinition) -> list[tuple[dg.AssetKey, set[str]]]:
        result = dg.materialize([assets], instance=instance, selection=[ORDERS])
        events = result.get_asset_materialization_events()
        return [(e.materialization.asset_key, set(e.materialization.metadata)) for e in events]

    of_ours = told(ours)
    assert of_ours == told(plain)
    assert ORDERS in dict(of_ours)


def test_every_attribute_reaches_the_definitions(project: Project) -> None:
    """Each attribute of the YAML says something that can be seen in Dagster."""
    _, defs = project.build(
        select="orders customers raw_orders",
        exclude="customers",
        op={
            "name": "nightly",
            "tags": {"team": "data"},
            "pool": "dbt_cloud",
            "backfill_policy": {"type": "multi_run", "max_partitions_per_run": 3},
            "retry": {"max_retries": 2, "delay": 60, "backoff": "EXPONENTIAL"},
        },
        partitions_def={"type": "daily", "start_date": "2026-01-01"},
        translation={
            "group_name": "shop",
            "key_prefix": "shop",
            "description": "{{ node.resource_type }}",
            "tags": {"a": "b"},
        },
        translation_settings={"enable_asset_checks": False},
        sensor={
            "name": "watch",
            "minimum_interval_seconds": 90,
            "default_status": "RUNNING",
            "start_at": "2026-01-01T00:00:00Z",
            "tags": {"team": "data"},
        },
    )
    assets = defs.resolve_assets_def(dg.AssetKey(["shop", "orders"]))
    assert {key.to_user_string() for key in assets.keys} == {"shop/orders", "shop/raw_orders"}
    specs = {spec.key.path[-1]: spec for spec in assets.specs}
    assert {spec.group_name for spec in specs.values()} == {"shop"}
    assert specs["orders"].tags["a"] == "b"
    assert specs["orders"].description == "model"
    assert {dep.asset_key.path[0] for dep in specs["orders"].deps} == {"shop"}
    assert assets.partitions_def == dg.DailyPartitionsDefinition("2026-01-01")
    assert not list(assets.check_specs)
    assert assets.backfill_policy == dg.BackfillPolicy.multi_run(3)
    op = assets.op
    assert (op.name, op.tags["team"], op.pool) == ("nightly", "data", "dbt_cloud")
    assert op.retry_policy == dg.RetryPolicy(2, 60, dg.Backoff.EXPONENTIAL)
    sensor = sensor_of(defs)
    assert (sensor.name, sensor.minimum_interval_seconds) == ("watch", 90)
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert sensor.tags["team"] == "data"


def test_a_selector_selects(project: Project) -> None:
    """A name of selectors.yml instead of words."""
    manifest = json.loads(project.stage.manifest)
    manifest["selectors"] = {
        "only": {"name": "only", "definition": {"method": "fqn", "value": "orders"}}
    }
    project.stage.built(json.dumps(manifest).encode())
    _, defs = project.build(selector="only", create_sensor=False)
    assert set(assets_of(defs).keys) == {ORDERS}
    assert not defs.sensors


def test_the_python_form_takes_the_same(stage: Stage) -> None:
    """Objects where YAML has words."""
    stage.built()
    component = in_python(
        stage,
        select="orders",
        partitions_def=dg.StaticPartitionsDefinition(["a"]),
        op=OpSpec(name="nightly", retry=dg.RetryPolicy(max_retries=1)),
        translation=lambda spec, node: spec.replace_attributes(
            description=f"{node['resource_type']} {node['name']}"
        ),
        sensor=SensorSpec(start_at=datetime(2026, 1, 1, tzinfo=timezone.utc)),
    )
    assert SensorSpec(start_at=timedelta(days=1)).start_at == timedelta(days=1)
    assets = assets_of(component.build_defs())
    assert assets.op.name == "nightly"
    assert assets.get_asset_spec(ORDERS).description == "model orders"
    assert assets.partitions_def == dg.StaticPartitionsDefinition(["a"])


def test_the_documented_python_example(stage: Stage) -> None:
    """Dagster's documentation makes a component and calls ``build_defs()``, without a project."""
    stage.built()
    dbt_cloud = DbtCloudComponent(
        workspace=DbtCloudWorkspace(
            account_id=stage.sandbox.account_id,
            project_id=stage.sandbox.project_id,
            token=stage.sandbox.token,
            access_url=stage.sandbox.url,
            cache_dir=stage.cache_dir,
        ),
        select="fqn:*",
        defs_state=DefsStateConfigArgs.local_filesystem(),
    )
    defs = dbt_cloud.build_defs()
    dg.Definitions.validate_loadable(defs)
    assert ORDERS in assets_of(defs).keys


# --- the state -----------------------------------------------------------------------------------


def test_loading_asks_dbt_cloud_nothing(project: Project) -> None:
    """After a refresh the definitions come from the file, wherever dbt Cloud is."""
    _, before = project.build()
    project.stage.sandbox.clear_requests()
    _, after = project.load()
    assert set(assets_of(after).keys) == set(assets_of(before).keys)
    assert not project.stage.sandbox.requests


def test_a_refresh_starts_no_run(project: Project) -> None:
    """A manifest of an earlier run serves; only an environment without one is parsed."""
    before = len(project.stage.sandbox.runs())
    project.build()
    assert len(project.stage.sandbox.runs()) == before


def test_without_a_state_there_are_no_assets_yet(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """The location loads, so that it can be refreshed, and says what to do."""
    project.write()
    _, defs = project.load()
    assert not defs.assets
    assert "dg utils refresh-defs-state" in caplog.text
    assert not project.stage.sandbox.requests


def test_steps_and_ticks_use_the_state(project: Project, instance: dg.DagsterInstance) -> None:
    """dbt Cloud has a newer manifest by now; nobody downloads it."""
    project.stage.play(*BUILT)
    _, defs = project.build()
    newer = project.stage.built(project.stage.another_manifest())
    project.stage.sandbox.clear_requests()
    result = dg.materialize([assets_of(defs)], instance=instance, selection=[ORDERS])
    assert result.success
    with dg.build_sensor_context(
        instance=instance, repository_def=defs.get_repository_def()
    ) as context:
        sensor_of(defs).evaluate_tick(context)
    assert not [path for path in project.stage.downloads if f"/runs/{newer}/" in path]


def test_a_refresh_takes_the_newest(project: Project) -> None:
    """Asked for, dbt Cloud is asked."""
    project.build()
    newest = project.stage.built(project.stage.another_manifest())
    project.refresh()
    component, _ = project.load()
    pointer = component.workspace.load_state().pointer
    assert pointer is not None
    assert pointer.run_id == newest


def test_a_refresh_that_was_asked_for_fails_without_dbt_cloud(project: Project) -> None:
    """An image with an old state would be built unseen otherwise; the file stays as it was."""
    component, before = project.build()
    project.stage.sandbox.faults.add(REFUSED)
    with pytest.raises(StateError, match="is left as it was"):
        asyncio.run(component.refresh_state(project.root))
    _, after = project.load()
    assert set(assets_of(after).keys) == set(assets_of(before).keys)


@pytest.mark.parametrize("cache", [True, False], ids=["with a cache", "without"])
def test_dg_dev_goes_on_offline(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: bool
) -> None:
    """The refresh that comes with `dg` commands lets the earlier state serve."""
    project.build()
    if not cache:
        project.stage.cache_dir = tmp_path / "another"
        project.write()
    monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "1")
    project.stage.sandbox.faults.add(REFUSED)
    _, defs = project.load()
    assert ORDERS in assets_of(defs).keys


def test_offline_is_known_within_seconds(stage: Stage) -> None:
    """Also where the environment has to be looked up, as where none is named."""
    stage.built()
    stage.workspace(environment_id=None).load_state()
    stage.sandbox.faults.add(Fault("status", status=503, count=None))
    began = stage.clock.monotonic()
    state = stage.workspace(environment_id=None).load_state(refresh=True, retry_for=2.0)
    assert state.warning is not None
    assert stage.clock.monotonic() - began < 8


def test_dg_dev_without_any_state_says_what_is_wrong(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline from the very beginning: an error, not an empty graph."""
    project.write()
    monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "1")
    project.stage.sandbox.faults.add(REFUSED)
    with told("There is no manifest to build assets from"):
        project.load()


def test_dg_dev_refreshes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """In development the newest manifest is taken with each load, unless told otherwise."""
    monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "1")
    project.write()
    _, defs = project.load()
    assert ORDERS in assets_of(defs).keys
    project.write(defs_state={"management_type": "LOCAL_FILESYSTEM", "refresh_if_dev": False})
    project.stage.sandbox.clear_requests()
    project.load()
    assert not project.stage.sandbox.requests


def test_a_run_worker_asks_nothing_when_it_loads(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under `dg dev` too, where the code server refreshes with each load."""
    project.build()
    monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "1")
    reconstruction = DefinitionsLoadContext(DefinitionsLoadType.RECONSTRUCTION)
    monkeypatch.setattr(DefinitionsLoadContext, "_instance", reconstruction)
    project.stage.sandbox.clear_requests()
    _, defs = project.load()
    assert ORDERS in assets_of(defs).keys
    assert not project.stage.sandbox.requests


@pytest.mark.parametrize("text", ["", "{}", '{"dagster_dbtcloud": 99}', "half of a st"])
def test_a_state_that_cannot_be_read_says_so(project: Project, text: str) -> None:
    """A damaged file, or one of another version, names itself and the way out."""
    project.build()
    (state,) = project.root.rglob(".local_defs_state/*/state")
    state.write_text(text)
    with told("Write it anew: `dg utils refresh-defs-state`"):
        project.load()


def test_a_state_of_another_environment_is_refused(project: Project) -> None:
    """Under one key of the user's own, a staging graph would be run in production."""
    sandbox = project.stage.sandbox
    project.build(defs_state={"management_type": "LOCAL_FILESYSTEM", "key": "shared"})
    path = project.write(defs_state={"management_type": "LOCAL_FILESYSTEM", "key": "shared"})
    text = (path / "defs.yaml").read_text()
    (path / "defs.yaml").write_text(
        text.replace(f"environment_id: {sandbox.environment_id}", "environment_id: 424242")
    )
    with told("environment 424242"):
        project.load()


def test_components_of_two_jobs_keep_their_own(project: Project) -> None:
    """The state of each holds its job: neither defines, or runs, the other's."""
    for name in ("orders", "slow"):
        project.stage.sandbox.create_job(f"Build {name}", [f"dbt build --select {name}"])
        project.build(job=f"build {name}")
    for name in ("orders", "slow"):
        project.write(job=f"build {name}")
        (assets,) = project.load()[1].assets or ()
        assert isinstance(assets, dg.AssetsDefinition)
        assert assets.keys == {dg.AssetKey(name)}


@pytest.mark.parametrize("way", ["id", "name", "url"])
def test_a_state_of_another_job_is_refused(project: Project, way: str) -> None:
    """Under one key of the user's own; the same job is known in whatever form it is written."""
    sandbox = project.stage.sandbox
    page = f"{sandbox.url}/deploy/{sandbox.account_id}/projects/{sandbox.project_id}/jobs"
    ways: list[dict[str, Any]] = [
        {"id": job, "name": name, "url": f"{page}/{job}"}
        for name in ("mine", "other's")
        for job in [sandbox.create_job(name, ["dbt build"])]
    ]
    state = {"management_type": "LOCAL_FILESYSTEM", "key": "shared"}
    project.build(job="mine", defs_state=state)
    project.write(job=ways[0][way], defs_state=state)
    project.load()
    project.write(job=ways[1][way], defs_state=state)
    with told("is of the job 'mine'"):
        project.load()


def test_the_state_may_live_in_the_code_server(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster's other place for a state takes texts only, and hands them to each run."""
    project.write(defs_state={"management_type": "LEGACY_CODE_SERVER_SNAPSHOTS"})
    initialization = DefinitionsLoadContext(DefinitionsLoadType.INITIALIZATION)
    monkeypatch.setattr(DefinitionsLoadContext, "_instance", initialization)
    _, defs = project.load()
    assert ORDERS in assets_of(defs).keys


def test_the_state_holds_no_token(project: Project) -> None:
    """It is kept in storages, and in images."""
    project.build()
    (state,) = project.root.rglob(".local_defs_state/*/state")
    assert project.stage.sandbox.token not in state.read_text()


# --- running -------------------------------------------------------------------------------------


def words_of(stage: Stage, cli_args: list[Any], **context: Any) -> list[str]:
    """Return the words that a step of a component would give to dbt."""
    given: list[list[str]] = []

    class Listening(DbtCloudComponent):
        def execute(self, context: dg.AssetExecutionContext) -> Iterator[Any]:
            given.append(self.get_cli_args(context))
            for key in context.selected_asset_keys:
                yield dg.MaterializeResult(asset_key=key)

    component = Listening(
        workspace=stage.workspace(),
        cli_args=cli_args,
        select="orders",
        translation_settings={"enable_asset_checks": False},
        **{key: context.pop(key) for key in ("partitions_def",) if key in context},
    )
    dg.materialize([assets_of(component.build_defs())], **context)
    return given[0]


def test_templates_know_the_partition(stage: Stage) -> None:
    """The key, and the time window that it means."""
    stage.built()
    words = words_of(
        stage,
        [
            "build",
            {
                "--vars": {
                    "day": "{{ partition_key }}",
                    "from": "{{ partition_time_window.start.date().isoformat() }}",
                    "to": "{{ partition_time_window.end }}",
                    "range": "{{ partition_key_range.start }}..{{ partition_range_end }}",
                }
            },
            "--full-refresh",
        ],
        partitions_def=dg.DailyPartitionsDefinition("2026-01-01"),
        partition_key="2026-01-02",
    )
    assert words[0] == "build"
    assert words[1] == "--vars"
    assert words[3:] == ["--full-refresh"]
    assert json.loads(words[2]) == {
        "day": "2026-01-02",
        "from": "2026-01-02",
        "to": "2026-01-03T00:00:00+00:00",
        "range": "2026-01-02..2026-01-02",
    }


@pytest.mark.parametrize("key", ["20260102", "1e3", "007", "None", "[1]"])
def test_a_partition_key_stays_a_text(stage: Stage, key: str) -> None:
    """Templates read what looks like a number as one; a partition key is none."""
    stage.built()
    words = words_of(
        stage,
        ["build", {"--vars": {"day": "{{ partition_key }}"}}, "{{ partition_key }}"],
        partitions_def=dg.StaticPartitionsDefinition([key]),
        partition_key=key,
    )
    assert json.loads(words[2]) == {"day": key}
    assert words[3] == key


def test_a_template_without_its_partition_fails(stage: Stage) -> None:
    """Rather than run dbt with an empty variable."""
    stage.built()
    with pytest.raises(Exception, match="partition_key"):
        words_of(stage, ["build", {"--vars": {"day": "{{ partition_key }}"}}])


def test_plain_arguments_are_words(stage: Stage) -> None:
    """Numbers and lists may be written as YAML has them."""
    stage.built()
    words = words_of(stage, ["build", {"--threads": 4}, {"--vars": {"n": [1, 2]}}])
    assert words == ["build", "--threads", "4", "--vars", '{"n": [1, 2]}']


@pytest.mark.parametrize("value", [None, True])
def test_an_argument_that_is_no_word_is_refused(stage: Stage, value: object) -> None:
    """An empty template, or a flag that was given a value."""
    stage.built()
    with pytest.raises(Exception, match="is no word of a dbt command"):
        words_of(stage, ["build", {"--full-refresh": value}])


def test_a_job_of_dbt_cloud_is_in_the_state(project: Project, instance: dg.DagsterInstance) -> None:
    """Its nodes are the assets, it is what runs; loading asks nobody, and options go along."""
    stage = project.stage
    stage.play(*BUILT)
    job = stage.sandbox.create_job("Orders", ["dbt build --select orders"])
    project.build(job="Orders", options={"threads_override": 3}, limits={"running": 7200})
    stage.sandbox.clear_requests()
    _, defs = project.load()
    assert set(assets_of(defs).keys) == {ORDERS}
    assert not stage.sandbox.requests
    assert dg.materialize([assets_of(defs)], instance=instance).success
    (run,) = (run for run in stage.sandbox.runs() if run["job_definition_id"] == job)
    assert run["trigger"]["threads_override"] == 3


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("options", {"thread_override": 3}, "options has no 'thread_override'"),
        ("options", {"threads_override": 0}, "threads_override takes a whole number"),
        ("limits", {"running": -1}, "running=-1 is not a positive number"),
        ("op", {"retries": 1}, "retries"),
        ("retry", "sometimes", "'auto', 'on' or 'off'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    project: Project, attribute: str, value: object, words: str
) -> None:
    """The error names the attribute and what it takes."""
    project.write(**{attribute: value})
    with told(words):
        project.load()


# --- the page ------------------------------------------------------------------------------------

PAGE = (Path(__file__).parent.parent / "docs" / "component.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S))
def test_the_yaml_of_the_page_is_understood(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is a component of ours, with attributes that it has."""
    monkeypatch.setenv("DBT_CLOUD_ACCOUNT_ID", "12345")
    monkeypatch.setenv("DBT_CLOUD_PROJECT_ID", "67890")
    monkeypatch.setenv("DBT_CLOUD_TOKEN", "dbtc_invented")
    monkeypatch.setenv("DBT_CLOUD_ACCESS_URL", "https://ab123.us1.dbt.com")
    shown = yaml.safe_load(text)
    assert shown["type"] == "dagster_dbtcloud.DbtCloudComponent"
    component = DbtCloudComponent.resolve_from_yaml(yaml.safe_dump(shown["attributes"]))
    assert component.model_fields_set == set(shown["attributes"])


def test_the_page_names_every_attribute() -> None:
    """What can be set is on the page."""
    fields = {*DbtCloudComponent.model_fields, *OpSpec.model_fields} - {"description"}
    assert {name for name in fields if f"`{name}`" not in PAGE} == set()


# --- subclasses ----------------------------------------------------------------------------------


class Prefixed(DbtCloudComponent):
    """Changes specs, and adds a word to the command."""

    def get_asset_spec(
        self, manifest: Mapping[str, Any], unique_id: str, project: Any
    ) -> dg.AssetSpec:
        spec = super().get_asset_spec(manifest, unique_id, project)
        return spec.replace_attributes(key=spec.key.with_prefix("shop"))

    def execute(self, context: dg.AssetExecutionContext) -> Iterator[Any]:
        context.log.info("about to run dbt")
        yield from super().execute(context)


def test_a_subclass_changes_specs_and_execution(stage: Stage, instance: dg.DagsterInstance) -> None:
    """Keys that it changes are those that dependencies and checks use; translation comes after."""
    stage.built()
    stage.play(*BUILT)
    component = Prefixed(
        workspace=stage.workspace(),
        translation=lambda spec, _: spec.replace_attributes(group_name=spec.key.path[0]),
    )
    orders = dg.AssetKey(["shop", "orders"])
    assets = component.build_defs().resolve_assets_def(orders)
    spec = assets.get_asset_spec(orders)
    assert spec.group_name == "shop"
    assert {dep.asset_key.path[0] for dep in spec.deps} == {"shop"}
    assert {check.asset_key.path[0] for check in assets.check_specs} == {"shop"}
    result = dg.materialize([assets], instance=instance, selection=[orders])
    assert result.success
    log = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert "about to run dbt" in log


class AsForDagsterDbt(DbtCloudComponent):
    """Written for dagster-dbt's component, whose checks are given by name."""

    @property
    def op_config_schema(self) -> type[dg.Config]:
        return RunOptionsConfig

    def get_asset_check_spec(  # type: ignore[override]  # as it is elsewhere
        self,
        asset_spec: dg.AssetSpec,
        *,
        manifest: Mapping[str, Any],
        unique_id: str,
        project: Any,
    ) -> dg.AssetCheckSpec | None:
        spec = super().get_asset_check_spec(
            asset_spec, manifest=manifest, unique_id=unique_id, project=project
        )
        return None if spec is None else spec._replace(description="ours")


def test_a_subclass_of_dagster_dbts_kind_works(stage: Stage, instance: dg.DagsterInstance) -> None:
    """Its methods as they are, and options from the launchpad."""
    stage.built()
    stage.play(*BUILT)
    assets = assets_of(AsForDagsterDbt(workspace=stage.workspace()).build_defs())
    assert {check.description for check in assets.check_specs} == {"ours"}
    config = {"ops": {"dbt_cloud_assets": {"config": {"threads_override": 3}}}}
    dg.materialize([assets], instance=instance, selection=[ORDERS], run_config=config)
    assert stage.sandbox.runs()[-1]["trigger"]["threads_override"] == 3


# --- the scaffolder ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["yaml", "python"])
@pytest.mark.parametrize("given", [True, False], ids=["options", "environment"])
def test_what_is_scaffolded_works_as_it_stands(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, form: Any, given: bool
) -> None:
    """With ids as options or from the environment; the token is never in the file."""
    sandbox = stage.sandbox
    stage.built()
    for name, value in sandbox.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_DBTCLOUD_CACHE_DIR", str(stage.cache_dir))
    monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "1")
    options = {
        "account_id": str(sandbox.account_id),
        "project_id": str(sandbox.project_id),
        "environment_id": str(sandbox.environment_id),
        "access_url": sandbox.url,
        "select": "orders",
    }
    with create_defs_folder_sandbox() as folder:
        path = folder.scaffold_component(
            DbtCloudComponent,
            scaffold_params=options if given else None,
            scaffold_format=form,
        )
        (file,) = (each for each in path.iterdir() if each.is_file())
        assert sandbox.token not in file.read_text()
        with folder.load_component_and_build_defs(defs_path=path) as (_, defs):
            assert (set(assets_of(defs).keys) == {ORDERS}) is given


# --- configuration -------------------------------------------------------------------------------


def test_a_missing_variable_is_told_when_it_is_needed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading needs no token; a refresh says which value is missing."""
    project.build()
    monkeypatch.delenv("DBT_CLOUD_TOKEN")
    component, defs = project.load()
    assert ORDERS in assets_of(defs).keys
    with pytest.raises(ConfigError, match="token is missing"):
        component.write_state_to_path(project.root / "anywhere")


def test_nothing_selected_is_an_error(project: Project) -> None:
    """A selection that matches nothing is a mistake, not an empty project."""
    with told("selects nothing"):
        project.build(select="no_such_model")


def test_two_components_share_a_state(stage: Stage) -> None:
    """Two selections of one project are refreshed once."""
    one, two = in_python(stage, select="orders"), in_python(stage, select="customers")
    assert one.defs_state_config.key == two.defs_state_config.key
    assert str(stage.sandbox.project_id) in one.defs_state_config.key
