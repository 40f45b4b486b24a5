"""Which manifest a code location is built from, where it came from, and where it is kept.

A manifest is an immutable artifact of one dbt Cloud run. What travels between processes is a
`ManifestPointer` of a few hundred bytes; the content lies packed in a cache on disk, under the
SHA-256 digest of manifest.json, written atomically, shared by all processes and safe to delete.
This module starts no dbt Cloud run: if there is no manifest anywhere, the caller's ``parse`` does.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from dagster_dbtcloud import _dagster_private
from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.cloud.budget import SharedBudget
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.filters import why_not_production
from dagster_dbtcloud.cloud.models import Run, RunStatus
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.packed import FORM
from dagster_dbtcloud.dbt.reading import read_file
from dagster_dbtcloud.errors import (
    ApiError,
    ApiResponseError,
    ConfigError,
    ManifestError,
    NotFoundError,
    StateError,
)

try:
    import fcntl
except ImportError:  # Windows: two processes there may both parse, which is wasteful, not wrong
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("dagster_dbtcloud")

CACHE_VARIABLE = "DAGSTER_DBTCLOUD_CACHE_DIR"
MANIFEST = "manifest.json"
_PAGE = 50
_LISTED = 5_000
"""How many of the newest finished runs are looked through; those of pull requests can be many."""
_ASKED = 50
"""How many production runs among them are asked for a manifest before a parse is thought of."""
_BROKEN = 5
"""How many manifests that cannot be read are downloaded before the search is given up."""
_KEEP = 10
"""How many manifests the cache keeps; the newest survive."""
_WRITING = ".writing-"
_LEFT_SECONDS = 3_600.0
"""After how long a half-written file was left by a process that is no more."""
_KEEP_GIVEN = 8
"""How many given manifests a process remembers, so that they are not parsed at each use."""
_LATE_MANIFEST_SECONDS = 120.0
"""How long the manifest of a parse that succeeded may take to be stored."""


@dataclass(frozen=True)
class WorkspaceIds:
    """A workspace with every name resolved."""

    access_url: str
    account_id: int
    project_id: int
    environment_id: int


@dataclass(frozen=True)
class ManifestPointer:
    """Where a manifest is: a run's artifact, and the digest of its bytes. Under 1 kB as text."""

    ids: WorkspaceIds
    run_id: int
    step: int | None
    digest: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ManifestPointer | None:
        """Return the pointer; None when the text is not one (half written, another version)."""
        try:
            raw = json.loads(text)
            return cls(
                ids=WorkspaceIds(
                    access_url=str(raw["ids"]["access_url"]),
                    account_id=int(raw["ids"]["account_id"]),
                    project_id=int(raw["ids"]["project_id"]),
                    environment_id=int(raw["ids"]["environment_id"]),
                ),
                run_id=int(raw["run_id"]),
                step=None if raw["step"] is None else int(raw["step"]),
                digest=str(raw["digest"]),
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None


@dataclass(frozen=True)
class State:
    """A loaded manifest; ``pointer`` is None when the user gave the manifest."""

    manifest: Manifest
    pointer: ManifestPointer | None
    warning: str | None = None


_PACKED = 2
"""The version of the form below; a text of another one is not read."""


def pack_state(state: State, *, job: str | None = None) -> str:
    """Return the state as one text, for whoever keeps it elsewhere (a component's state).

    ``job`` is a text that is kept with it. Compressed: Dagster may send it with each run, and a
    manifest packs to a tenth.
    """
    return json.dumps(
        {
            "dagster_dbtcloud": _PACKED,
            "origin": state.manifest.origin,
            "pointer": state.pointer and state.pointer.to_json(),
            "job": job,
            "manifest": b64encode(state.manifest.packed).decode(),
        }
    )


def unpack_state(text: str, *, origin: str) -> tuple[State, str | None]:
    """Return state and job of a text of ``pack_state``; ``origin`` says where the text is from.

    Raises: StateError for another text, a damaged one, or one of another version.
    """
    try:
        packed = json.loads(text)
        if packed["dagster_dbtcloud"] != _PACKED:
            raise ValueError(f"version {packed['dagster_dbtcloud']!r}")
        data = b64decode(packed["manifest"])
        pointer = ManifestPointer.from_json(packed["pointer"]) if packed["pointer"] else None
        manifest = Manifest.from_packed(data, origin=str(packed["origin"]))
        if manifest is None or (pointer and pointer.digest != manifest.digest):
            raise ValueError("the manifest in it is damaged, or of another version")
        job = packed["job"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StateError(
            f"{origin} is not a state that this version of dagster_dbtcloud can read "
            f"({type(error).__name__}: {error}). Write it anew: `dg utils refresh-defs-state`."
        ) from error
    return State(manifest, pointer), job


def default_cache_dir() -> Path:
    """Return ``$DAGSTER_DBTCLOUD_CACHE_DIR``, else below ``$DAGSTER_HOME``, else the user's.

    Raises: ConfigError, when it is in the home folder of a user who has none.
    """
    if explicit := os.environ.get(CACHE_VARIABLE, "").strip():
        return _expanded(explicit)
    if home := os.environ.get("DAGSTER_HOME"):
        return _expanded(home) / "storage" / "dagster_dbtcloud"
    return _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "dagster_dbtcloud"


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # as in a container whose user has no name
        raise ConfigError(
            f"Manifests cannot be cached in {path}: this user has no home folder, or there is no "
            f"such user. Set {CACHE_VARIABLE} to a folder that all processes share."
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a half.

    Who may read it is up to the umask, as with Dagster's own storage: code server, workers and
    steps may be of different users. Raises: OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{_WRITING}{uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class ManifestCache:
    """Manifests by digest, and the last known good pointer of each workspace.

    A cache that cannot be written is a warning, not an error.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def read(self, digest: str, *, origin: str) -> Manifest | None:
        """Return the manifest with this digest; None when absent.

        A file that is damaged, or of another form (another version of this package), is absent.
        """
        path = self._content(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("The cached manifest %s cannot be read: %s", path, error)
            return None
        manifest = Manifest.from_packed(data, origin=origin)
        if manifest is None or manifest.digest != digest:
            logger.warning("The cached manifest %s is damaged and is fetched anew.", path)
            return None
        with suppress(OSError):  # so that pruning spares what is in use; not ours, not writable
            os.utime(path)
        return manifest

    def write(self, manifest: Manifest) -> None:
        """Keep ``manifest`` under the digest of its manifest.json."""
        path = self._content(manifest.digest)
        self._write(path, manifest.packed)
        self._prune(path)

    def last_good(self, key: str) -> ManifestPointer | None:
        """Return the pointer that served this workspace last; None when there is none."""
        try:
            return ManifestPointer.from_json(self._current(key).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            return None

    def set_last_good(self, key: str, pointer: ManifestPointer) -> None:
        self._write(self._current(key), pointer.to_json().encode())

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Hold the workspace's lock among all processes that share this cache.

        Without a cache that can be written and locked, or on Windows, it holds nothing.
        """
        with ExitStack() as held:  # closing a file gives its lock back, as a process's end does
            try:
                path = self.root / "locks" / key
                path.parent.mkdir(parents=True, exist_ok=True)
                file = held.enter_context(path.open("ab"))
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                logger.warning("The cache %s cannot be locked: %s", self.root, error)
            yield

    def request_budget(self, access_url: str, account_id: int) -> SharedBudget:
        """Return the count of requests that all processes with this cache keep together."""
        name = sha256(f"{access_url}|{account_id}".encode()).hexdigest()[:24]
        return SharedBudget(self.root / "requests" / f"{name}.json")

    def _content(self, digest: str) -> Path:
        # Another form has another name: two versions of this package may share a cache.
        return self.root / "manifests" / f"{digest}.{FORM}"

    def _current(self, key: str) -> Path:
        return self.root / "current" / f"{key}.json"

    def _write(self, path: Path, data: bytes) -> None:
        try:
            write_whole(path, data)
        except OSError as error:
            logger.warning("The cache %s cannot be written: %s", self.root, error)

    def _prune(self, written: Path) -> None:
        """Drop what no workspace points to and nobody has read for the longest time.

        What was just ``written`` stays: of a clock that was set back it is the oldest.
        """
        try:
            in_use = {
                pointer.digest
                for path in (self.root / "current").glob("*.json")
                if (pointer := self.last_good(path.stem))
            }
            files = sorted(
                ((path.stat().st_mtime, path) for path in (self.root / "manifests").iterdir()),
                reverse=True,
            )
            kept = [path for _, path in files if not path.name.startswith(_WRITING)]
            for path in kept[_KEEP:]:
                if path != written and path.name.partition(".")[0] not in in_use:
                    path.unlink(missing_ok=True)
            newest = files[0][0] if files else 0.0
            for changed, path in files:
                if path.name.startswith(_WRITING) and changed < newest - _LEFT_SECONDS:
                    path.unlink(missing_ok=True)
        except OSError:
            return  # another process prunes at the same time, or the cache is read-only


@dataclass(frozen=True)
class StateSource:
    """All that is needed to find a workspace's manifest.

    ``key`` names the workspace by its configuration alone (no request needed to know it);
    ``resolve`` and ``client`` may send requests; ``parse`` starts a dbt Cloud run that only parses,
    waits for it and returns it.
    """

    key: str
    resolve: Callable[[], WorkspaceIds]
    client: Callable[[WorkspaceIds], DbtCloudClient]
    parse: Callable[[WorkspaceIds], Run]
    cache: ManifestCache
    clock: Clock
    given: str | Path | Mapping[str, Any] | None = None


_loaded: dict[tuple[str, str], State] = {}
_given: dict[Hashable, tuple[object, State]] = {}
_loading = threading.RLock()


def load_state(source: StateSource, *, refresh: bool = False) -> State:
    """Return the manifest of a workspace; the same one in every process of a deployment.

    Order: the manifest that the user gave; the one the code server remembered (in run workers and
    step processes); the one this process loaded before (unless ``refresh``); the newest production
    run that has one; the last known good from the cache, with a warning, when dbt Cloud gives no
    answer; a parse in dbt Cloud, only when no run has a manifest.

    Raises: StateError, ManifestError, ConfigError.
    """
    if source.given is not None:
        return _given_state(source.given, source.cache)
    memo = (str(source.cache.root), source.key)
    with _loading:
        state = _remembered(source, _loaded.get(memo))
        if state is None and not refresh:
            state = _loaded.get(memo)
        if state is None:
            state = _newest(source)
        _loaded[memo] = state
        if state.pointer is not None:
            _dagster_private.remember(_metadata_key(source), state.pointer.to_json())
        return state


def find_state(source: StateSource) -> State | None:
    """Look for the newest manifest without starting anything; None when no run has one.

    Raises: StateError, when dbt Cloud gives no answer and the cache is empty; ConfigError.
    """
    if source.given is not None:
        return _given_state(source.given, source.cache)
    try:
        ids = source.resolve()
        with source.client(ids) as client:
            return _newest_in_cloud(source, ids, client)
    except (ApiError, ManifestError) as error:
        return _last_good(source, error)


def remembered_pointer(source_key: str) -> ManifestPointer | None:
    """Return what the code server left for this process, if this is a run worker or a step."""
    text = _dagster_private.recall(f"dagster_dbtcloud/state/{source_key}")
    return None if text is None else ManifestPointer.from_json(text)


def _metadata_key(source: StateSource) -> str:
    return f"dagster_dbtcloud/state/{source.key}"


def _given_state(given: str | Path | Mapping[str, Any], cache: ManifestCache) -> State:
    """Read a manifest that the user gave; a file again when it has changed."""
    key: Hashable
    if isinstance(given, Mapping):
        key = id(given)  # kept alive by the memory below, so that the number stays its own
    else:
        try:
            path = Path(given).expanduser()
            found = path.stat()
        except (OSError, RuntimeError, ValueError) as error:  # also: no such user, no path at all
            raise ConfigError(
                f"There is no manifest file at {given} (given to DbtCloudWorkspace): {error}."
            ) from error
        # Also the inode, and when that was changed: who copies a file may set its time back.
        key = (path.absolute(), found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size)
    with _loading:
        if key not in _given:
            manifest = (
                Manifest.from_dict(given, origin="the manifest given to DbtCloudWorkspace")
                if isinstance(given, Mapping)
                else _from_file(path, cache)
            )
            while len(_given) >= _KEEP_GIVEN:
                del _given[next(iter(_given))]
            _given[key] = (given, State(manifest, pointer=None))
        return _given[key][1]


def _from_file(path: Path, cache: ManifestCache) -> Manifest:
    data = read_file(path)
    manifest = cache.read(sha256(data).hexdigest(), origin=str(path))
    if manifest is None:
        manifest = Manifest.from_bytes(data, origin=str(path))
        cache.write(manifest)
    return manifest


def _remembered(source: StateSource, in_process: State | None) -> State | None:
    pointer = remembered_pointer(source.key)
    if pointer is None:
        return None
    if in_process is not None and in_process.pointer == pointer:
        return in_process
    return _from_pointer(source, pointer)


def _from_pointer(source: StateSource, pointer: ManifestPointer) -> State:
    manifest = source.cache.read(pointer.digest, origin=_origin(pointer.run_id))
    if manifest is None:
        try:
            with source.client(pointer.ids) as client:
                data = client.artifact(pointer.run_id, MANIFEST, step=pointer.step)
        except ApiError as error:
            raise StateError(
                f"{_origin(pointer.run_id)}, which this code location was built from, is neither "
                f"in the cache {source.cache.root} nor to be had from dbt Cloud: {error} Let the "
                f"processes share a cache ({CACHE_VARIABLE}), or reload the code location."
            ) from error
        if sha256(data).hexdigest() != pointer.digest:
            raise StateError(
                f"{MANIFEST} of dbt Cloud run {pointer.run_id} is no longer the one this code "
                "location was built from. Reload the code location."
            )
        manifest = Manifest.from_bytes(data, origin=_origin(pointer.run_id))
        source.cache.write(manifest)
    return State(manifest, pointer)


def _newest(source: StateSource) -> State:
    state = find_state(source)
    if state is not None:
        _keep(source, state)
        return state
    with source.cache.locked(source.key):
        # another process may have parsed while we waited, or dbt Cloud has dropped its old runs
        ids = source.resolve()
        known = source.cache.last_good(source.key)
        state = _known(source, known, ids) or _parsed(source, ids)
        _keep(source, state)
        return state


def _keep(source: StateSource, state: State) -> None:
    if state.pointer is not None and state.warning is None:
        source.cache.set_last_good(source.key, state.pointer)


def _known(source: StateSource, known: ManifestPointer | None, ids: WorkspaceIds) -> State | None:
    """Return the state that ``known`` points to, if it is this workspace's and still cached."""
    if known is None or known.ids != ids:
        return None
    manifest = source.cache.read(known.digest, origin=_origin(known.run_id))
    return None if manifest is None else State(manifest, known)


def _newest_in_cloud(
    source: StateSource, ids: WorkspaceIds, client: DbtCloudClient
) -> State | None:
    known = source.cache.last_good(source.key)
    broken: list[ManifestError | ApiResponseError] = []
    for run in islice(_candidates(client, ids), _ASKED):
        if known is not None and known.run_id == run.id:
            state = _known(source, known, ids)
            if state is not None:
                return state
        try:
            found = _download(client, run)
            if found is None:
                continue
            step, data = found
            manifest = Manifest.from_bytes(data, origin=_origin(run.id))
        except (ManifestError, ApiResponseError) as error:
            logger.warning("%s An older run's manifest is looked for.", error)
            broken.append(error)
            if len(broken) == _BROKEN:
                break
            continue
        source.cache.write(manifest)
        return State(manifest, ManifestPointer(ids, run.id, step, manifest.digest))
    if broken:
        raise broken[0]
    return None


def _candidates(client: DbtCloudClient, ids: WorkspaceIds) -> Iterator[Run]:
    """Walk the finished production runs of the environment, newest first."""
    listed = client.runs(
        project_id=ids.project_id,
        environment_id=ids.environment_id,
        status_in=(RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.CANCELLED),
        order_by="-id",
        include=("trigger", "job"),
        page_size=_PAGE,
    )
    for run in islice(listed, _LISTED):
        if run.artifacts_saved is not False and why_not_production(run) is None:
            yield run


def _download(client: DbtCloudClient, run: Run) -> tuple[int | None, bytes] | None:
    """Return (step, bytes) of a run's manifest; None when no step of it has one."""
    try:
        return None, client.artifact(run.id, MANIFEST)
    except NotFoundError:
        pass  # the last step may write none (``dbt deps``, ``dbt clean``): look at the others
    steps = client.run(run.id, include=("run_steps",)).run_steps
    for step in sorted(steps, key=lambda step: step.index, reverse=True):
        if step.command is None or step.command.split()[1:2] == ["deps"]:
            continue
        try:
            return step.index, client.artifact(run.id, MANIFEST, step=step.index)
        except NotFoundError:
            continue
    return None


def _parsed(source: StateSource, ids: WorkspaceIds) -> State:
    logger.warning(
        "No run of environment %s has a manifest yet: `dbt parse` is run in dbt Cloud once.",
        ids.environment_id,
    )
    try:
        run = source.parse(ids)
        with source.client(ids) as client:
            found = _download(client, run)
            delay, waited = 1.0, 0.0
            while found is None and waited < _LATE_MANIFEST_SECONDS:
                source.clock.sleep(delay)
                waited, delay = waited + delay, min(delay * 2, 10.0)
                found = _download(client, run)
    except ApiError as error:
        raise StateError(
            f"No run of environment {ids.environment_id} has a manifest, and `dbt parse` could not "
            f"be run to get one: {error} If project_id and environment_id are right, run a job "
            "with `dbt build` in this environment, or give DbtCloudWorkspace a manifest file."
        ) from error
    if found is None:
        raise StateError(
            f"dbt Cloud run {run.id} parsed the project and left no {MANIFEST}. Look at the run "
            f"({run.href or 'no link'}), or give DbtCloudWorkspace a manifest file."
        )
    step, data = found
    manifest = Manifest.from_bytes(data, origin=_origin(run.id))
    source.cache.write(manifest)
    return State(manifest, ManifestPointer(ids, run.id, step, manifest.digest))


def _last_good(source: StateSource, error: ApiError | ManifestError) -> State:
    pointer = source.cache.last_good(source.key)
    known = (
        source.cache.read(pointer.digest, origin=_origin(pointer.run_id))
        if pointer is not None
        else None
    )
    if pointer is None or known is None:
        raise StateError(
            f"There is no manifest to build assets from: {error} Nothing is cached in "
            f"{source.cache.root} either. See `dagster-dbtcloud check` for what works, and reload "
            "the code location; or give DbtCloudWorkspace a manifest file."
        ) from error
    warning = (
        f"The newest manifest cannot be read ({error}); the last known good one, of dbt Cloud "
        f"run {pointer.run_id}, serves instead."
    )
    logger.warning(warning)
    return State(known, pointer, warning)


def _origin(run_id: int) -> str:
    return f"{MANIFEST} of dbt Cloud run {run_id}"
