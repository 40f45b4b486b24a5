"""A sandbox for one test in which no dbt runs: history by hand, runs that follow a script.

Everything goes over TCP as always; only dbt's part is played, in milliseconds instead of seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from dagster_dbtcloud import DbtCloudWorkspace
from dagster_dbtcloud.clock import Clock, SystemClock
from dagster_dbtcloud.sandbox import PastStep, Sandbox


class HeldClock(Clock, Protocol):
    hooks: list[Callable[[], object]]

    def skip(self, seconds: float) -> None: ...


def until(ready: Callable[[], bool], *, seconds: float = 60) -> None:
    """Look again and again, for what changes without telling anybody."""
    clock = SystemClock()
    end = clock.monotonic() + seconds
    while not ready():
        assert clock.monotonic() < end, "it did not happen in time"
        clock.sleep(0.02)


def run_results(
    *entries: tuple[str, str],
    which: str = "build",
    batches: Mapping[str, Mapping[str, Any]] | None = None,
) -> bytes:
    """Return what dbt writes about nodes: pairs of (unique id, status); ``batches`` by the id."""
    return json.dumps(
        {
            "metadata": {
                "dbt_schema_version": "https://schemas.getdbt.com/dbt/run-results/v6.json",
                "invocation_id": "inv-1",
            },
            "args": {"which": which},
            "elapsed_time": 1.0,
            "results": [
                {
                    "unique_id": unique_id,
                    "status": status,
                    "timing": [],
                    "execution_time": 1.0,
                    "message": f"dbt says {status}",
                    "failures": None,
                    "adapter_response": {},
                    "batch_results": (batches or {}).get(unique_id),
                }
                for unique_id, status in entries
            ],
        }
    ).encode()


class Stage:
    """The sandbox, its history, and workspaces on it."""

    def __init__(
        self, sandbox: Sandbox, clock: HeldClock, manifest: bytes, cache_dir: Path
    ) -> None:
        self.sandbox = sandbox
        self.clock = clock
        self.manifest = manifest
        self.cache_dir = cache_dir
        self.job = sandbox.create_job("nightly", ["dbt build"])

    def workspace(self, **values: Any) -> DbtCloudWorkspace:
        """Make a workspace on the main environment; any argument may be replaced."""
        defaults: dict[str, Any] = {
            "account_id": self.sandbox.account_id,
            "token": self.sandbox.token,
            "access_url": self.sandbox.url,
            "project_id": self.sandbox.project_id,
            "environment_id": self.sandbox.environment_id,
            "cache_dir": self.cache_dir,
            "clock": self.clock,
        }
        return DbtCloudWorkspace(**{**defaults, **values})

    def built(self, manifest: bytes | None = None, **fields: Any) -> int:
        """Put a finished ``dbt build`` into history."""
        content = self.manifest if manifest is None else manifest
        step = PastStep("dbt build", artifacts={"manifest.json": content})
        return self.put(step, **fields)

    def put(self, *steps: PastStep, **fields: Any) -> int:
        return self.sandbox.insert_run(self.job, steps=steps, **fields)

    def another_manifest(self, word: str = "another") -> bytes:
        """Return a manifest of the same nodes with another digest."""
        raw = json.loads(self.manifest)
        raw["metadata"]["env"] = {"word": word}
        return json.dumps(raw).encode()

    def play(self, *entries: tuple[str, str], **step: Any) -> None:
        """Let each command of coming runs end with these results, and leave the manifest."""

        def script(_: Mapping[str, Any], command: str) -> PastStep:
            which = command.split()[1]
            artifacts: dict[str, Any] = {"manifest.json": self.manifest}
            if which in ("build", "run", "seed", "snapshot", "test"):
                artifacts["run_results.json"] = run_results(*entries, which=which)
            return PastStep(
                command, **{"logs": f"played {command}\n", "artifacts": artifacts, **step}
            )

        self.sandbox.play(script)

    def asked(self, method: str, part: str) -> list[str]:
        """Return the paths of the requests so far whose path holds ``part``."""
        return [
            request.path
            for request in self.sandbox.requests
            if request.method == method and part in request.path
        ]

    @property
    def downloads(self) -> list[str]:
        """The manifests that were really handed out."""
        return [
            request.path
            for request in self.sandbox.requests
            if request.path.endswith("/manifest.json") and request.status == 200
        ]
