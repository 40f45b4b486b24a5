"""Sandboxes to test: one with warm dbt for the whole room, and still ones that run none."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from dagster_dbtcloud.clock import ManualClock, SystemClock
from dagster_dbtcloud.sandbox import Sandbox

# One for all clients: loading certificates takes longer than most tests, and nothing needs them.
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TINY = Path(__file__).parents[1] / "projects" / "tiny"


def client(sandbox: Sandbox, *, token: str | None = None) -> httpx.Client:
    """An HTTP client at the account's v2 address; ``../../v3/...`` reaches the rest."""
    return httpx.Client(
        base_url=f"{sandbox.url}/api/v2/accounts/{sandbox.account_id}",
        headers={"Authorization": f"Token {token or sandbox.token}"},
        timeout=30,
        verify=_NO_CERTIFICATES,
    )


def until(ready: Callable[[], bool], *, seconds: float = 60) -> None:
    """Look again and again, for what changes without telling anybody."""
    clock = SystemClock()
    end = clock.monotonic() + seconds
    while not ready():
        assert clock.monotonic() < end, "it did not happen in time"
        clock.sleep(0.02)


@pytest.fixture(scope="package")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox that runs dbt on the tiny project."""
    with Sandbox(project_dir=TINY, state_dir=tmp_path_factory.mktemp("live")) as sandbox:
        yield sandbox


@pytest.fixture
def live_api(live: Sandbox) -> Iterator[httpx.Client]:
    with client(live) as http:
        yield http


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def still(clock: ManualClock) -> Iterator[Sandbox]:
    """A sandbox of its own for a test that runs no dbt; its clock is ``clock``."""
    with Sandbox(project_dir=TINY, clock=clock, warm=False) as sandbox:
        yield sandbox


@pytest.fixture
def api(still: Sandbox) -> Iterator[httpx.Client]:
    with client(still) as http:
        yield http
