"""A whole sandbox: state, executor and web server together, in this process.

``Sandbox`` is the Python API and prints nothing; ``serve`` is the blocking form for a command.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import uvicorn
from typing_extensions import Self

from dagster_dbtcloud.clock import Clock, SystemClock
from dagster_dbtcloud.sandbox import app, checkout, history, shapes, variables
from dagster_dbtcloud.sandbox.behaviour import Behaviour
from dagster_dbtcloud.sandbox.edge import Edge, RequestLog, RequestRecord
from dagster_dbtcloud.sandbox.executor import Executor
from dagster_dbtcloud.sandbox.faults import Faults
from dagster_dbtcloud.sandbox.history import PastStep, Script
from dagster_dbtcloud.sandbox.state import ACTIVE, RUNNING, SUCCESS, Cloud
from dagster_dbtcloud.sandbox.store import Doc, Store
from dagster_dbtcloud.sandbox.tokens import PERMISSION_SETS
from dagster_dbtcloud.sandbox.webhooks import EVENT_TYPES, Courier, subscribe
from dagster_dbtcloud.sandbox.wire import to_text


class Sandbox:
    """A local dbt Cloud for one dbt project. A context manager; ``start`` and ``stop`` also do.

    ``project_dir`` is never written to. Without ``state_dir`` the state is temporary; with one,
    a later sandbox on it goes on with the same ids, token and history. ``duckdb_path`` is what
    ``DBT_SANDBOX_DUCKDB_PATH`` says to the profile in the main environment (by default a file
    below the state). ``environment`` are environment variables of the dbt Cloud project.
    ``warm`` False starts dbt only with the first run: for tests that run none.
    """

    def __init__(
        self,
        *,
        project_dir: Path | str,
        state_dir: Path | str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        behaviour: Behaviour | None = None,
        token: str | None = None,
        duckdb_path: Path | str | None = None,
        environment: Mapping[str, str] | None = None,
        warm: bool = True,
    ) -> None:
        self.project_dir = Path(project_dir).resolve()
        checkout.project_settings(self.project_dir)
        self._temporary = state_dir is None
        self.state_dir = (
            Path(tempfile.mkdtemp(prefix="dbt-cloud-sandbox-"))
            if state_dir is None
            else Path(state_dir).resolve()
        )
        # The token is in there.
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.clock: Clock = clock or SystemClock()
        self.behaviour = behaviour or Behaviour()
        self._host, self._port = host, port
        self._warm = warm
        self._duckdb_path = None if duckdb_path is None else Path(duckdb_path).resolve()
        self._store = Store(self.state_dir / "sandbox.sqlite")
        self._cloud = Cloud(
            self._store, clock=self.clock, behaviour=self.behaviour, state_dir=self.state_dir
        )
        self._log = RequestLog()
        self.faults = Faults(self.clock, self._cloud.now)
        self._first_time(token)
        for name, value in (environment or {}).items():
            self.set_variable(name, value)
        self._executor = Executor(
            self._cloud,
            project_dir=self.project_dir,
            warehouse=self.warehouse,
        )
        self._courier = Courier(self._cloud)
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self.url = ""

    def __repr__(self) -> str:
        return f"<Sandbox {self.url or 'not started'} account {self.account_id}>"

    def _first_time(self, token: str | None) -> None:
        """Make account, project, environments and token; or find those of an earlier sandbox."""
        name = str(checkout.project_settings(self.project_dir).get("name") or "project")
        with self._store.transaction():
            accounts = self._store.select("accounts", limit=1)
            if accounts:
                account_id = accounts[0]["id"]
                project_id = self._store.select("projects", {"account_id": account_id})[0]["id"]
            else:
                account_id = self._cloud.create_account("Sandbox")["id"]
                project_id = self._cloud.create_project(account_id, name)["id"]
                self._cloud.create_environment(
                    account_id, project_id, "Development", type="development"
                )
                self._cloud.create_environment(
                    account_id, project_id, "Production", deployment_type="production"
                )
            production = {"project_id": project_id, "deployment_type": "production"}
            self.account_id: int = account_id
            self.project_id: int = project_id
            self.environment_id: int = self._store.select("environments", production)[0]["id"]
            tokens = self._store.select("tokens", {"account_id": account_id, "name": "sandbox"})
            if tokens and token is None:
                self.token: str = tokens[0]["secret"]
            elif tokens:
                self.token = str(token)
                self._store.update("tokens", tokens[0]["id"], secret=token)
            else:
                self.token = self.create_token("account_admin", name="sandbox", secret=token)

    # -- life ------------------------------------------------------------------------------

    def start(self) -> Self:
        """Serve. Returns when requests are answered; dbt is imported meanwhile."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        self._socket = socket.create_server((self._host, self._port), family=family)
        # asyncio does this only for sockets that name TCP as their protocol; without it each
        # answer on a kept connection waits 40 ms for the client's acknowledgement.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port = self._socket.getsockname()[:2]
        # Where clients on this machine find it, also when all addresses are served.
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        self.url = f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
        self._executor.start()
        self._courier.start()
        if self._warm:
            self._executor.worker(self.environment_id).start()
        application = Edge(
            app.build(self._cloud, self.faults),
            faults=self.faults,
            log=self._log,
            clock=self.clock,
        )
        config = uvicorn.Config(
            application,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            # uvicorn renews the date in the loop that we replace.
            date_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="sandbox-http", daemon=True
        )
        self._thread.start()
        self._server.ready.wait()
        return self

    def stop(self) -> None:
        """Stop serving, kill dbt, keep the state (unless it is temporary). May be called twice."""
        if self._thread is not None and self._server is not None:
            self._server.end()
            self._thread.join()
            self._executor.stop()
            self._courier.stop()
            self._thread = None
        if self._socket is not None:
            self._socket.close()
        self._store.close()
        if self._temporary:
            shutil.rmtree(self.state_dir, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # -- what a client needs ---------------------------------------------------------------

    @property
    def env(self) -> dict[str, str]:
        """The variables that a client of this sandbox wants; the token is among them."""
        return {
            "DBT_CLOUD_ACCESS_URL": self.url,
            "DBT_CLOUD_ACCOUNT_ID": str(self.account_id),
            "DBT_CLOUD_TOKEN": self.token,
            "DBT_CLOUD_PROJECT_ID": str(self.project_id),
            "DBT_CLOUD_ENVIRONMENT_ID": str(self.environment_id),
        }

    @property
    def requests(self) -> tuple[RequestRecord, ...]:
        """The requests so far, oldest first."""
        return self._log.snapshot()

    def clear_requests(self) -> None:
        self._log.clear()

    def warehouse(self, environment_id: int | None = None) -> Path:
        """The DuckDB file that ``DBT_SANDBOX_DUCKDB_PATH`` names in an environment."""
        wanted = self.environment_id if environment_id is None else environment_id
        if wanted == self.environment_id and self._duckdb_path is not None:
            return self._duckdb_path
        return self._cloud.environment_dir(wanted) / "warehouse.duckdb"

    # -- what a person does in dbt Cloud ---------------------------------------------------

    def create_token(
        self,
        permission: str = "account_admin",
        *,
        name: str = "token",
        account_id: int | None = None,
        project_ids: Sequence[int] | None = None,
        secret: str | None = None,
    ) -> str:
        """Make a service token with one of dbt Cloud's permission sets and return its secret."""
        if permission not in PERMISSION_SETS:
            raise ValueError(f"permission: {permission!r} is not one of {sorted(PERMISSION_SETS)}")
        made = secret or "dbtc_" + secrets.token_urlsafe(24)
        self._store.insert(
            "tokens",
            {
                "name": name,
                "secret": made,
                "permission": permission,
                "account_id": self.account_id if account_id is None else account_id,
                "project_ids": None if project_ids is None else list(project_ids),
            },
        )
        return made

    def revoke_token(self, secret: str) -> None:
        for doc in self._store.select("tokens", {"secret": secret}):
            self._store.delete("tokens", doc["id"])

    def create_account(self, name: str, **fields: Any) -> int:
        return int(self._cloud.create_account(name, **fields)["id"])

    def update_account(self, **fields: Any) -> None:
        """Change the account, e.g. ``run_slots=1`` or ``locked=True``."""
        with self._cloud.changed:
            self._store.update("accounts", self.account_id, **fields)
            self._cloud.changed.notify_all()

    def create_project(self, name: str, *, account_id: int | None = None, **fields: Any) -> int:
        account = self.account_id if account_id is None else account_id
        return int(self._cloud.create_project(account, name, **fields)["id"])

    def create_environment(self, name: str, *, project_id: int | None = None, **fields: Any) -> int:
        """Make a deployment environment; ``deployment_type`` "staging" or None."""
        project = self._cloud.find(
            "projects", self.project_id if project_id is None else project_id
        )
        made = self._cloud.create_environment(project["account_id"], project["id"], name, **fields)
        return int(made["id"])

    def set_variable(self, name: str, value: str, *, job_id: int | None = None) -> None:
        """Set an environment variable of the project, or its override for a job."""
        project = self._cloud.find("projects", self.project_id)
        kind = "project" if job_id is None else "job"
        body = {"type": kind, "name": name, "raw_value": value, "job_definition_id": job_id}
        variables.create(self._cloud, project, body)

    def create_job(
        self,
        name: str = "job",
        execute_steps: Sequence[str] = ("dbt build",),
        *,
        environment_id: int | None = None,
        **settings: Any,
    ) -> int:
        """Make a job as a person would; ``settings`` are the API's fields. Returns its id."""
        wanted = self.environment_id if environment_id is None else environment_id
        environment = self._cloud.find("environments", wanted)
        body = {
            "name": name,
            "project_id": environment["project_id"],
            "environment_id": wanted,
            "execute_steps": list(execute_steps),
            **settings,
        }
        return int(self._cloud.create_job(environment["account_id"], body)["id"])

    def update_job(self, job_id: int, **fields: Any) -> None:
        """Change fields of a job and no others, e.g. ``deactivated=True``."""
        job = self._cloud.find("jobs", job_id)
        with self._cloud.changed, self._store.transaction():
            self._cloud.update_job(job, {**job, **fields})
            if "deactivated" in fields:
                self._store.update("jobs", job_id, deactivated=bool(fields["deactivated"]))
            self._cloud.changed.notify_all()

    def delete_job(self, job_id: int) -> None:
        self._cloud.delete_job(self._cloud.find("jobs", job_id))

    def trigger(
        self,
        job_id: int,
        *,
        cause: str = "Kicked off from UI",
        cause_category: str = "ui",
        **body: Any,
    ) -> int:
        """Start a run as a person ("ui") or dbt Cloud's scheduler ("scheduled") does."""
        job = self._cloud.find("jobs", job_id)
        run = self._cloud.trigger(job, {"cause": cause, **body}, category=cause_category)
        return int(run["id"])

    def cancel(self, run_id: int) -> None:
        self._cloud.cancel(run_id, actor={"id": 1, "type": "user", "name": "Somebody"})

    def subscribe(
        self,
        client_url: str,
        event_types: Sequence[str] = EVENT_TYPES,
        *,
        name: str = "webhook",
        job_ids: Sequence[int] = (),
    ) -> str:
        """Have ``client_url`` told of runs; returns the secret that signs what arrives there."""
        body = {
            "name": name,
            "client_url": client_url,
            "event_types": list(event_types),
            "job_ids": list(job_ids),
            "active": True,
        }
        return str(subscribe(self._cloud, self.account_id, body)["hmac_secret"])

    # -- the truth, for tests --------------------------------------------------------------

    def runs(self, *, after: int = 0) -> list[Doc]:
        """Every run with its trigger, job and steps, as the API would show it, oldest first.

        ``after``: only those whose id is larger.
        """
        found = self._store.select("runs", also=[("id > ?", (after,))])
        return [self._shown(doc) for doc in found]

    def run(self, run_id: int) -> Doc:
        """One run, likewise. Raises: KeyError."""
        doc = self._store.get("runs", run_id)
        if doc is None:
            raise KeyError(run_id)
        return self._shown(doc)

    def jobs(self) -> list[Doc]:
        """Every job that is not deleted."""
        return [shapes.job(self._cloud, doc) for doc in self._store.select("jobs", {"state": 1})]

    def _shown(self, doc: Doc) -> Doc:
        include = ("trigger", "job", "run_steps", "debug_logs", "audit")
        return shapes.run(self._cloud, doc, include, site=self.url)

    def wait(self, run_id: int, timeout: float = 60.0, *, status: int | None = None) -> Doc:
        """Wait (``timeout`` real seconds) until a run is over, or has reached ``status``.

        Raises: TimeoutError, naming where the run stands.
        """

        def reached() -> bool:
            doc = self._store.get("runs", run_id)
            if doc is None:
                raise KeyError(run_id)
            return doc["status"] >= status if status else doc["status"] not in ACTIVE

        with self._cloud.changed:
            if not self._cloud.changed.wait_for(reached, timeout):
                stand = self.run(run_id)["status_humanized"]
                raise TimeoutError(f"run {run_id} is still {stand} after {timeout} seconds")
        return self.run(run_id)

    # -- history ---------------------------------------------------------------------------

    def insert_run(
        self,
        job_id: int,
        *,
        status: int = SUCCESS,
        steps: Sequence[PastStep] = (),
        finished_at: datetime | None = None,
        started_at: datetime | None = None,
        created_at: datetime | None = None,
        cause: str = "Scheduled",
        cause_category: str = "scheduled",
        status_message: str | None = None,
        listed_at: datetime | None = None,
        artifacts_at: datetime | None = None,
        builtin: bool = True,
        run_id: int | None = None,
        git_branch: str | None = "main",
        git_sha: str | None = "0" * 40,
        **overrides: Any,
    ) -> int:
        """Put a run into history without running dbt; returns its id.

        Dates are of now unless given. ``listed_at``: until then lists lack the run;
        ``artifacts_at``: until then its artifacts are 404. ``builtin``: the three first steps
        are put before ``steps``. ``overrides`` are the trigger's fields (``schema_override``,
        ``github_pull_request_id``, ...). With an active ``status`` (1, 2, 3) the run hangs in it
        until ``finish_run``.
        """
        return history.insert_run(
            self._cloud,
            job_id,
            status=status,
            steps=steps,
            finished_at=finished_at,
            started_at=started_at,
            created_at=created_at,
            trigger={"cause": cause, "cause_category": cause_category, **overrides},
            fields={
                "status_message": status_message,
                "listed_at": None if listed_at is None else to_text(listed_at),
                "artifacts_at": None if artifacts_at is None else to_text(artifacts_at),
                "git_branch": git_branch,
                "git_sha": git_sha,
            },
            builtin=builtin,
            run_id=run_id,
        )

    def play(self, script: Script | None) -> None:
        """Let runs follow ``script`` instead of dbt; None ends it.

        For each command of a run, ``script(run, command)`` says what the step shows: logs,
        artifacts, status. Milliseconds instead of seconds, for tests of what a client does
        around dbt. Commands for which it returns None are run by dbt.
        """
        self._executor.script = script

    def release(self, run_id: int) -> None:
        """Let a played step with ``hold`` end."""
        self._executor.release(run_id)

    def write_log(self, run_id: int, index: int | None, text: str) -> None:
        """Add to the console log of a step (None: of the one that is running), as dbt would.

        Raises: KeyError if no step is running.
        """
        if index is None:
            running = [step for step in self._cloud.steps(run_id) if step["status"] == RUNNING]
            if not running:
                raise KeyError(run_id)
            index = int(running[0]["index"])
        history.append_log(self._cloud.step_dir(run_id, index), text)

    def unfinished(self, run_id: int) -> tuple[str, ...]:
        """The nodes that ``dbt retry`` would run for a failed run: what failed or was skipped.

        For scripts that play a retry: ``unfinished(run["retrying_run_id"])``.
        Raises: KeyError if the run did not fail.
        """
        failed, _ = self._cloud.failure_of(self._store.get("runs", run_id) or {"id": run_id})
        if failed is None:
            raise KeyError(run_id)
        return history.unfinished(self._cloud.step_dir(run_id, failed["index"]) / "target")

    def finish_run(self, run_id: int, status: int, message: str | None = None) -> None:
        """End a run that ``insert_run`` left active."""
        self._cloud.finish(run_id, status, message)


class _Server(uvicorn.Server):
    """uvicorn that tells when it answers, and ends when told instead of at its next tick."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None

    async def main_loop(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self.ready.set()
        await self._over.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Without uvicorn's pause where no connection is left: tests make many sandboxes."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(0)
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)

    def end(self) -> None:
        """Callable from any thread once ``ready``."""
        if self._loop is not None and self._over is not None:
            self._loop.call_soon_threadsafe(self._over.set)


def serve(
    *,
    project_dir: Path | str,
    host: str = "127.0.0.1",
    port: int = 0,
    state_dir: Path | str | None = None,
    env_file: Path | str | None = None,
    duckdb_path: Path | str | None = None,
    on_ready: Callable[[Sandbox], None] | None = None,
) -> None:
    """Run a sandbox until SIGINT or SIGTERM, then stop what it started. Main thread only.

    ``env_file`` gets ``export NAME=value`` lines of ``Sandbox.env`` and is readable by its
    owner alone. ``on_ready`` is called with the sandbox once requests are answered.

    Raises: OSError (the port is taken), ProjectError (no dbt project there).
    """
    over = threading.Event()

    def end(*_: object) -> None:
        over.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        sandbox = Sandbox(
            project_dir=project_dir,
            host=host,
            port=port,
            state_dir=state_dir,
            duckdb_path=duckdb_path,
        )
        with sandbox:
            if env_file is not None:
                write_env_file(Path(env_file), sandbox.env)
            if on_ready is not None:
                on_ready(sandbox)
            over.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def write_env_file(path: Path, variables: Mapping[str, str]) -> None:
    """Write ``export NAME=value`` lines, at once, mode 0600."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    lines = "".join(f"export {name}={value}\n" for name, value in variables.items())
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(lines)
    temporary.replace(path)
