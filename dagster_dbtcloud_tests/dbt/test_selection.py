"""What the selection says when it is refused, and what dbt has no command line for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_dbtcloud.dbt.expression import METHOD_NAMES
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.methods import METHODS
from dagster_dbtcloud.dbt.selection import (
    BUILD_TYPES,
    Criterion,
    Group,
    parse,
    parse_selector,
    select,
    unmatched,
)
from dagster_dbtcloud.errors import SelectionError
from dagster_dbtcloud_tests.dbt.builders import chain, large, manifest_of, node

SHOP = manifest_of(
    node("model.shop.stg", folder="models/staging", tags=["nightly"]),
    node("model.shop.orders", "model.shop.stg"),
    node("model.shop.blank", raw_code=" \n"),
    node("test.shop.t", "model.shop.orders", raw_code="select 1"),
)


def with_selectors(**definitions: Any) -> Manifest:
    selectors = {name: {"name": name, "definition": d} for name, d in definitions.items()}
    return Manifest.from_dict({**SHOP.raw, "selectors": selectors}, origin="by hand")


def test_text_becomes_a_union_of_intersections() -> None:
    """The tree says what dbt's grammar says."""
    union = parse("a,2+tag:b+ @config.meta.owner:x")
    assert isinstance(union, Group)
    (first, second) = union.parts
    assert isinstance(first, Group)
    assert first.operation == "intersection"
    (plain, walked) = first.parts
    assert isinstance(plain, Criterion)
    assert (plain.method, plain.value, plain.parents, plain.children) == ("fqn", "a", False, False)
    assert isinstance(walked, Criterion)
    assert (walked.method, walked.value, walked.parents_depth) == ("tag", "b", 2)
    assert (walked.parents, walked.children, walked.children_depth) == (True, True, None)
    assert isinstance(second, Group)
    (owner,) = second.parts
    assert isinstance(owner, Criterion)
    assert (owner.method, owner.arguments, owner.childrens_parents) == (
        *("config", ("meta", "owner"), True),
    )
    assert (owner.position, owner.value_position) == (11, 30)


@pytest.mark.parametrize(
    ("text", "at", "message", "hint"),
    [
        ("a tga:nightly", "tga", "'tga' is not a selection method", "Did you mean 'tag'?"),
        ("a,b,+souce:x", "souce", "'souce' is not a selection method", "'source'"),
        ("meta:owner", "meta", "not a selection method", "config.meta.KEY:value"),
        ("x zzz:y", "zzz", "not a selection method", "The methods are access, config"),
        ("a @orders+1", "+1", "'@' before and '+' after", "leave out the '+'"),
        ("a\nb", "\nb", "line break", "by blanks"),
        (f"a {'9' * 5000}+b", "9", "so many digits", "no limit"),
        (f"a b+{'9' * 5000}", "9", "so many digits", "no limit"),
        ("x source:a.b.c.d", "a.b.c.d", "at most three parts", "source:PACKAGE.NAME.TABLE"),
        ("x metric:a.b.c", "a.b.c", "at most two parts", "metric:PACKAGE.NAME"),
        ("test_type:genric", "genric", "not a type of test", "'generic'"),
        ("test_type:zz", "zz", "not a type of test", "generic, schema, singular"),
        ("a resource_type:models", "models", "not a resource type", "'model'"),
        ("version:newest", "newest", "not a kind of version", "latest, prerelease"),
        ("a path:/models", "/models", "relative to the dbt project", ""),
        ("path:", "", "The path is empty", "path:models"),
        ("path:models/**.sql", "models/**.sql", "whole folders only", "**/"),
        ("a state:modified+", "modified+", "cannot be answered from one manifest", "dbt Cloud can"),
        ("result:error", "error", "an earlier run", '"--select", "result:error+"'),
        ("source_status:fresher", "fresher", "source freshness", "deferral"),
    ],
)
def test_an_error_points_at_the_place(text: str, at: str, message: str, hint: str) -> None:
    """The position is that of the trouble, the hint says what was meant."""
    with pytest.raises(SelectionError) as refused:
        select(SHOP, select=text)
    error = refused.value
    assert error.text == text
    assert error.text[error.position :].startswith(at)
    assert message in str(error)
    assert hint in error.hint
    assert error.hint in str(error)


def test_the_message_shows_the_text_and_a_mark_below() -> None:
    """Read on a terminal, the mark stands under the first wrong character."""
    with pytest.raises(SelectionError) as refused:
        parse("orders tga:nightly customers")
    _, line, mark, _ = str(refused.value).split("\n")
    assert line == "  orders tga:nightly customers"
    assert line[mark.index("^") :].startswith("tga")


def test_the_mark_is_right_in_a_long_text() -> None:
    """Of a long selection only the surroundings are shown."""
    with pytest.raises(SelectionError) as refused:
        parse(" ".join([*("model_name",) * 100, "tga:x", *("model_name",) * 100]))
    _, line, mark, _ = str(refused.value).split("\n")
    assert line[mark.index("^") :].startswith("tga")
    assert len(line) < 130


def test_several_texts_are_one_union() -> None:
    """A list is what several --select are."""
    both = {"model.shop.orders", "model.shop.stg", "test.shop.t"}
    assert select(SHOP, select=["orders", "stg"]) == both
    assert select(SHOP, select=("orders stg",)) == both
    assert select(SHOP, select=[]) == set(SHOP.nodes)


def test_the_error_of_a_list_points_into_the_joined_text() -> None:
    """Positions count over all texts, parted by a blank."""
    with pytest.raises(SelectionError) as refused:
        select(SHOP, select=["orders", "tga:x"])
    assert (refused.value.text, refused.value.position) == ("orders tga:x", 7)


def test_nothing_given_selects_everything_enabled() -> None:
    """Without a selection every node is selected."""
    assert select(SHOP) == set(SHOP.nodes)
    assert select(SHOP, exclude="orders") == {"model.shop.stg", "model.shop.blank"}


def test_a_default_selector_stands_in_for_no_selection() -> None:
    """It gives way to any select or exclude, as in dbt."""
    manifest = with_selectors(plain="stg", nightly={"method": "tag", "value": "nightly"})
    default = {**manifest.selectors["nightly"], "default": True}
    manifest = Manifest.from_dict(
        {**manifest.raw, "selectors": {**manifest.selectors, "nightly": default}}
    )
    assert select(manifest) == {"model.shop.stg"}
    assert select(manifest, select="fqn:*") == set(manifest.nodes)
    assert len(select(manifest, exclude="orders")) == 2


def test_a_selector_stands_alone() -> None:
    """dbt would ignore select and exclude beside it without a word."""
    manifest = with_selectors(s="orders")
    assert select(manifest, selector="s") == {"model.shop.orders", "test.shop.t"}
    assert select(manifest, selector="s", select="fqn:*") == select(manifest, selector="s")
    for more in ({"select": "stg"}, {"exclude": "stg"}):
        with pytest.raises(SelectionError, match="cannot be combined"):
            select(manifest, selector="s", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("definition", "complaint"),
    [
        (3, "expected a text or a mapping"),
        ({}, "expected a text or a mapping"),
        (None, "expected a text or a mapping"),
        ({"method": "tag"}, ""),
        ({"a": 1, "b": 2}, "expected one key, or method and value"),
        ({"tga": "x"}, "Did you mean 'tag'?"),
        ("tga:x", "Did you mean 'tag'?"),
        ({"union": "orders"}, "union takes a list"),
        ({"union": [{"exclude": "orders"}]}, "exclude takes a list"),
        ({"union": [{"exclude": []}, {"exclude": []}]}, "two exclude in one union"),
        ({"intersection": ["orders", {"union": [3]}]}, "at intersection[1].union[0]"),
        ({"union": [{"exclude": [{}]}]}, "at union[0].exclude[0]"),
        ({"method": "tag", "value": "x", "parents_depth": "two"}, "not a number"),
        (
            {"method": "tag", "value": "x", "children": True, "childrens_parents": True},
            "do not go together",
        ),
        ({"method": "tag", "value": "x", "indirect_selection": "eagr"}, "Did you mean 'eager'?"),
        ({"method": "selector", "value": "otter"}, "Did you mean 'other'?"),
        ({"method": "selector", "value": "s"}, "refers to itself"),
        ({"method": "selector", "value": "circle"}, "refers to itself"),
        ({"method": "fqn", "value": 3}, "fqn takes a text, not 3"),
    ],
)
def test_a_broken_yaml_selector_is_refused_at_its_place(definition: Any, complaint: str) -> None:
    """The message names the selector, and the place in its definition."""
    circle = {"method": "selector", "value": "s"}
    manifest = with_selectors(s=definition, other="orders", circle=circle)
    if not complaint:
        assert select(manifest, selector="s") == frozenset()
        return
    with pytest.raises(SelectionError) as refused:
        select(manifest, selector="s")
    assert complaint in str(refused.value)


def test_an_endlessly_nested_selector_is_refused() -> None:
    """A depth that nobody writes is an error, not a crash."""
    definition: Any = "orders"
    for _ in range(200):
        definition = {"union": [definition]}
    with pytest.raises(SelectionError, match="nested more than"):
        select(with_selectors(s=definition), selector="s")


def test_an_unknown_selector_names_those_there_are() -> None:
    """A close name is proposed; without any selectors that is said."""
    with pytest.raises(SelectionError, match="Did you mean 'nightly'"):
        parse_selector(with_selectors(nightly="x"), "nightlie")
    with pytest.raises(SelectionError, match=r"The manifest has nightly\."):
        parse_selector(with_selectors(nightly="x"), "other")
    with pytest.raises(SelectionError, match="has no YAML selectors"):
        select(SHOP, selector="nightly")


def test_an_unknown_mode_of_indirect_selection_is_refused() -> None:
    """Before anything is selected."""
    with pytest.raises(SelectionError, match="Did you mean 'cautious'"):
        select(SHOP, indirect_selection="cautios")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("orders stg tag:nightly", []),
        ("order", ["'order' matches no node. Did you mean 'orders'?"]),
        ("orders tag:nightli+", ["'tag:nightli+' matches no node. Did you mean 'nightly'?"]),
        ("orders,tag:nightly", ["'orders,tag:nightly' matches no node."]),
        ("tag:nightly path:modls", ["'path:modls' matches no node. Did you mean 'models'?"]),
        ("zzz config.x:y", ["'zzz' matches no node.", "'config.x:y' matches no node."]),
    ],
)
def test_what_matches_nothing_is_told(text: str, sentences: list[str]) -> None:
    """An empty selection can be explained word by word."""
    assert list(unmatched(SHOP, select=text)) == sentences
    assert list(unmatched(SHOP, exclude=text.split(" "))) == sentences


def test_blank_code_can_be_left_out() -> None:
    """``build``, ``run`` and ``test`` leave it out; ``ls`` does not."""
    assert "model.shop.blank" in select(SHOP)
    built = select(SHOP, include_empty=False, resource_types=BUILD_TYPES)
    assert "model.shop.blank" not in built
    assert "test.shop.t" in built


def test_seeds_are_never_blank() -> None:
    """A seed has no code, and is built all the same."""
    seeds = manifest_of(node("seed.shop.s", raw_code=""))
    assert select(seeds, include_empty=False) == {"seed.shop.s"}


def test_resource_types_filter_last() -> None:
    """Tests come with their models, and only then are the types sorted out."""
    assert select(SHOP, select="orders", resource_types={"test"}) == {"test.shop.t"}
    assert select(SHOP, select="orders", resource_types=()) == frozenset()


def test_the_table_has_every_method_of_the_language() -> None:
    """What the parser accepts, the table answers."""
    assert sorted(METHODS) == sorted(METHOD_NAMES)


def test_deep_chains_do_not_recurse() -> None:
    """5,000 levels are walked both ways."""
    manifest = chain(5000)
    assert len(select(manifest, select="+m4999")) == 5000
    assert len(select(manifest, select="@m0")) == 5000
    assert len(select(manifest, select="m0+100")) == 101


@settings(max_examples=300, deadline=None)
@given(st.text("ab.*?[]!@+0129:,/ -_\n\0é" + "tagstefqnph"))
def test_any_text_is_answered_or_refused(text: str) -> None:
    """No text gives another error than a SelectionError."""
    for method in ("", "path:", "tag:", "config.meta.a:"):
        try:
            selected = select(SHOP, select=method + text)
        except SelectionError as refused:
            shown = refused.text[refused.position :]
            assert len(shown) <= len(text) + len(method)
        else:
            assert selected <= set(SHOP.nodes)


EXPRESSIONS = [
    *("*model*a*00*", "**/*.sql", "path:**/d*", "@layer_0", "+model_with_a_name_05000+"),
    "config.materialized:view,tag:nightly file:*5.sql test_name:u*",
    " ".join(f"model_with_a_name_{number:05}" for number in range(10_000)),
    " ".join(f"+model_with_a_name_{number:05}+1" for number in range(0, 10_000, 10)),
    " ".join(f"path:models/layer_1/domain_{number:02}" for number in range(100)),
    " ".join(f"*a_name_{number:05}*" for number in range(0, 10_000, 99)),
    ",".join(["layer_0+"] * 200),
    " ".join(["*,tag:*"] * 100),
]


CAUTIOUS = " ".join(f"+model_with_a_name_{number:05}" for number in range(0, 10_000, 20))


@pytest.fixture(scope="module")
def many() -> Manifest:
    """10,000 models with two tests each."""
    return Manifest.from_bytes(json.dumps(large(10_000)).encode(), origin="by hand")


@pytest.mark.parametrize(
    ("text", "mode"),
    [*((text, "eager") for text in EXPRESSIONS), (CAUTIOUS, "cautious")],
    ids=lambda value: value[:40],
)
def test_30000_nodes_are_selected_in_half_a_second(many: Manifest, text: str, mode: str) -> None:
    """Any expression, no table made before, in CPU time; a busy machine has twice the time."""

    def took() -> float:
        fresh = copy(many)
        started = time.process_time()
        select(fresh, select=text, indirect_selection=mode)
        return time.process_time() - started

    assert any(took() < 2 * 0.5 for _ in range(3))


def test_importing_the_engine_costs_less_than_30_ms(tmp_path: Path) -> None:
    """In a fresh process, beyond Python's own start; a busy machine has twice that."""
    program = (
        "import time; started = time.process_time();"
        "import dagster_dbtcloud.dbt.selection; took = time.process_time() - started;"
        "import sys; sys.stdout.write(str(took))"
    )
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}

    def took() -> float:
        return float(_in_a_new_process(program, **compiled))

    took()  # compiles
    assert any(took() < 2 * 0.03 for _ in range(5))


def test_the_engine_loads_nothing_that_it_does_not_need() -> None:
    """Dagster, the client and YAML are other rooms'; what reads files waits for a file."""
    program = "import dagster_dbtcloud.dbt.selection, sys; sys.stdout.write(' '.join(sys.modules))"
    bare = set(_in_a_new_process("import sys; sys.stdout.write(' '.join(sys.modules))").split())
    loaded = {name.partition(".")[0] for name in _in_a_new_process(program).split()} - bare
    assert not loaded - sys.stdlib_module_names - {"dagster_dbtcloud"}
    assert not loaded & {"dataclasses", "inspect", "hashlib", "json", "pathlib", "difflib"}


def _in_a_new_process(program: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    ).stdout
