"""Addresses as people paste them."""

from __future__ import annotations

import pytest

from dagster_dbtcloud.cloud.urls import (
    DbtCloudUrl,
    is_loopback,
    is_url,
    normalize_access_url,
    parse_url,
    quote_path,
)
from dagster_dbtcloud.errors import ConfigError

CELL = "https://ab123.us1.dbt.com"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://ab123.us1.dbt.com", CELL),
        ("https://ab123.us1.dbt.com/", CELL),
        ("https://ab123.us1.dbt.com///", CELL),
        ("  https://ab123.us1.dbt.com\n", CELL),
        ("<https://ab123.us1.dbt.com>", CELL),
        ('"https://ab123.us1.dbt.com"', CELL),
        ("ab123.us1.dbt.com", CELL),
        ("ab123.us1.dbt.com/", CELL),
        ("//ab123.us1.dbt.com", CELL),
        ("AB123.us1.dbt.com", CELL),
        ("HTTPS://ab123.us1.dbt.com", CELL),
        ("https://ab123.us1.dbt.com:443", CELL),
        ("https://ab123.us1.dbt.com/api/v2", CELL),
        ("https://ab123.us1.dbt.com/api/v2/", CELL),
        ("https://ab123.us1.dbt.com//api/v3/accounts/4242/", CELL),
        ("ab123.us1.dbt.com/deploy/4242/projects/11/jobs/77", CELL),
        ("https://ab123.us1.dbt.com/some/new/page?x=1", CELL),
        ("https://cloud.getdbt.com/#/accounts/1/", "https://cloud.getdbt.com"),
        ("http://cloud.getdbt.com", "https://cloud.getdbt.com"),
        ("http://cloud.getdbt.com:80", "https://cloud.getdbt.com:80"),
        ("https://dbt.example.com:8443/api/v2", "https://dbt.example.com:8443"),
        ("https://gateway.example.com/dbt/api/v2/", "https://gateway.example.com/dbt"),
        ("https://gateway.example.com/dbt/cloud/", "https://gateway.example.com/dbt/cloud"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("localhost:8000", "http://localhost:8000"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("https://127.0.0.1:8000", "https://127.0.0.1:8000"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
        ("http://sandbox.localhost:8000", "http://sandbox.localhost:8000"),
        ("http://sandbox:8000", "http://sandbox:8000"),
        ("http://dbt_sandbox:8000", "http://dbt_sandbox:8000"),
        ("http://192.168.1.7:8000", "http://192.168.1.7:8000"),
        ("http://8.8.8.8:8000", "https://8.8.8.8:8000"),
        ("sandbox", "https://sandbox"),
    ],
)
def test_access_urls_are_brought_to_one_form(text: str, expected: str) -> None:
    """Scheme and host, nothing behind them; http on the local network only."""
    assert normalize_access_url(text) == expected
    assert normalize_access_url(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "https://",
        "https:///api/v2",
        "ftp://ab123.us1.dbt.com",
        "https://ab 123.us1.dbt.com",
        "https://-ab123.us1.dbt.com",
        "https://ab123..dbt.com",
        "https://ab123.us1.dbt.com:port",
        "https://ab123.us1.dbt.com:99999",
        "https://[::1",
        "dbtc_s3cr3t",
        "https://me:s3cr3t@ab123.us1.dbt.com",
    ],
)
def test_what_is_no_address_is_refused_without_being_shown(text: str) -> None:
    """The message says what is expected; it does not repeat what may be a token or password."""
    with pytest.raises(ConfigError, match=r"https://ab123\.us1\.dbt\.com") as caught:
        normalize_access_url(text)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{CELL}/deploy/4242/projects/11/jobs/77", {"project_id": 11, "job_id": 77}),
        (f"{CELL}/deploy/4242/projects/11/jobs/77/", {"project_id": 11, "job_id": 77}),
        (f"{CELL}/deploy/4242/projects/11/jobs/77/settings", {"project_id": 11, "job_id": 77}),
        (f"{CELL}/deploy/4242/projects/11/runs/900123/", {"project_id": 11, "run_id": 900123}),
        (f"{CELL}/deploy/4242/projects/11/runs/9?tab=x#step-4", {"project_id": 11, "run_id": 9}),
        (
            f"{CELL}/deploy/4242/projects/11/environments/21/settings",
            {"project_id": 11, "environment_id": 21},
        ),
        (f"{CELL}/explore/4242/projects/11/environments/production/details", {"project_id": 11}),
        (f"{CELL}/dashboard/4242/projects/11", {"project_id": 11}),
        (f"{CELL}/settings/accounts/4242/pages/users", {}),
        (f"{CELL}/next/deploy/4242/projects/11/jobs/77", {"project_id": 11, "job_id": 77}),
        (f"{CELL}/#/accounts/4242/projects/11/jobs/77/", {"project_id": 11, "job_id": 77}),
        (f"{CELL}/accounts/4242/jobs/77/docs/#!/overview", {"job_id": 77}),
        (f"{CELL}/api/v2/accounts/4242/jobs/77/", {"job_id": 77}),
        (f"{CELL}/api/v2/accounts/4242/runs/900123/artifacts/manifest.json", {"run_id": 900123}),
        (
            f"{CELL}/api/v3/accounts/4242/projects/11/environments/21/",
            {"project_id": 11, "environment_id": 21},
        ),
        ("ab123.us1.dbt.com/deploy/4242/projects/11", {"project_id": 11}),
        (
            f"{CELL}/deploy/4242/projects/70403103900011/jobs/70403103900077",
            {"project_id": 70403103900011, "job_id": 70403103900077},
        ),
    ],
)
def test_pasted_urls_name_what_they_show(text: str, expected: dict[str, int]) -> None:
    """Pages of today and of older days, and the API's own addresses."""
    assert parse_url(text) == DbtCloudUrl(access_url=CELL, account_id=4242, **expected)


def test_a_bare_host_names_nothing_but_itself() -> None:
    """No ids in it: none are made up."""
    assert parse_url("ab123.us1.dbt.com") == DbtCloudUrl(access_url=CELL)


def test_ids_too_long_to_be_ids_are_left_out() -> None:
    """A number of thousands of digits is not one."""
    assert parse_url(f"{CELL}/deploy/{'9' * 5000}/projects/11").account_id is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CELL, True),
        (f"{CELL}/deploy/4242", True),
        ("ab123.us1.dbt.com/deploy/4242/projects/11", True),
        ("localhost:8580/deploy/4242/projects/11/jobs/77/", True),
        ("nightly", False),
        ("ci/nightly", False),
        ("Build / nightly", False),
        ("v1.2/hotfix", False),
        ("/", False),
        ("", False),
    ],
)
def test_a_name_is_no_address(text: str, expected: bool) -> None:
    """Names hold slashes and dots; an address has a scheme, or tells an id."""
    assert is_url(text) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("a.localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("192.168.1.7", False),
        ("localhost.example.com", False),
    ],
)
def test_this_machine_is_known(host: str, expected: bool) -> None:
    """Names and addresses of the loopback interface, and nothing else."""
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("path", "quoted"),
    [
        ("manifest.json", "manifest.json"),
        ("compiled/my shop/models/a b.sql", "compiled/my%20shop/models/a%20b.sql"),
        ("compiled/shop/models/50%.sql", "compiled/shop/models/50%25.sql"),
        ("compiled/shop/a?b#c.sql", "compiled/shop/a%3Fb%23c.sql"),
        ("compiled/shop/größe.sql", "compiled/shop/gr%C3%B6%C3%9Fe.sql"),
        ("compiled/shop/a..b.sql", "compiled/shop/a..b.sql"),
        ("compiled\\shop.sql", "compiled%5Cshop.sql"),
    ],
)
def test_artifact_paths_are_quoted_part_by_part(path: str, quoted: str) -> None:
    """Slashes stay, everything else that means something in a URL does not."""
    assert quote_path(path) == quoted


@pytest.mark.parametrize(
    "path", ["", "/", "/manifest.json", "a//b", "a/", "..", "../x", "a/../b", "./a", "a/.", "a\x00"]
)
def test_artifact_paths_that_climb_are_refused(path: str) -> None:
    """Nothing outside of the run's artifacts is asked for."""
    with pytest.raises(ConfigError, match="not the path of an artifact"):
        quote_path(path)
