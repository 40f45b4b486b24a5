"""Runs what is queued: a thread per active run, a warm dbt process per environment.

What a run does is in ``execution.py``; what may start is decided by ``state.py``.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dagster_dbtcloud.sandbox.execution import (
    POLL_SECONDS,
    Execution,
    Interrupted,
    Mailbox,
    time_limit,
)
from dagster_dbtcloud.sandbox.history import Script
from dagster_dbtcloud.sandbox.state import CANCELLED, ERROR, Cloud
from dagster_dbtcloud.sandbox.store import Doc
from dagster_dbtcloud.sandbox.worker import DbtWorker


@dataclass
class _Active:
    run_id: int
    mailbox: Mailbox = field(default_factory=queue.Queue)
    told: bool = False
    thread: threading.Thread | None = None


class Executor:
    """Starts queued runs as they become startable, until ``stop``."""

    def __init__(
        self,
        cloud: Cloud,
        *,
        project_dir: Path,
        warehouse: Callable[[int], Path],
    ) -> None:
        self._cloud = cloud
        self._project_dir = project_dir
        self._warehouse = warehouse
        self.script: Script | None = None
        self._active: dict[int, _Active] = {}
        self._workers: dict[int, DbtWorker] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="sandbox-scheduler", daemon=True)

    def start(self) -> None:
        self._cloud.recover()
        self._cloud.start_due()
        self._thread.start()

    def stop(self) -> None:
        """Kill what runs and wait for the threads; active runs end as errors."""
        with self._cloud.changed:
            self._stopping = True
            active = list(self._active.values())
            self._cloud.changed.notify_all()
        for run in active:
            run.mailbox.put("stop")
        for run in active:
            if run.thread is not None:
                run.thread.join()
        if self._thread.is_alive():
            self._thread.join()
        for worker in list(self._workers.values()):
            worker.kill()

    def release(self, run_id: int) -> None:
        """Let go of a played step that holds. Raises: KeyError if the run is not active."""
        with self._cloud.changed:
            mailbox = self._active[run_id].mailbox
        mailbox.put("release")

    def worker(self, environment_id: int) -> DbtWorker:
        """The dbt process of an environment, made on first use."""
        with self._cloud.changed:
            if environment_id not in self._workers:
                home = self._cloud.environment_dir(environment_id)
                home.mkdir(parents=True, exist_ok=True)
                self._workers[environment_id] = DbtWorker(home / "worker.log")
            return self._workers[environment_id]

    def _loop(self) -> None:
        changed = self._cloud.changed
        while True:
            with changed:
                if self._stopping:
                    return
                scheduled = self._cloud.start_due()
                for run in self._cloud.startable():
                    if run["id"] not in self._active:
                        self._launch(run)
                for active in self._active.values():
                    if not active.told and self._cancel_requested(active.run_id):
                        active.told = True
                        active.mailbox.put("cancel")
                # A delay may run out without anybody changing anything.
                waiting = scheduled or self._cloud.behaviour.queued_seconds > 0
                changed.wait(POLL_SECONDS if waiting else None)

    def _cancel_requested(self, run_id: int) -> bool:
        run = self._cloud.store.get("runs", run_id)
        return run is not None and bool(run["cancel_requested"])

    def _launch(self, run: Doc) -> None:
        active = _Active(run["id"])
        if not self._cloud.dequeue(run["id"]):
            return
        active.thread = threading.Thread(
            target=self._follow, args=(active,), name=f"sandbox-run-{run['id']}", daemon=True
        )
        self._active[run["id"]] = active
        active.thread.start()

    def _follow(self, active: _Active) -> None:
        cloud = self._cloud
        run_id = active.run_id
        try:
            run = cloud.store.get("runs", run_id) or {}
            environment_id = run["environment_id"]
            status, message = Execution(
                cloud,
                run,
                mailbox=active.mailbox,
                worker=self.worker(environment_id),
                project_dir=self._project_dir,
                warehouse=self._warehouse(environment_id),
                script=self.script,
            ).execute()
            cloud.finish(run_id, status, message)
        except Interrupted as interrupted:
            run = cloud.store.get("runs", run_id) or {}
            if interrupted.why == "timeout":
                cloud.time_out(run_id, time_limit(cloud, run))
            elif interrupted.why == "cancel":
                cloud.finish(run_id, CANCELLED, run.get("cancel_message"))
            else:
                cloud.finish(run_id, ERROR, "The sandbox stopped while this run was active.")
        except Exception as error:  # noqa: BLE001 -- a fault of the sandbox must end the run too
            cloud.finish(run_id, ERROR, f"The sandbox failed: {error!r}")
        finally:
            with cloud.changed:
                del self._active[run_id]
                cloud.changed.notify_all()
