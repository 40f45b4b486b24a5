"""One dbt process and one manifest for all tests of the selection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud_tests.dbt.oracle import Oracle


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    with Oracle("selection_zoo", tmp_path_factory.mktemp("oracle")) as oracle:
        yield oracle


@pytest.fixture(scope="session")
def zoo(oracle: Oracle) -> Manifest:
    """The manifest that dbt wrote of the selection zoo."""
    return Manifest.from_path(oracle.manifest)
