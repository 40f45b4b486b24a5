"""What the benchmarks compare is the same thing, made in two ways."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import floor, project
from dagster_dbtcloud import DagsterDbtTranslator
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.specs import build_specs
from dagster_dbtcloud.translator import ProjectLinks

MODELS = 60
ROOT = Path(__file__).parent.parent
MADE = re.compile(r"<!-- made by `make bench` -->(.*)<!-- end -->", re.S)


def test_the_readme_says_what_was_measured() -> None:
    """Its figures are among those that the command wrote into docs/performance.md."""
    readme, page = (
        "".join(MADE.findall((ROOT / name).read_text(encoding="utf-8")))
        for name in ("README.md", "docs/performance.md")
    )
    figures = re.findall(r"\d+\.\d+", readme)
    assert figures
    assert set(figures) <= set(re.findall(r"\d+\.\d+", page))


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    data = json.dumps(project.manifest(MODELS)).encode()
    return Manifest.from_bytes(data, origin="the benchmark's project")


def test_the_floor_has_the_assets_and_checks_of_the_manifest(manifest: Manifest) -> None:
    """Keys, dependencies, texts and versions; else a ratio to it would say nothing."""
    links = ProjectLinks("https://cloud.getdbt.com", 1, 2, 3)
    ours = build_specs(manifest, translator=DagsterDbtTranslator(), links=links)
    assets, checks = floor.specs(MODELS)

    def shown(specs: object) -> object:
        return {
            spec.key: (
                {dep.asset_key for dep in spec.deps},
                spec.description,
                spec.code_version,
                spec.kinds,
                spec.skippable,
                {*spec.metadata},
            )
            for spec in specs  # type: ignore[attr-defined]
        }

    assert shown(ours.asset_specs) == shown(assets)
    assert {spec.key: {*spec.metadata} for spec in ours.check_specs} == {
        spec.key: {*spec.metadata} for spec in checks
    }
    columns = "dagster/column_schema"
    first = {spec.key: spec.metadata[columns] for spec in ours.asset_specs}
    assert first == {spec.key: spec.metadata[columns] for spec in assets}
