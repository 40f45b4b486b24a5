"""The manifest cache on disk: what a crash, a disk or another process can do to it."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from dagster_dbtcloud.state import ManifestCache, ManifestPointer, WorkspaceIds, default_cache_dir

IDS = WorkspaceIds("https://ab123.us1.dbt.com", 70403103900000, 11, 21)


def pointer(digest: str = "d" * 64, run_id: int = 900123) -> ManifestPointer:
    return ManifestPointer(IDS, run_id, 4, digest)


def test_a_pointer_is_small_and_comes_back_the_same() -> None:
    """What travels with every Dagster run stays under 1 kB."""
    text = pointer().to_json()
    assert len(text) < 1_000
    assert ManifestPointer.from_json(text) == pointer()


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", '"x"', "{}", '{"ids": {}}', '{"ids": 3, "run_id": "x"}']
)
def test_a_text_that_is_no_pointer_is_none(text: str) -> None:
    """Half written, of another version, or somebody else's: as if it were not there."""
    assert ManifestPointer.from_json(text) is None


def test_content_is_found_by_its_digest(tmp_path: Path) -> None:
    """What was written is read back; what was not is absent."""
    cache = ManifestCache(tmp_path)
    digest = cache.write(b"{}")
    assert digest == sha256(b"{}").hexdigest()
    assert cache.read(digest) == b"{}"
    assert cache.read("0" * 64) is None


@pytest.mark.parametrize("damage", [b"", b"{", b"something else"])
def test_damaged_content_counts_as_absent(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A half-written or overwritten file is never used, and the log says so."""
    cache = ManifestCache(tmp_path)
    digest = cache.write(b'{"whole": true}')
    (tmp_path / "manifests" / f"{digest}.json").write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert cache.read(digest) is None
    assert "damaged" in caplog.text
    cache.write(b'{"whole": true}')
    assert cache.read(digest) == b'{"whole": true}'


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b'{"ids": 1}'])
def test_a_damaged_last_known_good_counts_as_none(tmp_path: Path, damage: bytes) -> None:
    """A crash while a pointer is written leaves nothing that stops the next load."""
    cache = ManifestCache(tmp_path)
    cache.set_last_good("key", pointer())
    assert cache.last_good("key") == pointer()
    (tmp_path / "current" / "key.json").write_bytes(damage)
    assert cache.last_good("key") is None


def test_a_cache_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A read-only disk costs a download at each load, nothing else."""
    (tmp_path / "file").write_text("in the way")
    cache = ManifestCache(tmp_path / "file")
    with caplog.at_level(logging.WARNING):
        digest = cache.write(b"{}")
        cache.set_last_good("key", pointer())
    assert cache.read(digest) is None
    assert cache.last_good("key") is None
    assert "cannot be written" in caplog.text


def test_old_manifests_go_and_those_in_use_stay(tmp_path: Path) -> None:
    """The cache does not grow for ever, and never drops what a workspace points to."""
    cache = ManifestCache(tmp_path)
    kept = cache.write(b"in use")
    cache.set_last_good("key", pointer(kept))
    digests = [cache.write(f"manifest {number}".encode()) for number in range(30)]
    assert cache.read(kept) == b"in use"
    assert cache.read(digests[-1]) == b"manifest 29"
    assert len(list((tmp_path / "manifests").iterdir())) <= 11


def test_many_writers_leave_whole_files(tmp_path: Path) -> None:
    """Processes that write and read at the same time see a whole file or none."""
    cache = ManifestCache(tmp_path)
    contents = [bytes([65 + number]) * 100_000 for number in range(4)]

    def work(number: int) -> bool:
        digest = cache.write(contents[number % 4])
        found = cache.read(digest)
        cache.set_last_good("key", pointer(digest))
        return found == contents[number % 4] and cache.last_good("key") is not None

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))
    assert not list(tmp_path.rglob(".writing-*"))


def test_the_cache_lies_where_dagster_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable wins over DAGSTER_HOME, which wins over the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.delenv("DAGSTER_DBTCLOUD_CACHE_DIR", raising=False)
    assert default_cache_dir() == tmp_path / "user" / "dagster_dbtcloud"
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    assert default_cache_dir().is_relative_to(tmp_path / "home")
    monkeypatch.setenv("DAGSTER_DBTCLOUD_CACHE_DIR", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own"
