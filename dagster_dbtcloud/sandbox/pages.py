"""Short pages for people: where the links lead that a client shows. Plain HTML, no script.

No token and no secret is on any page; everything that comes from outside is escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any

from starlette.responses import HTMLResponse

from dagster_dbtcloud.sandbox import shapes, wire
from dagster_dbtcloud.sandbox.routing import Call
from dagster_dbtcloud.sandbox.state import ACTIVE, STATUS_NAMES, SUCCESS, Cloud
from dagster_dbtcloud.sandbox.store import Doc
from dagster_dbtcloud.sandbox.wire import Refusal

_SHOWN_RUNS = 50
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
       color: #1c2330; background: #fff }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #dde2ea;
         vertical-align: top }
pre { background: #f5f7fa; padding: .8rem; overflow-x: auto; font-size: 13px }
a { color: #0b5cad } .note { color: #5b6675 }
.Success { color: #2f7a1f } .Error { color: #b0003f } .Cancelled, .Skipped { color: #6e7989 }
"""


def page(call: Call) -> HTMLResponse:
    """Any path that is not of an API. Raises: Refusal 404 as a page."""
    path = call.ids["path"]
    for pattern, show in _PAGES:
        match = re.fullmatch(pattern, path)
        if match is not None:
            try:
                return show(call, match)
            except Refusal:
                break
    return _html("Not found", "<p>There is nothing here.</p>", status=404)


def _html(title: str, body: str, *, status: int = 200) -> HTMLResponse:
    return HTMLResponse(
        f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        f"<meta name='viewport' content='width=device-width'>"
        f"<title>{escape(title)} · dbt Cloud sandbox</title><style>{_STYLE}</style></head>"
        f"<body><p class='note'><a href='/'>dbt Cloud sandbox</a></p>"
        f"<h1>{escape(title)}</h1>{body}</body></html>",
        status,
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = "".join(f"<th>{escape(word)}</th>" for word in head)
    lines = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{lines}</table>"


def _link(path: str, text: Any) -> str:
    return f"<a href='{escape(path)}'>{escape(str(text))}</a>"


def _status(name: str) -> str:
    return f"<span class='{escape(name)}'>{escape(name)}</span>"


def _run_rows(cloud: Cloud, where: Doc) -> str:
    rows = []
    for run in cloud.store.select("runs", where, order_by="-id", limit=_SHOWN_RUNS):
        job = cloud.store.get("jobs", run["job_definition_id"]) or {"name": "?"}
        trigger = cloud.store.get("triggers", run["trigger_id"]) or {"cause": "?"}
        seconds = wire.between(run["started_at"], run["finished_at"], cloud.clock.now())
        rows.append(
            (
                _link(shapes.run_path(run), run["id"]),
                _status(STATUS_NAMES[run["status"]]),
                escape(job["name"]),
                escape(trigger["cause"]),
                escape(run["created_at"][:19]),
                wire.duration(seconds),
            )
        )
    if not rows:
        return "<p class='note'>No run yet.</p>"
    return _table(("Run", "Status", "Job", "Cause", "Created (UTC)", "Duration"), rows)


def _home(call: Call, _: re.Match[str]) -> HTMLResponse:
    cloud = call.cloud
    body = ""
    for project in cloud.store.select("projects", {"state": 1}):
        environments = cloud.store.select("environments", {"project_id": project["id"], "state": 1})
        jobs = cloud.store.select("jobs", {"project_id": project["id"], "state": 1})
        body += f"<h2>Project {escape(project['name'])} ({project['id']})</h2>"
        body += _table(
            ("Environment", "Id", "Type"),
            (
                (escape(e["name"]), str(e["id"]), escape(e["deployment_type"] or e["type"]))
                for e in environments
            ),
        )
        if jobs:
            body += "<h2>Jobs</h2>" + _table(
                ("Job", "Id", "Commands"),
                (
                    (
                        _link(_job_path(job), job["name"]),
                        str(job["id"]),
                        "<br>".join(escape(step) for step in job["execute_steps"]),
                    )
                    for job in jobs
                ),
            )
    body += "<h2>Runs, newest first</h2>" + _run_rows(cloud, {})
    return _html("A local dbt Cloud", body)


def _job_path(job: Doc) -> str:
    return f"/deploy/{job['account_id']}/projects/{job['project_id']}/jobs/{job['id']}/"


def _job(call: Call, match: re.Match[str]) -> HTMLResponse:
    job = call.cloud.find("jobs", int(match["job"]), account_id=int(match["account"]))
    commands = "".join(f"<pre>{escape(step)}</pre>" for step in job["execute_steps"])
    runs = _run_rows(call.cloud, {"job_definition_id": job["id"]})
    return _html(f"Job {job['name']}", f"{commands}<h2>Runs, newest first</h2>{runs}")


def _run(call: Call, match: re.Match[str]) -> HTMLResponse:
    cloud = call.cloud
    doc = cloud.find("runs", int(match["run"]), account_id=int(match["account"]))
    run = shapes.run(cloud, doc, ("trigger", "job", "run_steps"), site="")
    job, trigger = run["job"] or {"name": "?", "id": 0}, run["trigger"] or {"cause": "?"}
    stored_job = cloud.store.get("jobs", doc["job_definition_id"])
    facts = [
        ("Status", _status(run["status_humanized"])),
        ("Message", escape(run["status_message"] or "")),
        ("Job", _link(_job_path(stored_job), job["name"]) if stored_job else escape(job["name"])),
        ("Cause", escape(trigger["cause"])),
        ("Created (UTC)", escape(run["created_at"][:19])),
        ("Finished (UTC)", escape((run["finished_at"] or "")[:19])),
        ("Duration", escape(run["run_duration"])),
        ("Commit", escape(f"{run['git_branch'] or ''} {run['git_sha'] or ''}")),
        ("Waits for", ", ".join(str(one) for one in run["blocked_by"])),
    ]
    body = _table(("", ""), ((escape(name), value) for name, value in facts if value))
    for step in run["run_steps"]:
        opened = " open" if step["status"] not in (SUCCESS,) or step["index"] > 3 else ""
        body += (
            f"<details{opened}><summary>{step['index']}. {escape(step['name'])} "
            f"{_status(step['status_humanized'])} {step['duration']}</summary>"
            f"<pre>{escape(step['logs'])}</pre></details>"
        )
    if doc["status"] in ACTIVE:
        body += "<p class='note'>The run is active; load the page again to see more.</p>"
    return _html(f"Run {run['id']}", body)


def _explore(call: Call, match: re.Match[str]) -> HTMLResponse:
    """A node's page, from the newest manifest; or the list of all nodes."""
    manifest = _newest(call.cloud, int(match["account"]), int(match["project"]))
    if manifest is None:
        return _html("Explore", "<p>No run has left a manifest yet.</p>")
    nodes = {
        **manifest.get("nodes", {}),
        **manifest.get("sources", {}),
        **manifest.get("exposures", {}),
    }
    words = [*match["rest"].split("/"), *call.query.values()]
    wanted = next((word for word in words if word in nodes), None)
    base = f"/explore/{match['account']}/projects/{match['project']}/details/"
    if wanted is None:
        return _html("Explore", _table(
            ("Node", "Type"),
            ((_link(base + key, key), escape(str(node.get("resource_type"))))
             for key, node in sorted(nodes.items())),
        ))  # fmt: skip
    node = nodes[wanted]
    facts = [
        ("Type", escape(str(node.get("resource_type")))),
        ("Relation", escape(str(node.get("relation_name") or ""))),
        ("File", escape(str(node.get("original_file_path")))),
        ("Description", escape(str(node.get("description") or ""))),
        ("Tags", escape(", ".join(node.get("tags") or []))),
        (
            "Depends on",
            "<br>".join(
                _link(base + one, one)
                for one in (node.get("depends_on") or {}).get("nodes", [])
                if one in nodes
            ),
        ),
    ]
    body = _table(("", ""), ((name, value) for name, value in facts if value))
    body += f"<pre>{escape(str(node.get('raw_code') or ''))}</pre>"
    return _html(wanted, body)


def _newest(cloud: Cloud, account_id: int, project_id: int) -> dict[str, Any] | None:
    cloud.find("projects", project_id, account_id=account_id)
    for run in cloud.store.select(
        "runs", {"project_id": project_id}, order_by="-id", limit=_SHOWN_RUNS
    ):
        for step in reversed(cloud.steps(run["id"])):
            path: Path = cloud.step_dir(run["id"], step["index"]) / "target" / "manifest.json"
            if path.is_file() and run["status"] not in ACTIVE:
                loaded = json.loads(path.read_text(encoding="utf-8"))
                return loaded if isinstance(loaded, dict) else None
    return None


def _redirect_home(call: Call, match: re.Match[str]) -> HTMLResponse:
    call.cloud.find("projects", int(match["project"]), account_id=int(match["account"]))
    return _home(call, match)


_IN_PROJECT = r"/(?P<account>\d+)/projects/(?P<project>\d+)"
_PAGES: tuple[tuple[str, Callable[[Call, re.Match[str]], HTMLResponse]], ...] = (
    (r"/?", _home),
    (rf"/deploy{_IN_PROJECT}/runs/(?P<run>\d+)/?", _run),
    (rf"/deploy{_IN_PROJECT}/jobs/(?P<job>\d+)/?", _job),
    (rf"/deploy{_IN_PROJECT}(/.*)?", _redirect_home),
    (rf"/explore{_IN_PROJECT}(?P<rest>/.*)?", _explore),
)
