"""What the end-to-end tests share: one sandbox with real dbt, and a clock that skips waiting."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_dbtcloud import DbtCloudWorkspace
from dagster_dbtcloud.sandbox import Sandbox
from dagster_dbtcloud_tests.stage import Stage

PROJECTS = Path(__file__).parent / "projects"

MakeWorkspace = Callable[..., DbtCloudWorkspace]


class SkippingClock:
    """Real time, plus what was slept: a ``sleep`` really waits a moment and skips the rest.

    The sandbox and the client share one, so that ten minutes of retries pass for both at once,
    while real dbt gets the real moments it needs.
    """

    MOMENT = 0.02

    def __init__(self) -> None:
        self._skipped = 0.0
        self._lock = threading.Lock()
        self.hooks: list[Callable[[], object]] = []
        """What happens in the world each time that somebody waits."""

    def now(self) -> datetime:
        return datetime.now(timezone.utc) + timedelta(seconds=self._skipped)

    def monotonic(self) -> float:
        return time.monotonic() + self._skipped

    def sleep(self, seconds: float) -> None:
        for hook in self.hooks:
            hook()
        if seconds > 0:
            time.sleep(min(seconds, self.MOMENT))
            self.skip(seconds - self.MOMENT)

    def skip(self, seconds: float) -> None:
        with self._lock:
            self._skipped += max(0.0, seconds)


@pytest.fixture(scope="session")
def clock() -> SkippingClock:
    return SkippingClock()


@pytest.fixture(scope="session")
def running_sandbox(clock: SkippingClock) -> Iterator[Sandbox]:
    """A sandbox of the project ``tiny`` whose production environment was built once."""
    with Sandbox(project_dir=PROJECTS / "tiny", clock=clock) as sandbox:
        job = sandbox.create_job("nightly", ["dbt build"])
        run = sandbox.wait(sandbox.trigger(job, cause="the first build"), timeout=120)
        assert run["status_humanized"] == "Success", run
        yield sandbox


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Iterator[Sandbox]:
    """The shared sandbox, with no faults and no requests counted."""
    running_sandbox.clear_requests()
    yield running_sandbox
    running_sandbox.faults.clear()
    running_sandbox.behaviour.artifacts_seconds = 0.0


@pytest.fixture
def nightly(sandbox: Sandbox) -> int:
    """The job that dbt Cloud runs by itself: ``dbt build``."""
    return next(int(job["id"]) for job in sandbox.jobs() if job["name"] == "nightly")


@pytest.fixture
def make_workspace(sandbox: Sandbox, clock: SkippingClock, tmp_path: Path) -> MakeWorkspace:
    """Make a workspace on the sandbox, with a cache of its own; any argument may be replaced."""

    def make(**values: Any) -> DbtCloudWorkspace:
        defaults: dict[str, Any] = {
            "account_id": sandbox.account_id,
            "token": sandbox.token,
            "access_url": sandbox.url,
            "project_id": sandbox.project_id,
            "environment_id": sandbox.environment_id,
            "cache_dir": tmp_path / "cache",
            "clock": clock,
        }
        return DbtCloudWorkspace(**{**defaults, **values})

    return make


@pytest.fixture
def workspace(make_workspace: MakeWorkspace) -> DbtCloudWorkspace:
    return make_workspace()


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of Dagster's with its empty databases, whose making takes most of a second."""
    home = tmp_path_factory.mktemp("empty_home")
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        instance.all_instigator_state()
        instance.fetch_materializations(dg.AssetKey("none"), limit=1)
    return home


@pytest.fixture
def instance(tmp_path: Path, empty_home: Path) -> Iterator[dg.DagsterInstance]:
    """A real instance: run storage and event log in SQLite files."""
    home = shutil.copytree(empty_home, tmp_path / "dagster")
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        yield instance


@pytest.fixture(scope="session")
def manifest(running_sandbox: Sandbox, clock: SkippingClock) -> bytes:
    """The manifest.json that real dbt wrote for the project ``tiny``."""
    workspace = DbtCloudWorkspace(
        account_id=running_sandbox.account_id,
        token=running_sandbox.token,
        access_url=running_sandbox.url,
        project_id=running_sandbox.project_id,
        environment_id=running_sandbox.environment_id,
        clock=clock,
    )
    with workspace.get_client() as client:
        return client.artifact(int(running_sandbox.runs()[0]["id"]), "manifest.json")


@pytest.fixture
def stage(manifest: bytes, tmp_path: Path) -> Iterator[Stage]:
    """A sandbox of the test's own, in which no dbt runs."""
    clock = SkippingClock()
    with Sandbox(project_dir=PROJECTS / "tiny", clock=clock, warm=False) as sandbox:
        yield Stage(sandbox, clock, manifest, tmp_path / "cache")
