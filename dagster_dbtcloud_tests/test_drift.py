"""What the sensor says, and does, when production has other assets than the code location."""

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from dagster_dbtcloud.drift import Drift
from dagster_dbtcloud.sandbox import PastStep
from dagster_dbtcloud_tests.observer_table import M, World, stage
from dagster_dbtcloud_tests.observing import results


@pytest.fixture(scope="module")
def shared() -> Iterator[Any]:
    with stage() as made:
        yield made


@pytest.fixture
def world(shared: Any) -> Iterator[World]:
    """A code location of four models, whose sensor has looked once."""
    sandbox, clock = shared
    world = World(sandbox, clock, "drift")
    for number, unique_id in enumerate(M):
        world.raw["nodes"][unique_id]["checksum"] = {"name": "sha256", "checksum": f"c{number}"}
    world.use()
    with world.instance:
        world.tick()
        yield world


def changed(world: World) -> dict[str, Any]:
    """The project later: m1 is gone, m2 is called n2, and there is a new model."""
    raw = deepcopy(world.raw)
    nodes = raw["nodes"]
    del nodes[M[1]]
    renamed = nodes.pop(M[2])
    nodes["model.shop.n2"] = {**renamed, "unique_id": "model.shop.n2", "name": "n2"}
    new = {"unique_id": "model.shop.new", "name": "new", "checksum": {"checksum": "other"}}
    nodes["model.shop.new"] = {**renamed, **new}
    return raw


def built(world: World, manifest: Any, sha: str) -> None:
    """A run of a commit, with its manifest."""
    artifacts: dict[str, Any] = {"run_results.json": results([(M[0], "success")])}
    if manifest is not None:
        artifacts["manifest.json"] = json.dumps(manifest).encode()
    steps = [PastStep("dbt build", artifacts=artifacts)]
    world.run((M[0], "success"), steps=steps, git_sha=sha * 40)


def test_what_came_went_and_changed_its_name_is_told_once(world: World) -> None:
    """Also when other commits make no further difference."""
    built(world, changed(world), "a")
    assert len(world.tick()) == 1
    said = world.messages[-1]
    assert "1 added (model.shop.new)" in said
    assert f"1 removed ({M[1]})" in said
    assert f"1 renamed ({M[2]} to model.shop.n2)" in said
    for sha in "ab":
        built(world, changed(world), sha)
        assert len(world.tick()) == 1
        assert "has changed" not in world.messages[-1]


def test_one_commit_is_looked_at_once(world: World) -> None:
    """Not each run costs a manifest."""
    world.sandbox.clear_requests()
    for _ in range(3):
        built(world, world.raw, "a")
        world.tick()
    asked = [each for each in world.sandbox.requests if each.path.endswith("manifest.json")]
    assert len(asked) == 1


def test_a_manifest_that_is_late_or_damaged_stops_nobody(world: World) -> None:
    """The next run is looked at."""
    built(world, None, "a")
    assert len(world.tick()) == 1
    built(world, {"metadata": 3}, "a")
    assert len(world.tick()) == 1
    built(world, changed(world), "a")
    assert len(world.tick()) == 1
    assert "has changed" in world.messages[-1]


def test_the_users_function_is_called_once_and_may_fail(world: World) -> None:
    """History goes on, and the tick says what went wrong."""
    called: list[Drift] = []

    def reload(drift: Drift) -> None:
        called.append(drift)
        raise RuntimeError("no webserver there")

    world.use(on_drift=reload)
    built(world, changed(world), "a")
    assert len(world.tick()) == 1
    assert "on_drift raised RuntimeError('no webserver there')" in world.messages[-1]
    built(world, changed(world), "a")
    assert len(world.tick()) == 1
    (drift,) = called
    assert (drift.added, drift.removed) == (("model.shop.new",), (M[1],))
    assert drift.renamed == ((M[2], "model.shop.n2"),)


def test_a_look_that_a_tick_did_not_survive_is_not_taken_again(world: World) -> None:
    """A manifest may be so large that Dagster's limit ends the tick; the next one records."""
    built(world, changed(world), "a")
    assert len(world.tick(stored=0)) == 1
    world.sandbox.clear_requests()
    assert len(world.tick()) == 1
    assert not [each for each in world.sandbox.requests if each.path.endswith("manifest.json")]
