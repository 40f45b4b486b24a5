"""The requests of all processes together: counted once, and held back before dbt Cloud does it."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from dagster_dbtcloud.clock import ManualClock
from dagster_dbtcloud.cloud.budget import SharedBudget
from dagster_dbtcloud.errors import RateLimitedError
from dagster_dbtcloud_tests.cloud.conftest import MakeClient
from dagster_dbtcloud_tests.cloud.fakes import Script, failed, ok, run

NOON = datetime(2026, 1, 1, 12, 0, 20, tzinfo=timezone.utc)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "requests" / "account.json"


def test_a_window_is_shared(path: Path) -> None:
    """Two processes see one count; the next ten seconds begin anew."""
    one, other = (SharedBudget(path, per_window=3) for _ in range(2))
    assert [one.take(NOON), other.take(NOON), one.take(NOON)] == [0, 0, 0]
    assert other.take(NOON) == 10
    assert other.take(NOON + timedelta(seconds=10)) == 0


@pytest.mark.parametrize("begin", [0.0, 0.5, 9.9])
def test_no_minute_holds_too_many(tmp_path: Path, begin: float) -> None:
    """Whoever sends as fast as it may stays below dbt Cloud's 5,000, wherever a minute starts."""
    budget = SharedBudget(tmp_path)  # a folder: it counts in memory, which is faster
    now, sent = NOON + timedelta(seconds=begin), []
    while now < NOON + timedelta(seconds=75):
        if wait := budget.take(now):
            now += timedelta(seconds=wait)
        else:
            sent.append(now)
    minute = timedelta(minutes=1)
    assert max(sum(one <= other < one + minute for other in sent) for one in set(sent)) <= 4_200


def test_a_refusal_closes_the_door_for_all(path: Path) -> None:
    """For as long as it was said, five minutes at most."""
    one, other = SharedBudget(path), SharedBudget(path)
    one.close(NOON, 30)
    assert other.take(NOON) == 30
    assert other.take(NOON + timedelta(seconds=31)) == 0
    one.close(NOON, 10_000)
    assert other.take(NOON) == 300


def test_a_shorter_refusal_does_not_open_the_door(path: Path) -> None:
    """Two requests under way at once are told different times: the longer counts."""
    SharedBudget(path).close(NOON, 300)
    SharedBudget(path).close(NOON, 30)
    assert SharedBudget(path).take(NOON) == 300


def test_a_clock_set_back_does_not_close_it_for_ever(path: Path) -> None:
    """What lies further ahead than any pause is not believed."""
    SharedBudget(path).close(NOON + timedelta(days=1), 30)
    assert SharedBudget(path).take(NOON) == 0


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"window": null}', b'{"window": 1e999}', b"\xff"]
)
def test_a_damaged_file_begins_anew(path: Path, text: bytes) -> None:
    """It is a count, nothing more."""
    path.parent.mkdir()
    path.write_bytes(text)
    budget = SharedBudget(path, per_window=1)
    assert budget.take(NOON) == 0
    assert budget.take(NOON) == 10


def test_without_a_file_each_counts_for_itself(tmp_path: Path) -> None:
    """A disk that cannot be written stops no request."""
    (tmp_path / "file").write_text("")
    budget = SharedBudget(tmp_path / "file" / "account.json", per_window=1)
    assert budget.take(NOON) == 0
    assert budget.take(NOON) == 10


def test_a_full_disk_stops_no_request(path: Path) -> None:
    """The file can be opened, and takes not a byte: the process counts for itself."""
    pytest.importorskip("resource")
    code = (
        "import resource, signal, sys; from datetime import datetime, timezone;"
        "from pathlib import Path; from dagster_dbtcloud.cloud.budget import SharedBudget;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0));"
        "budget = SharedBudget(Path(sys.argv[1]), per_window=1);"
        "now = datetime(2026, 1, 1, 12, tzinfo=timezone.utc);"
        "assert [budget.take(now), budget.take(now)] == [0, 10]"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)


def test_processes_at_once_lose_no_count(path: Path) -> None:
    """Three processes of 50 requests each make 150."""
    code = (
        "import sys; from datetime import datetime, timezone; from pathlib import Path;"
        "from dagster_dbtcloud.cloud.budget import SharedBudget;"
        "budget = SharedBudget(Path(sys.argv[1]), per_window=150);"
        "now = datetime(2026, 1, 1, 12, tzinfo=timezone.utc);"
        "assert not any(budget.take(now) for _ in range(50))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert SharedBudget(path, per_window=150).take(NOON.replace(second=0)) == 10


def test_what_one_client_is_told_another_heeds(
    make_client: MakeClient, clock: ManualClock, path: Path
) -> None:
    """After a 429 the other waits before it sends, and is not refused itself."""
    first = make_client(Script(failed(429)), budget=SharedBudget(path), retry_for=0.5)
    with pytest.raises(RateLimitedError):
        first.run(1)
    script = Script(ok(run()))
    began = clock.monotonic()
    make_client(script, budget=SharedBudget(path)).run(1)
    assert 0 < clock.monotonic() - began <= 300
    assert len(script.requests) == 1


def test_a_cancel_does_not_wait_longer_than_it_may(
    make_client: MakeClient, clock: ManualClock, path: Path
) -> None:
    """Its few seconds are its own: it is sent though the door is closed."""
    SharedBudget(path).close(clock.now(), 300)
    script = Script(ok(run(status=30)))
    began = clock.monotonic()
    make_client(script, budget=SharedBudget(path), retry_for=4.0).cancel_run(1)
    assert clock.monotonic() - began == pytest.approx(4.0)
    assert len(script.requests) == 1
