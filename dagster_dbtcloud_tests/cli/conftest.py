"""A console on the stage: the sandbox's variables, the test's clock, and a home of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagster_dbtcloud.clock import SystemClock
from dagster_dbtcloud_tests.cli.console import Console
from dagster_dbtcloud_tests.stage import Stage


@pytest.fixture
def console(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Console:
    """Commands that talk to the stage's sandbox."""
    variables = {
        **stage.sandbox.env,
        "HOME": str(tmp_path / "home"),
        "DAGSTER_DBTCLOUD_CACHE_DIR": str(tmp_path / "cache"),
    }
    return Console(monkeypatch, variables, stage.clock)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Console:
    """Commands that need no dbt Cloud."""
    return Console(monkeypatch, {"HOME": str(tmp_path / "home")}, SystemClock())
