"""Every field of a manifest that dbt wrote, missing or of another type: an error that names it.

Or the right answer; but nothing else, from the reading of the bytes to the specs, to selections and
to a comparison with the whole manifest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import dagster as dg
import pytest

from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.selection import select
from dagster_dbtcloud.errors import DbtCloudError, ManifestError
from dagster_dbtcloud.specs import build_specs
from dagster_dbtcloud.translator import DagsterDbtTranslator
from dagster_dbtcloud_tests import spec_zoo

ABSENT = object()
VALUES: tuple[Any, ...] = (
    *(ABSENT, None, True, 1.5, 10**30, "", "x y/é{}"),
    *([1], [None], [{}], [[1]], {"x": 1}, {"x": None}),
)
SELECTIONS = (
    *("state:modified", "config.meta.x:1", "path:models/*", "source:*", "tag:x", "group:*"),
    *("test_name:unique", "version:latest", "version:old", "file:x", "+x+ @y", "state:new"),
)
Path = tuple[str | int, ...]


@pytest.fixture(scope="module")
def raw() -> dict[str, Any]:
    """What dbt wrote of the spec zoo, and of its own macros the first two."""
    whole: dict[str, Any] = json.loads(json.dumps(spec_zoo.manifest().raw, default=dict))
    for name in ("macros", "docs"):
        whole[name] = dict(list(whole[name].items())[:2])
    return whole


def paths(value: Any, kind: str = "", path: Path = ()) -> Iterator[tuple[str, Path]]:
    """Yield all places in a manifest, each with a text that is the same for places of one kind."""
    yield kind, path
    if isinstance(value, dict):
        for name, inner in value.items():
            known = len(path) == 1 or path[-1:] in (("columns",), ("args",))
            if not known:
                word = name
            else:
                word = inner.get("resource_type", "*") if isinstance(inner, dict) else "*"
            yield from paths(inner, f"{kind}.{word}", (*path, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value[:1]):
            yield from paths(inner, f"{kind}[]", (*path, number))


def changed(raw: dict[str, Any], path: Path, value: object) -> dict[str, Any]:
    """Return the manifest with another value at one place."""
    root = {"": raw}
    holder: Any = root
    for step, name in zip(("", *path), path, strict=False):
        inner = holder[step]
        holder[step] = dict(inner) if isinstance(inner, dict) else list(inner)
        holder = holder[step]
        last = name
    if value is ABSENT:
        del holder[last]
    else:
        holder[last] = value
    return root[""]


def check(raw: dict[str, Any], whole: Manifest) -> None:
    data = json.dumps(raw).encode()
    try:
        manifest = Manifest.from_bytes(data, origin="ours")
    except ManifestError as refused:
        assert str(refused).startswith("ours: ")  # noqa: PT017
        with pytest.raises(ManifestError):
            Manifest.from_dict(raw)
        return
    parsed = Manifest.from_dict(raw)
    assert (parsed.nodes, parsed.disabled) == (manifest.nodes, manifest.disabled)
    for text in SELECTIONS:
        with suppress(DbtCloudError):
            select(manifest, select=text, previous=whole)
    with suppress(DbtCloudError):
        select(whole, select="state:modified", previous=manifest)
    try:
        build_specs(manifest, translator=DagsterDbtTranslator())
    except (DbtCloudError, dg.DagsterInvalidDefinitionError) as refused:
        assert ".spec_zoo." in str(refused) or str(refused).startswith("ours: ")  # noqa: PT017


@pytest.mark.parametrize(
    ("first", "step"),
    [pytest.param(0, 139, id="usual")]
    + [pytest.param(part, 12, marks=pytest.mark.nightly) for part in range(12)],
)
def test_whatever_a_field_holds_there_is_an_answer_or_an_error_at_its_place(
    raw: dict[str, Any], first: int, step: int
) -> None:
    """Each so many of all places and values; at night every one."""
    whole = Manifest.from_dict(raw, origin="whole")
    places = [path for path in dict(reversed([*paths(raw)])).values() if path]
    cases = [(path, value) for path in places for value in VALUES]
    for path, value in cases[first::step]:
        try:
            check(changed(raw, path, value), whole)
        except Exception as error:
            word = "nothing" if value is ABSENT else repr(value)
            raise AssertionError(f"{path} holds {word}") from error
