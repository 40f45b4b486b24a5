"""Finished runs put into history by hand: no dbt, any dates, any artifacts.

It also leaves runs hanging in an active status, for tests of what waits.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from dagster_dbtcloud.sandbox.plan import PlannedStep, builtin_steps, invoke
from dagster_dbtcloud.sandbox.state import ACTIVE, QUEUED, STARTING, SUCCESS, Cloud
from dagster_dbtcloud.sandbox.store import Doc
from dagster_dbtcloud.sandbox.wire import to_text

Content = bytes | str | Path | Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True)
class PastStep:
    """A step of a run that is put into history.

    ``artifacts``: path below ``target/`` -> bytes, text, a file to link, or what becomes JSON.
    ``hold``: in a played run (``Sandbox.play``) the step stays running until ``release``.
    ``seconds``: how long a played step takes on the sandbox's clock; its logs grow line by line,
    evenly over that time.
    """

    command: str
    status: int = SUCCESS
    logs: str = ""
    debug_logs: str = ""
    artifacts: Mapping[str, Content] = field(default_factory=dict)
    name: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    skipped: bool = False
    hold: bool = False
    seconds: float = 0.0


#: What a played run does at a command: a step to show, or None for real dbt.
Script = Callable[[Mapping[str, Any], str], "PastStep | None"]


def insert_run(
    cloud: Cloud,
    job_id: int,
    *,
    status: int,
    steps: Sequence[PastStep],
    finished_at: datetime | None,
    started_at: datetime | None,
    created_at: datetime | None,
    trigger: Doc,
    fields: Doc,
    builtin: bool,
    run_id: int | None,
) -> int:
    """See ``Sandbox.insert_run``."""
    finished = finished_at or cloud.clock.now()
    started = started_at or finished
    planned: list[tuple[PlannedStep, PastStep]] = []
    if builtin:
        planned += [(one, PastStep("")) for one in builtin_steps(cloud.connection_name)]
    for past in steps:
        name = invoke(past.command).name if past.name is None else past.name
        planned.append((PlannedStep(name, "dbt", past.command), past))
    return cloud.insert_past_run(
        job_id,
        trigger=trigger,
        run_id=run_id,
        fields={
            "status": status,
            "created_at": to_text(created_at or started),
            "updated_at": to_text(finished),
            "dequeued_at": None if status == QUEUED else to_text(started),
            "started_at": None if status in (QUEUED, STARTING) else to_text(started),
            "finished_at": None if status in ACTIVE else to_text(finished),
            "held": True,
            **fields,
        },
        steps=[
            (
                one,
                {
                    "status": past.status,
                    "skipped": past.skipped,
                    "started_at": to_text(past.started_at or started),
                    "finished_at": to_text(past.finished_at or finished),
                },
                functools.partial(write_step, past),
            )
            for one, past in planned
        ],
    )


def write_step(past: PastStep, folder: Path) -> None:
    """Write what a real step would have left: logs and artifacts."""
    if not (past.logs or past.debug_logs or past.artifacts):
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "console.log").write_text(past.logs, encoding="utf-8")
    (folder / "dbt.log").write_text(past.debug_logs, encoding="utf-8")
    for name, content in past.artifacts.items():
        path = folder / "target" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            # A manifest of many megabytes in a thousand runs is one file.
            with contextlib.suppress(OSError):
                os.link(content, path)
            if not path.exists():
                shutil.copyfile(content, path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            path.write_text(json.dumps(content), encoding="utf-8")


def append_log(folder: Path, text: str) -> None:
    """Add to the console log of a step, in one write: a reader sees all of it or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "console.log").open("ab", buffering=0) as log:
        log.write(text.encode("utf-8"))


# docs: reference/commands/retry
_UNFINISHED = ("error", "fail", "skipped", "runtime error", "partial success")


def unfinished(target: Path) -> tuple[str, ...]:
    """The nodes of ``run_results.json`` in ``target`` that ``dbt retry`` runs again."""
    path = target / "run_results.json"
    if not path.is_file():
        return ()
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    return tuple(one["unique_id"] for one in results if one["status"] in _UNFINISHED)
