"""Whatever users write for an id becomes the id, with no request where none is needed."""

from __future__ import annotations

from typing import Any

import dagster as dg
import httpx
import pytest

from dagster_dbtcloud.clock import ManualClock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.errors import ConfigError
from dagster_dbtcloud.identity import raw_key, resolve, safe_name, text_of
from dagster_dbtcloud.state import WorkspaceIds

HOST = "https://ab123.us1.dbt.com"
ACCOUNT = 70403103900000

ROWS: dict[str, list[dict[str, Any]]] = {
    "/api/v3/accounts/": [{"id": ACCOUNT, "name": "Acme"}, {"id": 9, "name": "Twin"}],
    f"/api/v3/accounts/{ACCOUNT}/projects/": [
        {"id": 11, "name": "Shop"},
        {"id": 12, "name": "Twin"},
        {"id": 13, "name": "twin"},
        {"id": 14, "name": "Marketing / Sales"},
    ],
    f"/api/v3/accounts/{ACCOUNT}/projects/11/environments/": [
        {"id": 20, "name": "Dev", "type": "development"},
        {"id": 21, "name": "Prod", "type": "deployment", "deployment_type": "production"},
        {"id": 22, "name": "CI", "type": "deployment"},
    ],
    f"/api/v3/accounts/{ACCOUNT}/projects/12/environments/": [
        {"id": 31, "name": "A", "type": "deployment"},
        {"id": 32, "name": "B", "type": "deployment"},
    ],
    f"/api/v3/accounts/{ACCOUNT}/projects/13/environments/": [
        {"id": 41, "name": "Only", "type": "deployment"},
    ],
    f"/api/v3/accounts/{ACCOUNT}/projects/14/environments/": [
        {"id": 51, "name": "eu/prod", "type": "deployment"},
        {"id": 52, "name": "us/prod", "type": "deployment"},
    ],
}


class Service:
    """A dbt Cloud that knows a few names, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if request.url.path == f"/api/v2/accounts/{ACCOUNT}/jobs/77/":
            return httpx.Response(200, json={"data": {"id": 77, "environment_id": 22}})
        rows = ROWS.get(request.url.path)
        if rows is None:
            return httpx.Response(404, json={"status": {"code": 404}})
        extra = {"pagination": {"count": len(rows), "total_count": len(rows)}}
        return httpx.Response(200, json={"data": rows, "extra": extra})

    def client(self, access_url: str, account_id: int) -> DbtCloudClient:
        return DbtCloudClient(
            account_id=account_id,
            token="secret",
            access_url=access_url,
            clock=ManualClock(),
            transport=httpx.MockTransport(self),
        )


def ids(
    service: Service,
    account: object = ACCOUNT,
    project: object = 11,
    environment: object = 21,
    access_url: object = HOST,
) -> WorkspaceIds:
    return resolve(
        access_url=access_url,
        account=account,
        project=project,
        environment=environment,
        client=service.client,
    )


@pytest.mark.parametrize(
    ("account", "project", "environment"),
    [
        (ACCOUNT, 11, 21),
        (str(ACCOUNT), "11", "21"),
        (f" {ACCOUNT}\n", " 11 ", "21 "),
        (f"{HOST}/deploy/{ACCOUNT}/projects/11/environments/21", "11", 21),
        (ACCOUNT, f"{HOST}/deploy/{ACCOUNT}/projects/11/environments/21/", None),
    ],
)
def test_ids_cost_no_request(account: object, project: object, environment: object) -> None:
    """Ints, digits and pasted URLs are enough by themselves."""
    service = Service()
    assert ids(service, account, project, environment) == WorkspaceIds(HOST, ACCOUNT, 11, 21)
    assert service.asked == 0


@pytest.mark.parametrize(
    ("account", "project", "environment", "expected"),
    [
        ("Acme", "Shop", "Prod", (11, 21)),
        ("acme", "SHOP", "ci", (11, 22)),
        (ACCOUNT, 11, None, (11, 21)),
        (ACCOUNT, "Shop", "", (11, 21)),
        (ACCOUNT, 13, None, (13, 41)),
        (ACCOUNT, "Marketing / Sales", "us/prod", (14, 52)),
        (ACCOUNT, f"{HOST}/deploy/{ACCOUNT}/projects/11/jobs/77", None, (11, 22)),
        (ACCOUNT, f"{HOST[8:]}/deploy/{ACCOUNT}/projects/11/jobs/77", None, (11, 22)),
    ],
)
def test_names_are_looked_up(
    account: object, project: object, environment: object, expected: tuple[int, int]
) -> None:
    """Names in any case; no environment is the job's, else production, else the only one."""
    assert ids(Service(), account, project, environment) == WorkspaceIds(HOST, ACCOUNT, *expected)


def test_env_vars_really_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    """``EnvVar`` and its int form are read when they are used."""
    monkeypatch.setenv("THE_ACCOUNT", str(ACCOUNT))
    monkeypatch.setenv("THE_PROJECT", "11")
    monkeypatch.setenv("THE_URL", f"{HOST}/")
    found = ids(
        Service(),
        dg.EnvVar("THE_ACCOUNT"),
        dg.EnvVar.int("THE_PROJECT"),
        "21",
        dg.EnvVar("THE_URL"),
    )
    assert found == WorkspaceIds(HOST, ACCOUNT, 11, 21)


def test_the_host_of_a_pasted_url_is_used() -> None:
    """Who pastes a URL as the account has told the host, too."""
    url = f"https://other.eu1.dbt.com/deploy/{ACCOUNT}/projects/11/environments/21"
    assert ids(Service(), url, url, None).access_url == "https://other.eu1.dbt.com"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"account": None}, ["account_id", "os.getenv"]),
        ({"account": ""}, ["account_id"]),
        ({"project": None}, ["project_id"]),
        ({"account": "Nobody"}, ["0 accounts named 'Nobody'", "'Acme'", str(ACCOUNT)]),
        ({"project": "Shopp"}, ["no project named 'Shopp'", "'Shop' (11)"]),
        ({"project": "Twin"}, ["2 projects named 'Twin'", "'Twin' (12)", "'twin' (13)"]),
        ({"environment": "Staging"}, ["no environment named 'Staging'", "'Prod' (21)"]),
        ({"project": 12, "environment": None}, ["environment_id", "'A' (31)", "'B' (32)"]),
    ],
)
def test_what_cannot_be_resolved_is_told_with_what_there_is(
    values: dict[str, object], told: list[str]
) -> None:
    """The message names the value, and what could be meant."""
    with pytest.raises(ConfigError) as caught:
        ids(Service(), **values)
    assert [word for word in told if word not in str(caught.value)] == []


def test_an_env_var_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable's name is what the user has to look for."""
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(ConfigError, match="NOT_THERE"):
        text_of(dg.EnvVar("NOT_THERE"), "The dbt Cloud token")


def test_a_definitions_name_does_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a sensor is the same whether or not the variable is set."""
    monkeypatch.setenv("THE_PROJECT", "11")
    assert safe_name(dg.EnvVar("THE_PROJECT")) == "THE_PROJECT"
    assert safe_name(11) == "11"
    assert safe_name("My shop / prod") == "My_shop___prod"


def test_the_key_of_a_configuration_is_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that write one workspace in two ways share its state."""
    monkeypatch.setenv("THE_PROJECT", "11")
    assert raw_key(dg.EnvVar("THE_PROJECT"), 4242) == raw_key("11", "4242")
    assert raw_key(1, None) != raw_key(None, 1)
