"""A sandbox's life: ids and history across restarts, kill -9, signals, the env file, the plugin."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dagster_dbtcloud.sandbox import PastStep, ProjectError, Sandbox, serve
from dagster_dbtcloud_tests.sandbox.conftest import TINY, client, until

_SERVE = """
import sys
from pathlib import Path
from typing import Any
from dagster_dbtcloud.sandbox import serve
serve(project_dir=sys.argv[1], state_dir=sys.argv[2], env_file=sys.argv[3],
      on_ready=lambda sandbox: print(sandbox.url, flush=True))
"""


class Served:
    """``serve`` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.env_file = folder / "sandbox.env"
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, TINY, folder / "state", self.env_file],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def variables(self) -> dict[str, str]:
        lines = self.env_file.read_text().splitlines()
        return dict(line.removeprefix("export ").split("=", 1) for line in lines)

    def client(self) -> httpx.Client:
        env = self.variables()
        base = f"{env['DBT_CLOUD_ACCESS_URL']}/api/v2/accounts/{env['DBT_CLOUD_ACCOUNT_ID']}"
        return httpx.Client(
            base_url=base, headers={"Authorization": f"Token {env['DBT_CLOUD_TOKEN']}"}
        )

    def children(self) -> list[int]:
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        return [int(word) for word in found.split()]

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A killed child of a killed parent may wait for its new parent to notice.
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[], Served]]:
    """Start ``serve`` on one state directory, as often as called."""
    started: list[Served] = []

    def start() -> Served:
        started.append(Served(tmp_path))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


def test_kill_9_loses_nothing_and_leaves_no_dbt(served: Callable[[], Served]) -> None:
    """The same ids and token come back; what ran is an error, what was queued still is."""
    first = served()
    mode = stat.S_IMODE(first.env_file.stat().st_mode)
    assert mode == 0o600
    before = first.variables()
    assert before["DBT_CLOUD_ACCESS_URL"] == first.url
    with first.client() as api:
        ids = {
            "project_id": int(before["DBT_CLOUD_PROJECT_ID"]),
            "environment_id": int(before["DBT_CLOUD_ENVIRONMENT_ID"]),
        }
        body = {"name": "one", "execute_steps": ["dbt build"], **ids}
        job = api.post("/jobs/", json=body).json()["data"]["id"]
        running = api.post(f"/jobs/{job}/run/", json={"cause": "x"}).json()["data"]["id"]
        queued = api.post(f"/jobs/{job}/run/", json={"cause": "x"}).json()["data"]["id"]
        until(lambda: api.get(f"/runs/{running}/").json()["data"]["status"] == 3)
    children = first.children()
    assert children
    first.end(signal.SIGKILL)
    until(lambda: not any(map(alive, children)))

    second = served()
    after = second.variables()
    assert {**after, "DBT_CLOUD_ACCESS_URL": ""} == {**before, "DBT_CLOUD_ACCESS_URL": ""}
    with second.client() as api:
        lost = api.get(f"/runs/{running}/").json()["data"]
        assert (lost["status"], lost["status_message"]) == (
            20,
            "The sandbox stopped while this run was active.",
        )
        assert api.get(f"/runs/{queued}/").json()["data"]["status"] in (1, 2, 3)
    children = second.children()
    assert second.end(signal.SIGTERM) == 0
    assert not any(map(alive, children))


def test_sigint_ends_it_as_well(served: Callable[[], Served]) -> None:
    """Cleanly, without a traceback."""
    assert served().end(signal.SIGINT) == 0


def test_a_restart_keeps_history_and_artifacts(tmp_path: Path) -> None:
    """And the tokens that were made; a token given anew takes the place of the first."""
    with Sandbox(project_dir=TINY, state_dir=tmp_path, warm=False) as sandbox:
        token = sandbox.create_token("job_viewer")
        job = sandbox.create_job("one")
        artifacts: dict[str, Any] = {"run_results.json": {"results": []}}
        run = sandbox.insert_run(job, steps=[PastStep("dbt build", artifacts=artifacts)])
    with Sandbox(project_dir=TINY, state_dir=tmp_path, warm=False, token="mine") as again:
        assert again.token == "mine"
        assert [one["id"] for one in again.runs()] == [run]
        assert again.insert_run(job) == run + 1
        with client(again, token=token) as api:
            answer = api.get(f"/runs/{run}/artifacts/run_results.json")
    assert answer.json() == {"results": []}


def test_a_temporary_state_is_removed() -> None:
    """Also when the sandbox was stopped before."""
    with Sandbox(project_dir=TINY, warm=False) as sandbox:
        folder = sandbox.state_dir
        assert folder.is_dir()
        sandbox.stop()
    assert not folder.exists()


def test_no_secret_is_in_the_repr(still: Sandbox) -> None:
    """A sandbox may be logged."""
    assert still.token not in repr(still)
    assert still.token in still.env.values()


def test_a_directory_without_a_project_is_refused(tmp_path: Path) -> None:
    """Before anything is started."""
    with pytest.raises(ProjectError, match=r"dbt_project\.yml cannot be read"):
        serve(project_dir=tmp_path)
    (tmp_path / "dbt_project.yml").write_text("[")
    with pytest.raises(ProjectError, match="is not YAML"):
        Sandbox(project_dir=tmp_path)


def test_a_taken_port_is_an_error_at_once(still: Sandbox) -> None:
    """And the second sandbox leaves nothing behind."""
    port = int(still.url.rsplit(":", 1)[1])
    second = Sandbox(project_dir=TINY, port=port, warm=False)
    with pytest.raises(OSError, match="in use"):
        second.start()
    second.stop()
    assert not second.state_dir.exists()


def test_the_pytest_fixture_serves_users(tmp_path: Path) -> None:
    """Enabled in a conftest, configured by an ini option; each test begins without faults."""
    (tmp_path / "conftest.py").write_text(
        'pytest_plugins = ["dagster_dbtcloud.sandbox.pytest_plugin"]\n'
    )
    (tmp_path / "pytest.ini").write_text(f"[pytest]\ndbt_cloud_project_dir = {TINY}\n")
    (tmp_path / "test_mine.py").write_text(
        "import os\n"
        "from dagster_dbtcloud.sandbox import Fault\n"
        "def test_one(dbt_cloud_sandbox):\n"
        "    assert os.environ['DBT_CLOUD_ACCESS_URL'] == dbt_cloud_sandbox.url\n"
        "    dbt_cloud_sandbox.faults.add(Fault('lost'))\n"
        "    dbt_cloud_sandbox.create_job('kept')\n"
        "def test_two(dbt_cloud_sandbox):\n"
        "    assert dbt_cloud_sandbox.faults.listed() == []\n"
        "    assert [job['name'] for job in dbt_cloud_sandbox.jobs()] == ['kept']\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_imports_stay_inside_the_room() -> None:
    """The sandbox is an independent witness: it loads nothing of the client it judges."""
    code = (
        "import sys, json, dagster_dbtcloud.sandbox; "
        "print(json.dumps([m for m in sys.modules if m.startswith('dagster_dbtcloud.')]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[1] for name in json.loads(out.stdout)}
    assert loaded <= {"sandbox", "clock", "version"}


def test_other_addresses_are_served() -> None:
    """IPv6; and where all addresses are served, clients are told one that works."""
    for host, address in (("0.0.0.0", "http://127.0.0.1:"), ("::1", "http://[::1]:")):  # noqa: S104
        if ":" in host and not socket.has_dualstack_ipv6():
            continue
        with Sandbox(project_dir=TINY, host=host, warm=False) as sandbox, client(sandbox) as api:
            assert sandbox.url.startswith(address)
            assert api.get("/jobs/").status_code == 200
