"""Reading manifest.json: what is kept, how the graph is walked, what is refused and where."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.selection import select
from dagster_dbtcloud.errors import ManifestError
from dagster_dbtcloud_tests.dbt.builders import chain, manifest_of, node, raw_manifest

A, B, C, S = "model.shop.a", "model.shop.b", "model.shop.c", "source.shop.raw.t"
DIAMOND = manifest_of(
    node("model.shop.top"),
    node(A, "model.shop.top"),
    node(B, "model.shop.top"),
    node(C, A, B),
    node("test.shop.t", C),
)


def schema(kind: str, version: int) -> dict[str, Any]:
    return {"dbt_schema_version": f"https://schemas.getdbt.com/dbt/{kind}/v{version}.json"}


def test_every_collection_gives_nodes(zoo: Manifest) -> None:
    """Models, sources, exposures, metrics, unit tests and the rest are found by unique id."""
    kinds = {node.resource_type for node in zoo.nodes.values()}
    assert kinds == {
        *("model", "seed", "snapshot", "test", "unit_test", "analysis", "operation", "source"),
        *("exposure", "metric", "semantic_model", "saved_query", "function"),
    }
    assert all(node.unique_id == unique_id for unique_id, node in zoo.nodes.items())


def test_disabled_resources_are_no_nodes(zoo: Manifest) -> None:
    """What is switched off is named in ``disabled`` and nowhere else."""
    assert "model.zoo.switched_off" in zoo.disabled
    assert "source.zoo.raw_events.switched_off" in zoo.disabled
    assert "exposure.zoo.switched_off_report" in zoo.disabled
    assert zoo.disabled.isdisjoint(zoo.nodes)


def test_a_node_says_what_its_kind_can_say(zoo: Manifest) -> None:
    """The named properties read the manifest's own entry."""
    dim = zoo.nodes["model.zoo.dim.v2"]
    assert (dim.version, dim.latest_version, dim.is_versioned) == (2, 2, True)
    assert (dim.access, dim.group, dim.materialized) == ("protected", None, "view")
    assert dim.relation_name == f'"{dim.database}"."{dim.schema_}"."{dim.alias}"'
    assert dim.properties["checksum"]["name"] == "sha256"
    assert "id" in dim.columns
    assert dim.raw_code.startswith("select id")
    clicks = zoo.nodes["source.zoo.raw_events.clicks"]
    assert (clicks.source_name, clicks.name, clicks.identifier) == (
        *("raw_events", "clicks", "raw_orders"),
    )
    assert clicks.access is None
    test = next(n for n in zoo.nodes.values() if n.name == "helper_is_positive_stg_customers_id")
    assert (test.is_generic_test, test.test_metadata_name) == (True, "is_positive")
    assert test.attached_node == "model.zoo.stg_customers"
    assert not zoo.nodes["test.zoo.assert_nothing"].is_generic_test
    assert zoo.nodes["model.zoo.orders"].group == "finance"
    assert zoo.nodes["model.zoo.core_facts"].meta["tier"] == 1
    assert zoo.nodes["unit_test.zoo.orders.orders_keep_their_amount"].tags == ("unit", "nightly")
    assert zoo.nodes["model.zoo.orders"].description == ""


def test_metadata_says_what_wrote_it(zoo: Manifest) -> None:
    """Version, project, adapter and time are typed."""
    metadata = zoo.metadata
    assert (metadata.schema_version, metadata.project_name) == (12, "zoo")
    assert metadata.adapter_type == "duckdb"
    assert metadata.dbt_version.startswith("1.11")
    assert metadata.generated_at is not None
    assert metadata.generated_at.tzinfo is timezone.utc
    assert metadata.invocation_id


def test_the_environment_of_dbt_cloud_is_kept() -> None:
    """``env`` holds what dbt Cloud sets, as text."""
    raw = raw_manifest()
    raw["metadata"] |= {
        "env": {"DBT_CLOUD_RUN_ID": "900123", "odd": 3},
        "generated_at": "2026-01-05T10:21:02.103456Z",
    }
    metadata = Manifest.from_dict(raw, origin="here").metadata
    assert metadata.env == {"DBT_CLOUD_RUN_ID": "900123"}
    assert metadata.generated_at == datetime(2026, 1, 5, 10, 21, 2, 103456, timezone.utc)


def test_the_edges_are_those_that_dbt_writes(zoo: Manifest) -> None:
    """Children agree with dbt's own child_map."""
    theirs = {unique_id: set(children) for unique_id, children in zoo.raw["child_map"].items()}
    assert {i: set(zoo.children(i)) for i in zoo.nodes} == theirs


def test_walks_stop_at_their_depth() -> None:
    """A depth counts edges; without one a walk goes to the end."""
    assert DIAMOND.ancestors([C]) == {A, B, "model.shop.top"}
    assert DIAMOND.ancestors([C], 1) == {A, B}
    assert DIAMOND.ancestors([C], 0) == set()
    assert DIAMOND.descendants([A]) == {C, "test.shop.t"}
    assert DIAMOND.descendants([A], 1) == {C}
    assert DIAMOND.ancestors([A, C]) == {A, B, "model.shop.top"}
    assert DIAMOND.parents(C) == (A, B)
    assert DIAMOND.children("model.shop.top") == (A, B)


def test_parents_come_before_children() -> None:
    """The topological order holds every node once, after all its parents."""
    order = DIAMOND.topological()
    assert sorted(order) == sorted(DIAMOND.nodes)
    assert all(order.index(p) < order.index(i) for i in order for p in DIAMOND.parents(i))


def test_a_chain_of_5000_levels_is_walked_without_recursion() -> None:
    """Depth is no danger to the stack."""
    manifest = chain(5000)
    assert len(manifest.ancestors(["model.shop.m4999"])) == 4999
    assert manifest.topological()[-1] == "model.shop.m4999"


def test_a_cycle_is_named() -> None:
    """A graph that dbt would not write does not hang a walk; ordering it names a node."""
    manifest = manifest_of(node(A, B), node(B, A))
    assert manifest.ancestors([A]) == {A, B}
    with pytest.raises(ManifestError, match=r"by hand: the graph has a cycle at or above model\."):
        manifest.topological()


def test_parents_that_are_disabled_or_unknown_are_no_parents() -> None:
    """Edges lead only to enabled nodes; the node still says what it depends on."""
    off = node(B, config={"enabled": False})
    manifest = manifest_of(node(A, B, "model.shop.gone"), off)
    assert manifest.parents(A) == ()
    assert manifest.nodes[A].depends_on == (B, "model.shop.gone")
    assert manifest.disabled == {B}


@pytest.mark.parametrize("version", [10, 11, 12, 20])
def test_versions_since_dbt_1_6_and_fusion_are_read(version: int) -> None:
    """v10 to v12 and Fusion's v20 give the same nodes; collections they lack are empty."""
    raw = raw_manifest(node(A)) | {"metadata": schema("manifest", version)}
    assert list(Manifest.from_dict(raw, origin="here").nodes) == [A]


def test_what_fusion_leaves_out_has_a_default() -> None:
    """A node without config, tags, fqn and maps is read from its id."""
    raw = raw_manifest({"unique_id": "seed.shop.raw.x"})
    seed = Manifest.from_dict(raw, origin="here").nodes["seed.shop.raw.x"]
    assert (seed.resource_type, seed.package_name, seed.name) == ("seed", "shop", "raw.x")
    assert (seed.fqn, seed.tags, seed.depends_on) == (("shop", "raw.x"), (), ())


def test_the_digest_is_that_of_the_bytes() -> None:
    """The same bytes have the same digest, whatever their origin."""
    data = json.dumps(raw_manifest(node(A))).encode()
    one, two = (Manifest.from_bytes(data, origin=origin) for origin in ("run 1", "run 2"))
    assert one.digest == two.digest
    assert len(one.digest) == 64
    assert Manifest.from_bytes(data + b"\n", origin="run 1").digest != one.digest


def whole(**changes: Any) -> bytes:
    return json.dumps(raw_manifest(node(A), **changes)).encode()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b" \n", "the file is empty (2 bytes)"),
        (b"<!DOCTYPE html><html>Sign in</html>", "this is HTML or XML, not JSON"),
        (whole()[:200], "the JSON is cut off: it ends after 200 characters"),
        (whole()[:-1], "the JSON is cut off"),
        (b'{"metadata": {]}', "not valid JSON at offset 14 (line 1, column 15)"),
        (b"\xff\x00\x01", "not UTF-8 text at byte 0"),
        (whole().decode().encode("utf-16"), "this is text in UTF-16 or UTF-32, not JSON in UTF-8"),
        (whole().decode().encode("utf-16-le"), "this is text in UTF-16 or UTF-32"),
        (gzip.compress(whole()), "this is a gzip archive, not JSON"),
        (bytes(64), "this is a file of 64 null bytes"),
        (whole() + bytes(3), "not valid JSON at offset"),
        (b'{"a": ' + b"9" * 5000 + b"}", "holds a number that cannot be read"),
        (b'{"a": "caf\xe9"}', "not UTF-8 text at byte 10"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "holds a list where dbt writes an object"),
        (b"null", "holds null where dbt writes an object"),
        (b"{}", "no metadata block"),
        (b'{"metadata": {}}', "metadata.dbt_schema_version is None"),
        (whole(metadata=schema("catalog", 1)), "this is a catalog, not a manifest"),
        (whole(metadata=schema("run-results", 6)), "this is a run-results, not a manifest"),
        (whole(metadata=schema("manifest", 9)), "manifest schema v9"),
        (whole(metadata=schema("manifest", 99)), "v10 to v20 are"),
        (whole(metadata=schema("manifest", 10**4000)), "this is not a dbt manifest"),
        (whole(nodes=None), "no nodes"),
        (whole(nodes=[]), "no nodes"),
        (whole(sources=[]), "sources is a list, not an object"),
        (whole(nodes={A: []}), "nodes['model.shop.a'] is not an object"),
        (whole(nodes={A: node(A, fqn=[1])}), "nodes['model.shop.a'].fqn[0] is not a text"),
        (whole(nodes={A: node(A, name=3)}), "nodes['model.shop.a'].name is a number, not a text"),
        (whole(nodes={A: node(A, config=[])}), "nodes['model.shop.a'].config is a list"),
        (whole(nodes={A: node(A, columns=["id"])}), "nodes['model.shop.a'].columns is a list"),
        (whole(nodes={A: node(A, columns={"id": 1})}), "['model.shop.a'].columns.id is not an obj"),
        (whole(nodes={A: node(A, meta="x")}), "nodes['model.shop.a'].meta is a text, not an obj"),
        (whole(nodes={A: node(A, config={"meta": []})}), "['model.shop.a'].config.meta is a list"),
        (whole(nodes={A: node(A, raw_code=["x"])}), "nodes['model.shop.a'].raw_code is a list"),
        (whole(sources={S: node(S, source_name={})}), "'source.shop.raw.t'].source_name is an obj"),
        (
            whole(nodes={A: node(A, depends_on={"nodes": {"x": 1}})}),
            "nodes['model.shop.a'].depends_on.nodes is an object, not a list",
        ),
        (
            whole(nodes={A: node(A, depends_on={"macros": [[]]})}),
            "nodes['model.shop.a'].depends_on.macros[0] is not a text",
        ),
        (whole(nodes={A: node(A, unrendered_config=[])}), "'model.shop.a'].unrendered_config is"),
        (whole(nodes={A: node(A, contract=True)}), "nodes['model.shop.a'].contract is a boolean"),
        (
            whole(nodes={A: node(A, config={"persist_docs": True})}),
            "nodes['model.shop.a'].config.persist_docs is a boolean, not an object",
        ),
        (whole(nodes={A: node(A, exports=3)}), "nodes['model.shop.a'].exports is a number"),
        (
            whole(nodes={A: node(A, exports=["x"])}),
            "nodes['model.shop.a'].exports[0] is not an object",
        ),
        (
            whole(nodes={A: node(A, exports=[{"unrendered_config": 3}])}),
            "nodes['model.shop.a'].exports[0].unrendered_config is a number",
        ),
        (whole(nodes={B: node(A)}), "nodes['model.shop.b'] has the unique_id 'model.shop.a'"),
        (whole(sources={A: node(A)}), "sources['model.shop.a'] is in nodes as well"),
        (whole(groups=[]), "groups is a list, not an object"),
        (whole(groups={"group.shop.g": None}), "groups['group.shop.g'] is not an object"),
        (whole(groups={"group.shop.g": {"name": []}}), "groups['group.shop.g'].name is a list"),
        (
            whole(macros={"macro.shop.m": {"depends_on": {"macros": [1]}}}),
            "macros['macro.shop.m'].depends_on.macros[0] is not a text",
        ),
        (whole(selectors={"s": []}), "selectors.s is a list, not an object"),
        (whole(disabled=[]), "disabled is a list"),
    ],
)
def test_a_damaged_file_is_refused_and_the_place_named(data: bytes, complaint: str) -> None:
    """Every refusal names where the file came from and where in it the damage is."""
    with pytest.raises(ManifestError) as refused:
        Manifest.from_bytes(data, origin="run 7, manifest.json")
    assert str(refused.value).startswith("run 7, manifest.json: ")
    assert complaint in str(refused.value)
    assert refused.value.origin == "run 7, manifest.json"


def _within_itself() -> dict[str, Any]:
    raw = raw_manifest(node(A))
    raw["docs"] = raw
    return raw


def _deep() -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(5000):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (None, "NoneType is no mapping"),
        ([], "list is no mapping"),
        (_within_itself(), "is not what JSON can hold: Circular reference"),
        (raw_manifest(node(A, meta=_deep())), "is nested too deeply"),
        (raw_manifest(node(A, meta={1: 2, "a": 3})), "is not what JSON can hold"),
        (raw_manifest(nodes={1: node(A)}), "nodes[1] has an id that is not a text"),
    ],
    ids=["none", "list", "circular", "deep", "mixed keys", "number for id"],
)
def test_a_dict_that_is_no_manifest_is_refused(raw: Any, complaint: str) -> None:
    """What a user hands over parsed was perhaps never JSON."""
    with pytest.raises(ManifestError) as refused:
        Manifest.from_dict(raw, origin="theirs")
    assert str(refused.value).startswith("theirs: ")
    assert complaint in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A path that cannot be read is a ManifestError too."""
    with pytest.raises(ManifestError, match="No such file"):
        Manifest.from_path(tmp_path / "manifest.json")


def test_a_byte_order_mark_does_no_harm() -> None:
    """A file saved by an editor on Windows is read."""
    assert list(Manifest.from_bytes(b"\xef\xbb\xbf" + whole(), origin="here").nodes) == [A]


TEXTS = ["plain", "über", "— “so” —", "数", "😀"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_of_any_script_is_read(text: str) -> None:
    """As dbt writes it, in escapes, and as Fusion does, in UTF-8."""
    entry = {**node(A, tags=[text]), "description": text, text: text, "columns": {text: {}}}
    raw = raw_manifest(entry, node(f"model.shop.{text}", A), macros={text: {"macro_sql": text}})
    for is_ascii in (True, False):
        data = json.dumps(raw, ensure_ascii=is_ascii).encode()
        manifest = Manifest.from_bytes(data, origin="here")
        assert manifest.nodes[A].tags == (text,)
        assert manifest.nodes[A].properties == entry
        assert manifest.children(A) == (f"model.shop.{text}",)
        assert manifest.raw["macros"] == raw["macros"]


def test_text_that_is_no_utf_8_is_refused_at_its_byte() -> None:
    """Also within a value that is valid JSON otherwise."""
    data = json.dumps(raw_manifest({**node(A), "description": "é"}), ensure_ascii=False)
    with pytest.raises(ManifestError, match=f"not UTF-8 text at byte {data.index('é')}"):
        Manifest.from_bytes(data.encode("latin-1"), origin="here")


def test_one_emoji_does_not_multiply_the_memory() -> None:
    """Python keeps a text in four bytes a character when one of them needs it."""

    def peak(text: str) -> int:
        raw = raw_manifest(*(node(f"model.shop.m{n}", description="x" * 2000) for n in range(200)))
        raw["nodes"]["model.shop.m7"]["description"] = text
        data = json.dumps(raw, ensure_ascii=False).encode()
        tracemalloc.start()
        try:
            Manifest.from_bytes(data, origin="here")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak("")  # what is made once
    assert peak("😀") < 1.1 * peak("")


def _in_a_row(number: int, _size: int) -> list[int]:
    return [number - 1] if number else []


def _around_one(number: int, _size: int) -> list[int]:
    return [0] if number else []


def _in_two_halves(number: int, size: int) -> list[int]:
    """Thirty parents each: most of the manifest is edges."""
    half = size // 2
    return [(number * 31 + step) % half for step in range(30)] if number >= half else []


@pytest.mark.parametrize("parents", [_in_a_row, _around_one, _in_two_halves])
@pytest.mark.parametrize(
    "size", [pytest.param(400, id="usual"), pytest.param(2000, marks=pytest.mark.nightly)]
)
def test_four_times_the_nodes_take_four_times_the_time(
    parents: Callable[[int, int], list[int]], size: int
) -> None:
    """Reading, packing, walks and selection, in CPU time; were one quadratic: sixteen."""

    def took(size: int) -> float:
        ids = [f"model.shop.m{n}" for n in range(size)]
        entries = [node(ids[n], *(ids[p] for p in parents(n, size))) for n in range(size)]
        entries += [node(f"test.shop.t{n}", ids[n], ids[0]) for n in range(size)]
        data = json.dumps(raw_manifest(*entries)).encode()
        started = time.process_time()
        manifest = Manifest.from_bytes(data, origin="here")
        again = Manifest.from_packed(manifest.packed, origin="here")
        assert again is not None
        again.topological()
        middle = f"m{size // 2}"
        for text in (f"+{middle}+", f"@{middle}", "m*1 m*2+ m*3,+m*4"):
            for mode in ("eager", "buildable"):
                select(again, select=text, exclude="test_type:generic", indirect_selection=mode)
        return time.process_time() - started

    assert any(took(4 * size) / took(size) < 9 for _ in range(3))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
ENTRY_KEYS = [
    "resource_type",
    "name",
    "fqn",
    "tags",
    "config",
    "depends_on",
    "patch_path",
    "version",
]


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(ENTRY_KEYS), JSON), st.binary(max_size=4), st.integers(0, 400)
)
def test_no_damage_gives_another_error(changes: dict[str, Any], dirt: bytes, at: int) -> None:
    """Strange values and dirt anywhere give a manifest or a ManifestError, nothing else."""
    data = whole(nodes={A: node(A, **changes)} if "name" not in changes else {A: changes})
    for damaged in (data, data[:at] + dirt + data[at:], data[:at]):
        try:
            manifest = Manifest.from_bytes(damaged, origin="fuzz")
        except ManifestError:
            continue
        assert set(manifest.topological()) == set(manifest.nodes)
