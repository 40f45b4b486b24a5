"""The manifest cache on disk: what a crash, a disk or another process can do to it."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.errors import ConfigError
from dagster_dbtcloud.state import ManifestCache, ManifestPointer, WorkspaceIds, default_cache_dir
from dagster_dbtcloud_tests.dbt.builders import node, raw_manifest

IDS = WorkspaceIds("https://ab123.us1.dbt.com", 70403103900000, 11, 21)


def pointer(digest: str = "d" * 64, run_id: int = 900123) -> ManifestPointer:
    return ManifestPointer(IDS, run_id, 4, digest)


def test_a_pointer_is_small_and_comes_back_the_same() -> None:
    """What travels with every Dagster run stays under 1 kB."""
    text = pointer().to_json()
    assert len(text) < 1_000
    assert ManifestPointer.from_json(text) == pointer()


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", '"x"', "{}", '{"ids": {}}', '{"ids": 3, "run_id": "x"}', "[" * 100_000],
    ids=lambda text: text[:20],
)
def test_a_text_that_is_no_pointer_is_none(text: str) -> None:
    """Half written, of another version, or somebody else's: as if it were not there."""
    assert ManifestPointer.from_json(text) is None


def manifest(name: str = "a") -> Manifest:
    """Return a manifest of one model, another digest for another name."""
    data = json.dumps(raw_manifest(node(f"model.shop.{name}"))).encode()
    return Manifest.from_bytes(data, origin="by hand")


def kept(cache: ManifestCache, name: str = "a") -> str:
    cache.write(manifest(name))
    return manifest(name).digest


def read(cache: ManifestCache, digest: str) -> list[str] | None:
    found = cache.read(digest, origin="the cache")
    return None if found is None else list(found.nodes)


def content(cache: ManifestCache) -> Path:
    """Return the only file of content."""
    (path,) = (cache.root / "manifests").iterdir()
    return path


def test_content_is_found_by_the_digest_of_the_manifest(tmp_path: Path) -> None:
    """What was written is read back, packed; what was not is absent."""
    cache = ManifestCache(tmp_path)
    data = json.dumps(raw_manifest(node("model.shop.a"))).encode()
    digest = kept(cache)
    assert digest == sha256(data).hexdigest()
    assert read(cache, digest) == ["model.shop.a"]
    assert read(cache, "0" * 64) is None


def test_what_is_read_back_is_all_that_was_written(tmp_path: Path) -> None:
    """Users' translators get whole entries, from a cache as from dbt Cloud."""
    cache = ManifestCache(tmp_path)
    entry = node("model.shop.a", meta={"theirs": [1, 2.5, None, "é😀"]})
    raw = raw_manifest(entry, macros={"macro.shop.m": {"macro_sql": "select 1"}}, child_map={})
    written = Manifest.from_bytes(json.dumps(raw).encode(), origin="by hand")
    cache.write(written)
    found = cache.read(written.digest, origin="the cache")
    assert found is not None
    assert json.loads(json.dumps(found.raw, default=dict)) == raw
    assert found.nodes["model.shop.a"].properties == entry
    assert found.nodes == written.nodes


@pytest.mark.parametrize("damage", [b"", b"{", b"something else", None])
def test_damaged_content_counts_as_absent(
    tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A half-written, overwritten or rotten file is never used, and the log says so."""
    cache = ManifestCache(tmp_path)
    digest = kept(cache)
    whole = content(cache).read_bytes()
    rotten = whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]
    content(cache).write_bytes(rotten if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        assert read(cache, digest) is None
    assert "damaged" in caplog.text
    kept(cache)
    assert read(cache, digest) == ["model.shop.a"]


def test_any_bit_that_rots_is_noticed() -> None:
    """No half of a manifest ever makes assets: a byte more, less or other, and all is absent."""
    whole = manifest().packed
    for at in range(0, len(whole), 7):
        other = whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]
        assert Manifest.from_packed(other, origin="here") is None
        assert Manifest.from_packed(whole[:at], origin="here") is None
    assert Manifest.from_packed(whole + b"x", origin="here") is None


def test_another_form_is_rebuilt_not_read(tmp_path: Path) -> None:
    """What an older version of this package left is no manifest to this one, and no error."""
    cache = ManifestCache(tmp_path)
    digest = kept(cache)
    path = content(cache)
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + b"\x00\x00" + whole[10:])
    assert read(cache, digest) is None
    path.rename(path.with_suffix(".json"))
    assert read(cache, digest) is None
    kept(cache)
    assert read(cache, digest) == ["model.shop.a"]


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
        digest = kept(cache)
        cache.set_last_good("key", pointer())
    assert read(cache, digest) is None
    assert cache.last_good("key") is None
    assert "cannot be written" in caplog.text


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process can grow, as when a disk is full."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_a_warning_and_leaves_no_half(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file can be made there, and holds a part of what is written."""
    cache = ManifestCache(tmp_path)
    with caplog.at_level(logging.WARNING):
        digest = kept(cache)
        cache.set_last_good("key", pointer(digest))
        with cache.locked("key"):
            pass
    assert read(cache, digest) is None
    assert cache.last_good("key") is None
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["key"]  # the lock
    assert caplog.text.count("cannot be written") == 2


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems have none: two processes may both parse."""
    import fcntl

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    with caplog.at_level(logging.WARNING), ManifestCache(tmp_path).locked("key"):
        pass
    assert "cannot be locked: [Errno" in caplog.text


def test_who_may_read_it_is_up_to_the_umask(tmp_path: Path) -> None:
    """A step of another user finds what the code server kept, where the deployment allows it."""
    cache = ManifestCache(tmp_path)
    before = os.umask(0o027)
    try:
        kept(cache)
        cache.set_last_good("key", pointer())
    finally:
        os.umask(before)
    files = [content(cache), tmp_path / "current" / "key.json"]
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o640, 0o640]


def test_content_that_may_not_be_read_is_absent_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another user's file costs a download at each load; who looks into the log learns why."""
    cache = ManifestCache(tmp_path)
    digest = kept(cache)
    path = content(cache)
    path.unlink()
    path.mkdir()  # what even root cannot read
    with caplog.at_level(logging.WARNING):
        assert read(cache, digest) is None
    assert f"{path} cannot be read" in caplog.text


def test_what_was_just_written_stays_when_the_clock_was_set_back(tmp_path: Path) -> None:
    """All that was written before is of tomorrow then."""
    cache = ManifestCache(tmp_path)
    for number in range(12):
        digest = kept(cache, f"m{number}")
        tomorrow = time.time() + 86_400 + number
        os.utime(next((tmp_path / "manifests").glob(f"{digest}*")), (tomorrow, tomorrow))
    assert read(cache, kept(cache, "new")) == ["model.shop.new"]


def test_a_relative_folder_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a process that goes elsewhere."""
    monkeypatch.chdir(tmp_path)
    cache = ManifestCache(Path("cache"))
    digest = kept(cache)
    monkeypatch.chdir("/")
    assert read(cache, digest) == ["model.shop.a"]


def test_old_manifests_go_and_those_in_use_stay(tmp_path: Path) -> None:
    """The cache does not grow for ever, and drops neither what a workspace points to nor the
    newest; what a killed writer left goes as well.
    """
    cache = ManifestCache(tmp_path)
    used = kept(cache, "used")
    cache.set_last_good("key", pointer(used))
    left = tmp_path / "manifests" / ".writing-long-ago"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    digests = [kept(cache, f"m{number}") for number in range(30)]
    assert read(cache, used) == ["model.shop.used"]
    assert read(cache, digests[-1]) == ["model.shop.m29"]
    assert len(list((tmp_path / "manifests").iterdir())) <= 11
    assert not left.exists()


def test_what_is_read_is_not_what_is_pruned(tmp_path: Path) -> None:
    """A manifest that processes still read outlives newer ones that nobody does."""
    cache = ManifestCache(tmp_path)
    used = kept(cache, "used")
    os.utime(content(cache), (1, 1))
    for number in range(30):
        assert read(cache, used)
        kept(cache, f"m{number}")
    assert read(cache, used)


def test_many_writers_leave_whole_files(tmp_path: Path) -> None:
    """Processes that write and read at the same time see a whole file or none."""
    cache = ManifestCache(tmp_path)

    def work(number: int) -> bool:
        digest = kept(cache, f"m{number % 4}")
        cache.set_last_good("key", pointer(digest))
        return read(cache, digest) is not None and cache.last_good("key") is not None

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))
    assert not list(tmp_path.rglob(".writing-*"))


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked and killed")
@pytest.mark.parametrize(
    "turns", [pytest.param(40, id="usual"), pytest.param(1000, marks=pytest.mark.nightly)]
)
def test_eight_processes_and_kill_leave_whole_files(tmp_path: Path, turns: int) -> None:
    """Four of them killed in the middle of what they do: the others never see a part of a file."""
    command = [
        sys.executable,
        "-m",
        "dagster_dbtcloud_tests.cache_writers",
        str(tmp_path),
        str(turns),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    left = [path for path in (tmp_path / "manifests").iterdir() if path.name.startswith(".")]
    assert len(left) <= 4  # of the killed; they go when they are an hour old
    cache = ManifestCache(tmp_path)
    for path in {*(tmp_path / "manifests").iterdir()} - {*left}:
        assert cache.read(path.name.partition(".")[0], origin="the cache") is not None


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
    monkeypatch.setenv("DAGSTER_DBTCLOUD_CACHE_DIR", " ")
    assert default_cache_dir().is_relative_to(tmp_path / "home")


@pytest.mark.parametrize(
    "variable", ["DAGSTER_DBTCLOUD_CACHE_DIR", "DAGSTER_HOME", "XDG_CACHE_HOME"]
)
def test_a_folder_of_nobody_is_refused_with_advice(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """As is that of a user without a home, which containers know."""
    for name in ("DAGSTER_DBTCLOUD_CACHE_DIR", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "~no-such-user/cache")
    with pytest.raises(ConfigError, match=r"~no-such-user/cache.*Set DAGSTER_DBTCLOUD_CACHE_DIR"):
        default_cache_dir()
