"""A Dagster run in a process that kills itself at any moment it is told to; no test is here.

A moment is a call: of this package, or of the socket and the database under it. So a kill can fall
between a request and its answer, between two stored events, and within the storing of one.
"""

# No `from __future__ import annotations`: Dagster reads those of the decorated function.
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import dagster as dg

import dagster_dbtcloud
from dagster_dbtcloud import DbtCloudWorkspace, dbt_cloud_assets
from dagster_dbtcloud_tests.conftest import SkippingClock

#: What a step does one after the other, each from the first call of a function on.
PHASES = {
    "before the trigger": ("workspace.py", "cli"),
    "the trigger is on its way": ("cloud/client.py", "trigger_run"),
    "answered, not noted": ("invocation.py", "__init__"),
    "following": ("following.py", "follow"),
    "fetching results": ("invocation.py", "_harvest"),
    "storing results": ("reporting.py", "render"),
}
_PACKAGE = str(Path(dagster_dbtcloud.__file__).parent) + os.sep
_BELOW = {
    ("socket", "send"), ("socket", "sendall"), ("socket", "recv"), ("socket", "connect"),
    ("Cursor", "execute"), ("Connection", "commit"),
}  # fmt: skip


watching: Any = None


class Moments:
    """Counts the moments of each phase, and kills this process at one of them."""

    def __init__(self, phase: str | None, number: int) -> None:
        self.counts: Counter[str] = Counter()
        self._names = list(PHASES)
        self._starts = {start: name for name, start in PHASES.items()}
        self._now = self._names[0]
        self._fatal = None if phase is None else (self._names.index(phase), number)

    def watch(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            path = frame.f_code.co_filename
            if not path.startswith(_PACKAGE):
                return
            phase = self._starts.get((path[len(_PACKAGE) :], frame.f_code.co_name))
            if phase is not None and self._names.index(phase) > self._names.index(self._now):
                self._now = phase
        elif event != "c_call" or _called(arg) not in _BELOW:
            return
        place = (self._names.index(self._now), self.counts[self._now])
        # No two runs are the same: who has missed the moment dies at the next.
        if self._fatal is not None and place >= self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        self.counts[self._now] += 1


def _called(function: Any) -> tuple[str, str]:
    return type(getattr(function, "__self__", None)).__name__, getattr(function, "__name__", "")


def job() -> dg.JobDefinition:
    """The job whose only step builds the manifest that the environment names."""
    workspace = DbtCloudWorkspace(
        account_id=os.environ["DBT_CLOUD_ACCOUNT_ID"],
        token=os.environ["DBT_CLOUD_TOKEN"],
        access_url=os.environ["DBT_CLOUD_ACCESS_URL"],
        project_id=os.environ["DBT_CLOUD_PROJECT_ID"],
        environment_id=os.environ["DBT_CLOUD_ENVIRONMENT_ID"],
        manifest=os.environ["KILL_MANIFEST"],
        clock=SkippingClock(),
    )

    @dbt_cloud_assets(workspace=workspace)
    def shop(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        sys.setprofile(watching)  # until the end of the run: Dagster stores what the step yields
        invocation = dbt_cloud.cli(["build"], context=context)
        yield from getattr(invocation, os.environ["KILL_METHOD"])()

    return dg.Definitions(
        assets=[shop],
        resources={"dbt_cloud": workspace},
        executor=dg.in_process_executor,
        jobs=[dg.define_asset_job("everything")],
        loggers={},
    ).resolve_job_def("everything")


def execute(instance: dg.DagsterInstance, order: Mapping[str, Any]) -> int:
    """Execute a run, anew or after ``parent``; return 0 for success."""
    global watching
    os.environ["KILL_METHOD"] = order["method"]
    moments = Moments(order.get("phase"), order.get("number", -1))
    watching = moments.watch if {"phase", "trace"} & order.keys() else None
    again = None
    if order.get("parent"):
        again = dg.ReexecutionOptions.from_failure(order["parent"], instance)
    result = dg.execute_job(dg.reconstructable(job), instance=instance, reexecution_options=again)
    sys.setprofile(None)
    if order.get("trace"):
        Path(order["trace"]).write_text(json.dumps(moments.counts))
    return 0 if result.success else 1


def forked(instance: dg.DagsterInstance, order: Mapping[str, Any]) -> int:
    """Execute in a process of its own; return its exit code, or the signal that killed it, < 0."""
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            code = execute(instance, order)
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    """Take orders, one a line, and tell how each ended.

    Dagster is imported and its storage looked at once: a fork takes milliseconds where a new
    process takes seconds.
    """
    with dg.DagsterInstance.local_temp(os.environ["KILL_HOME"]) as instance:
        for line in sys.stdin:
            order = json.loads(line)
            code = execute(instance, order) if "trace" in order else forked(instance, order)
            sys.stdout.write(json.dumps(code) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    from dagster_dbtcloud_tests import kill_target  # under its own name: Dagster imports it again

    kill_target.main()
