"""The commands of a run: read from a job, written for any part, cut where they get too long."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Sequence

import pytest

from dagster_dbtcloud import DagsterDbtTranslator, DagsterDbtTranslatorSettings
from dagster_dbtcloud.commands import for_nodes, nodes_of, nodes_of_job, part_of_job, read
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.selection import select
from dagster_dbtcloud.errors import ConfigError, RunFailed
from dagster_dbtcloud.sandbox import Sandbox
from dagster_dbtcloud.specs import DbtSpecs, build_specs
from dagster_dbtcloud.wording import node_args, node_args_in_parts
from dagster_dbtcloud_tests import spec_zoo
from dagster_dbtcloud_tests.conftest import MakeWorkspace
from dagster_dbtcloud_tests.dbt.builders import chain, large


@pytest.fixture(scope="module")
def zoo() -> DbtSpecs:
    return build_specs(spec_zoo.manifest(), translator=DagsterDbtTranslator())


@pytest.fixture(scope="module")
def many() -> DbtSpecs:
    """1,500 models in 100 folders, with two tests each."""
    manifest = Manifest.from_dict(large(1_500), origin="a large project")
    return build_specs(manifest, translator=DagsterDbtTranslator())


def taken(specs: DbtSpecs, args: Sequence[str]) -> frozenset[str]:
    """The assets and checks that dbt would take with these words."""
    said = read(args)
    assert said.rest == ()
    found = select(
        specs.manifest,
        select=said.select,
        exclude=said.exclude,
        selector=said.selector,
        indirect_selection=said.mode,
    )
    types = {"model", "seed", "snapshot", "test", "unit_test"}
    nodes = specs.manifest.nodes
    return frozenset(
        i
        for i in found
        if nodes[i].resource_type in types and nodes[i].materialized not in ("ephemeral", "")
    )


# --- reading a job's commands --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("dbt seed", {"raw_orders"}),
        ("dbt run", {"orders", "customers", "orders_by_day", "slow"}),
        ("dbt run -s orders+", {"orders", "customers", "orders_by_day"}),
        ("dbt run --select orders slow --exclude slow", {"orders"}),
        ("dbt run -m 'orders slow'", {"orders", "slow"}),
        ("dbt run --models=tag:core --full-refresh", {"orders", "customers"}),
        ("dbt --no-use-colors run --threads 4 -s slow --vars '{a: -s}'", {"slow"}),
        ("dbt snapshot", {"orders_history"}),
        ("dbt clone -s resource_type:seed slow", {"raw_orders", "slow"}),
        ("dbt build --resource-type seed snapshot", {"raw_orders", "orders_history"}),
        ("dbt build -s orders --exclude-resource-type test", {"orders"}),
        ("dbt build -s slow --indirect-selection empty", {"slow"}),
        (
            "dbt test --select orders",
            {"unique_orders_id", "not_null_orders_amount", "amounts_are_large_enough"},
        ),
        ("dbt test -s customers,test_type:unit", {"customers_are_summed"}),
        ("dbt run-operation grant", None),
        ("dbt docs generate", None),
        ("dbt source freshness", None),
        ("echo dbt run", None),
        ("dbt run -s 'unclosed", None),
    ],
)
def test_what_a_command_builds(manifest: bytes, line: str, names: set[str] | None) -> None:
    """Of the types that it builds, as its flags say."""
    read_manifest = Manifest.from_bytes(manifest, origin="tiny")
    found = nodes_of(read_manifest, line)
    if names is None:
        assert found is None
    else:
        assert found is not None
        assert {read_manifest.nodes[i].name for i in found} == names


@pytest.mark.parametrize("part", range(8))
def test_any_part_of_a_job_is_that_part(zoo: DbtSpecs, part: int) -> None:
    """Whatever its commands select, together they run the part and nothing else."""
    lines = ["dbt seed", "dbt snapshot", "dbt run --full-refresh", "dbt test", "dbt deps"]
    if part % 2:
        lines = ["dbt build --exclude resource_type:snapshot", "dbt snapshot -s *"]
    choose = random.Random(part)  # noqa: S311
    built = nodes_of_job(zoo.manifest, lines, job="it")
    mine = sorted(built & {*zoo.asset_keys, *zoo.check_keys})
    wanted = frozenset(choose.sample(mine, choose.randint(1, len(mine))))
    told = part_of_job(zoo, lines, wanted, job="it")
    assert nodes_of_job(zoo.manifest, told, job="it") == wanted
    assert ("dbt deps" in told) == ("dbt deps" in lines)
    assert all("--full-refresh" in line for line in told if line.startswith("dbt run "))


def test_tests_run_with_their_assets_where_there_are_no_checks() -> None:
    """A part of a job without checks in Dagster still tests what it builds."""
    settings = DagsterDbtTranslatorSettings(enable_asset_checks=False)
    specs = build_specs(spec_zoo.manifest(), translator=DagsterDbtTranslator(settings))
    model = min(i for i in specs.asset_keys if len(specs.manifest.children(i)) > 1)
    told = part_of_job(specs, ["dbt run", "dbt test", "dbt seed"], [model], job="it")
    assert [line.split()[1] for line in told] == ["run", "test"]


def test_a_part_that_a_job_does_not_build_is_refused(zoo: DbtSpecs) -> None:
    """With its commands, so that the one to change is seen."""
    seeds = {i for i in zoo.asset_keys if i.startswith("seed.")}
    with pytest.raises(ConfigError, match=r"job 'x' does not build seed\..*`dbt run`"):
        part_of_job(zoo, ["dbt run"], seeds, job="'x'")


# --- shorter words -------------------------------------------------------------------------------


def test_what_nodes_have_in_common_is_said_instead_of_their_names(many: DbtSpecs) -> None:
    """A tag, the whole without a few; whatever is found shortest was found exact, too."""
    assets = frozenset(many.asset_keys)
    everything = assets | frozenset(many.check_keys)
    few = frozenset(sorted(everything)[::1_000])
    nightly = frozenset(i for i in assets if "nightly" in many.manifest.nodes[i].tags)
    said = "--select tag:nightly --indirect-selection empty"
    assert " ".join(node_args(many, nightly)) == said
    args = node_args(many, everything - few)
    assert args[:3] == ("--select", "fqn:*", "--exclude")
    assert taken(many, args) == everything - few


def test_the_ends_of_a_graph_are_said_instead_of_its_nodes() -> None:
    """What is downstream of a model, or upstream of one, within the definition's own selection."""
    specs = build_specs(chain(600), translator=DagsterDbtTranslator())
    line = [f"model.shop.m{number}" for number in range(600)]
    for wanted, word in ((line[200:], "m200+"), (line[:400], "+m399")):
        args = node_args(specs, wanted)
        assert args == ("--select", word, "--indirect-selection", "empty")
    without = build_specs(chain(600), select="m100+", translator=DagsterDbtTranslator())
    args = node_args(without, line[100:400], select="m100+")
    assert args == ("--select", "+m399,m100+", "--indirect-selection", "empty")


@pytest.mark.parametrize("seed", range(3))
def test_any_thousands_are_said_exactly(many: DbtSpecs, seed: int) -> None:
    """In as many commands as it takes; no node depends on one of a later command."""
    choose = random.Random(seed)  # noqa: S311
    assets = sorted(many.asset_keys)
    checks = sorted(many.check_keys)
    wanted = frozenset(
        choose.sample(assets, choose.randint(400, 1_400))
        + choose.sample(checks, choose.randint(0, 2_500) if seed else 0)
    )
    longest = choose.choice([3_000, 8_000])
    parts = node_args_in_parts(many, wanted, longest=longest)
    assert all(len(" ".join(part)) <= longest for part in parts)
    assert len(parts) > 1
    check_parts(many, wanted, parts)


def check_parts(
    specs: DbtSpecs, wanted: frozenset[str], parts: Sequence[Sequence[str]]
) -> list[frozenset[str]]:
    found = [taken(specs, part) for part in parts]
    assert sum(map(len, found)) == len(wanted)
    assert frozenset[str]().union(*found) == wanted
    after: set[str] = set()
    for nodes in reversed(found):
        assert after.isdisjoint(specs.manifest.ancestors(nodes))
        after |= nodes
    return found


@pytest.mark.parametrize("seed", range(8))
def test_hard_names_are_cut_as_well(zoo: DbtSpecs, seed: int) -> None:
    """Twins, versions, unit tests: on the project of hard cases, down to a node a command."""
    choose = random.Random(seed)  # noqa: S311
    known = sorted({*zoo.asset_keys, *zoo.check_keys})
    wanted = frozenset(choose.sample(known, choose.randint(2, len(known) - 1)))
    longest = choose.choice([60, 150, 400])
    found = check_parts(zoo, wanted, node_args_in_parts(zoo, wanted, longest=longest, exact=True))
    nodes = zoo.manifest.nodes
    for part in found:
        for unit_test in (i for i in part if nodes[i].resource_type == "unit_test"):
            models = {*nodes[unit_test].depends_on} & wanted
            assert models <= part or not models


def test_a_short_selection_is_one_command(zoo: DbtSpecs) -> None:
    """The usual case: no cut, and the whole is the definition's own selection."""
    wanted = frozenset({*zoo.asset_keys, *zoo.check_keys})
    assert node_args_in_parts(zoo, wanted) == [("--select", "fqn:*")]


def test_commands_that_are_cut_build_everything_on_real_dbt(
    sandbox: Sandbox, nightly: int, make_workspace: MakeWorkspace
) -> None:
    """dbt itself takes each node once, parents before children, tests after their last parent."""
    specs = make_workspace().load_specs()
    wanted = frozenset({*specs.asset_keys, *specs.check_keys}) - {"model.tiny.slow"}
    commands, expected = for_nodes(specs, wanted, ["build"], exact=True, longest=80)
    assert expected == wanted
    assert len(commands) > 2
    lines = [shlex.join(["dbt", *words]) for words in commands]
    run = sandbox.wait(sandbox.trigger(nightly, steps_override=lines), timeout=120)
    if run["status_humanized"] != "Success":
        raise RunFailed(str(run["run_steps"][-1]["logs"]), run_id=run["id"])
    with make_workspace().get_client() as client:
        artifacts = [
            json.loads(client.artifact(run["id"], "run_results.json", step=step["index"]))
            for step in run["run_steps"][3:]
        ]
    ran = [result["unique_id"] for each in artifacts for result in each["results"]]
    assert sorted(ran) == sorted(wanted)
    done: set[str] = set()
    for unique_id in ran:
        if specs.manifest.nodes[unique_id].resource_type != "unit_test":  # those come first
            assert {*specs.manifest.nodes[unique_id].depends_on} & wanted <= done
        done.add(unique_id)
