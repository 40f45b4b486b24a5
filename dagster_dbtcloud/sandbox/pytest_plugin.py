"""The pytest fixture ``dbt_cloud_sandbox``: a local dbt Cloud for a user's own tests.

Enable it with ``pytest_plugins = ["dagster_dbtcloud.sandbox.pytest_plugin"]`` and name the dbt
project with the ini option ``dbt_cloud_project_dir`` (relative to the root of the tests) or by
overriding the fixture of that name. It is not loaded by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dagster_dbtcloud.sandbox import Sandbox


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("dbt_cloud_project_dir", "The dbt project that the dbt Cloud sandbox runs.")


@pytest.fixture(scope="session")
def dbt_cloud_project_dir(pytestconfig: pytest.Config) -> Path:
    """The dbt project's directory; override it, or set the ini option of the same name."""
    configured = str(pytestconfig.getini("dbt_cloud_project_dir") or "")
    if not configured:
        raise pytest.UsageError(
            "dbt_cloud_sandbox: set the ini option dbt_cloud_project_dir, "
            "or override the fixture dbt_cloud_project_dir"
        )
    return pytestconfig.rootpath / configured


@pytest.fixture(scope="session")
def _dbt_cloud_sandbox_server(
    dbt_cloud_project_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sandbox]:
    """One server for the session: dbt is imported and the project parsed once."""
    state_dir = tmp_path_factory.mktemp("dbt-cloud-sandbox")
    with Sandbox(project_dir=dbt_cloud_project_dir, state_dir=state_dir) as sandbox:
        yield sandbox


@pytest.fixture
def dbt_cloud_sandbox(
    _dbt_cloud_sandbox_server: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sandbox]:
    """A running sandbox, with the ``DBT_CLOUD_*`` variables of ``Sandbox.env`` set.

    The server is shared by the session: jobs, runs and the warehouse stay. Faults and the
    request log begin empty with each test.
    """
    sandbox = _dbt_cloud_sandbox_server
    sandbox.faults.clear()
    sandbox.clear_requests()
    for name, value in sandbox.env.items():
        monkeypatch.setenv(name, value)
    yield sandbox
    sandbox.faults.clear()
