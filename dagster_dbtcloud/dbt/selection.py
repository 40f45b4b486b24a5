"""Select nodes of a manifest in dbt's own node selection language, without dbt.

``select`` gives the same unique ids as ``dbt ls`` of dbt-core 1.11 (docs/selection.md lists where
not, and why). It reads nothing but the manifest: no disk, no earlier run.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dagster_dbtcloud.dbt.expression import (
    Criterion,
    Expression,
    Group,
    check_indirect_selection,
    did_you_mean,
    parse,
    parse_definition,
    selection_error,
)
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.methods import METHODS
from dagster_dbtcloud.errors import SelectionError

__all__ = [
    "BUILD_TYPES",
    "LIST_TYPES",
    "RUN_TYPES",
    "SEED_TYPES",
    "SNAPSHOT_TYPES",
    "TEST_TYPES",
    "Criterion",
    "Expression",
    "Group",
    "SelectionError",
    "parse",
    "parse_selector",
    "select",
]

RUN_TYPES = frozenset({"model"})
SEED_TYPES = frozenset({"seed"})
SNAPSHOT_TYPES = frozenset({"snapshot"})
TEST_TYPES = frozenset({"test", "unit_test"})
BUILD_TYPES = (
    RUN_TYPES | SEED_TYPES | SNAPSHOT_TYPES | TEST_TYPES | {"exposure", "saved_query", "function"}
)
"""What ``dbt build`` takes (it runs nothing for an exposure)."""
LIST_TYPES = BUILD_TYPES | {"source", "metric", "semantic_model"}
"""What ``dbt ls`` shows when no resource type is named."""


def select(
    manifest: Manifest,
    *,
    select: str | Sequence[str] = "",
    exclude: str | Sequence[str] = "",
    selector: str = "",
    indirect_selection: str = "eager",
    resource_types: Collection[str] | None = None,
    include_empty: bool = True,
) -> frozenset[str]:
    """Return the unique ids that dbt would select, as ``--select`` and ``--exclude`` say.

    With none of the three, the manifest's default YAML selector, or else everything. ``selector``
    names a YAML selector and stands alone. ``resource_types`` keeps those types only, all when it
    is None. ``include_empty=False`` drops nodes with blank code, as ``build``, ``run`` and ``test``
    do and ``ls`` does not. Disabled nodes are never selected.

    Raises: SelectionError, pointing at the place in the text.
    """
    check_indirect_selection(indirect_selection)
    expression = _expression(manifest, select, exclude, selector)
    found = _Evaluation(manifest, indirect_selection).result(expression)
    nodes = manifest.nodes
    return frozenset(
        unique_id
        for unique_id in found
        if (resource_types is None or nodes[unique_id].resource_type in resource_types)
        and (include_empty or not _is_empty(manifest, unique_id))
    )


def parse_selector(manifest: Manifest, name: str) -> Expression:
    """Return the YAML selector ``name`` of the manifest. Raises: SelectionError."""
    selectors = manifest.selectors
    if name not in selectors:
        known = f"The manifest has {', '.join(sorted(selectors))}." if selectors else (
            "The manifest has no YAML selectors (selectors.yml)."
        )  # fmt: skip
        raise selection_error(
            f"There is no YAML selector {name!r}.",
            text=name,
            hint=did_you_mean(name, selectors) or known,
        )
    return parse_definition(selectors[name].get("definition"), name=name, selectors=selectors)


def _expression(
    manifest: Manifest, select: str | Sequence[str], exclude: str | Sequence[str], selector: str
) -> Expression | None:
    if selector:
        if exclude or (select and select not in ("fqn:*", ["fqn:*"], ("fqn:*",))):
            raise selection_error(
                "A YAML selector cannot be combined with select or exclude.",
                text=selector,
                hint="dbt would ignore the other two; write them into the selector.",
            )
        return parse_selector(manifest, selector)
    if not select and not exclude:
        default = next((n for n, s in manifest.selectors.items() if s.get("default") is True), None)
        if default is not None:
            return parse_selector(manifest, default)
    included = parse(select) if select else None
    if not exclude:
        return included
    everything = Criterion("fqn", (), "*"), Criterion("source", (), "*")
    return Group(
        "difference",
        (included or Group("union", everything, indirect_selection=None), parse(exclude)),
    )


def _is_empty(manifest: Manifest, unique_id: str) -> bool:
    node = manifest.nodes[unique_id]
    if "raw_code" not in node.properties or node.resource_type in ("seed", "function"):
        return False
    return not node.raw_code.strip()


class _Evaluation:
    """One expression's way to a set of ids.

    Every expression gives two sets: what is selected, and tests set aside because in the modes
    cautious and buildable a parent of theirs is missing; a group may bring that parent.
    """

    def __init__(self, manifest: Manifest, mode: str) -> None:
        self.manifest = manifest
        self.mode = mode

    def result(self, expression: Expression | None) -> set[str]:
        if expression is None:
            return set(self.manifest.nodes)
        return self._evaluate(expression)[0]

    def _evaluate(self, expression: Expression) -> tuple[set[str], set[str]]:
        if isinstance(expression, Criterion):
            return self._criterion(expression)
        bundles = [self._evaluate(part) for part in expression.parts]
        direct = _combine(expression.operation, [selected for selected, _ in bundles])
        if not any(aside for _, aside in bundles):
            return direct, set(direct)
        wide = _combine(expression.operation, [selected | aside for selected, aside in bundles])
        return self._promote(direct, wide, expression.indirect_selection or self.mode), wide

    def _criterion(self, criterion: Criterion) -> tuple[set[str], set[str]]:
        manifest = self.manifest
        matched = set(METHODS[criterion.method](manifest, criterion))
        selected = set(matched)
        if criterion.childrens_parents:
            selected |= manifest.descendants(matched)
            selected |= manifest.ancestors(selected)
        if criterion.parents:
            selected |= manifest.ancestors(matched, criterion.parents_depth)
        if criterion.children:
            selected |= manifest.descendants(matched, criterion.children_depth)
        return self._with_tests(selected, criterion.indirect_selection or self.mode)

    def _with_tests(self, selected: set[str], mode: str) -> tuple[set[str], set[str]]:
        """Add the tests on ``selected`` that the mode lets in; return the others beside."""
        if mode == "empty":
            return selected, set()
        nodes = self.manifest.nodes
        touched = {
            child
            for unique_id in selected
            for child in self.manifest.children(unique_id)
            if nodes[child].resource_type in TEST_TYPES
        }
        if mode == "eager":
            return selected | touched, set()
        present = selected
        if mode == "buildable":
            sources = {i for i, node in nodes.items() if node.resource_type == "source"}
            present = selected | self.manifest.ancestors(selected) | sources
        complete = {test for test in touched if present.issuperset(nodes[test].depends_on)}
        return selected | complete, touched - complete

    def _promote(self, direct: set[str], wide: set[str], mode: str) -> set[str]:
        """Add tests set aside whose parents the whole group has brought together."""
        if mode not in ("cautious", "buildable"):
            return direct
        present = direct | self.manifest.ancestors(direct) if mode == "buildable" else direct
        nodes = self.manifest.nodes
        return direct | {
            unique_id
            for unique_id in wide - direct
            # dbt-core looks for unit tests in the wrong place here, and finds none.
            if nodes[unique_id].resource_type != "unit_test"
            and present.issuperset(nodes[unique_id].depends_on)
        }


def _combine(operation: str, sets: list[set[str]]) -> set[str]:
    if not sets:
        return set()
    if operation == "union":
        return set().union(*sets)
    first, *others = sets
    return first.intersection(*others) if operation == "intersection" else first.difference(*others)
