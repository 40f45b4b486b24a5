"""The pages for people: where the links lead."""

from __future__ import annotations

import httpx
import pytest

from dagster_dbtcloud.sandbox import PastStep, Sandbox

_SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def site(still: Sandbox, api: httpx.Client) -> httpx.Client:
    """A visitor without a token."""
    api.base_url = httpx.URL(still.url)
    del api.headers["Authorization"]
    return api


def test_home_lists_jobs_and_runs(still: Sandbox, site: httpx.Client) -> None:
    """With links that work, and without the token."""
    job = still.create_job("nightly", ["dbt build"])
    run = still.insert_run(job, cause="by the clock")
    home = site.get("/")
    assert home.headers["content-type"].startswith("text/html")
    for word in ("nightly", "dbt build", str(run), "by the clock", str(still.environment_id)):
        assert word in home.text
    assert still.token not in home.text
    path = f"/deploy/{still.account_id}/projects/{still.project_id}"
    for link in (f"{path}/runs/{run}/", f"{path}/jobs/{job}/"):
        assert f"'{link}'" in home.text
        assert site.get(link).status_code == 200
    assert site.get(f"{path}/environments/5/").status_code == 200


def test_a_run_s_page_tells_its_story_and_escapes_it(still: Sandbox, site: httpx.Client) -> None:
    """Steps with their logs; the address is the run's ``href``."""
    job = still.create_job(_SCRIPT)
    run = still.insert_run(
        job,
        status=20,
        cause=_SCRIPT,
        status_message=_SCRIPT,
        steps=[PastStep(f"dbt run -s '{_SCRIPT}'", status=20, logs=f"oh no {_SCRIPT}")],
    )
    page = site.get(still.run(run)["href"]).text
    assert "oh no" in page
    assert "class='Error'" in page
    assert _SCRIPT not in page
    assert "&lt;script&gt;" in page


def test_a_node_s_page_comes_from_the_newest_manifest(still: Sandbox, site: httpx.Client) -> None:
    """Or all nodes are listed; without a manifest the page says so."""
    explore = f"/explore/{still.account_id}/projects/{still.project_id}"
    assert "No run has left a manifest yet" in site.get(explore).text
    node = {
        "resource_type": "model",
        "description": f"What was sold. {_SCRIPT}",
        "raw_code": "select 1",
        "depends_on": {"nodes": ["source.shop.raw.sales"]},
    }
    manifest = {
        "nodes": {"model.shop.sales": node},
        "sources": {"source.shop.raw.sales": {"resource_type": "source"}},
    }
    steps = [PastStep("dbt build", artifacts={"manifest.json": manifest})]
    still.insert_run(still.create_job("one"), steps=steps)
    by_path = site.get(f"{explore}/environments/production/details/model.shop.sales").text
    assert "What was sold." in by_path
    assert _SCRIPT not in by_path
    assert "details/source.shop.raw.sales" in by_path
    assert "What was sold." in site.get(f"{explore}/lineage?select=model.shop.sales").text
    assert "model.shop.sales" in site.get(f"{explore}/").text


@pytest.mark.parametrize(
    "path", ["/nothing", "/deploy/1/projects/2/runs/3/", "/explore/1/projects/2/", "/deploy/x"]
)
def test_what_is_not_there_is_404(site: httpx.Client, path: str) -> None:
    """As a page with a way home."""
    answer = site.get(path)
    assert answer.status_code == 404
    assert "href='/'" in answer.text
