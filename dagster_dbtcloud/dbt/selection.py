"""Select nodes of a manifest in dbt's own node selection language, without dbt.

``select`` gives the same unique ids as ``dbt ls`` of dbt-core 1.11 (docs/selection.md lists where
not, and why). It reads nothing but manifests: no disk, no earlier run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from dagster_dbtcloud.dbt.comparison import state
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
from dagster_dbtcloud.dbt.methods import METHODS, known_values
from dagster_dbtcloud.errors import SelectionError

__all__ = [
    "BUILD_TYPES",
    "COMMAND_TYPES",
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
    "resource_types_of",
    "select",
    "unmatched",
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
COMMAND_TYPES: Mapping[str, frozenset[str]] = {
    "build": BUILD_TYPES,
    "run": RUN_TYPES,
    "seed": SEED_TYPES,
    "snapshot": SNAPSHOT_TYPES,
    "test": TEST_TYPES,
    "clone": RUN_TYPES | SEED_TYPES | SNAPSHOT_TYPES,
    "ls": LIST_TYPES,
}
"""What each command takes when no resource type is named."""

_ALL_SOURCES = Criterion("source", (), "*")


def select(
    manifest: Manifest,
    *,
    select: str | Sequence[str] = "",
    exclude: str | Sequence[str] = "",
    selector: str = "",
    indirect_selection: str = "eager",
    resource_types: Collection[str] | None = None,
    include_empty: bool = True,
    previous: Manifest | None = None,
) -> frozenset[str]:
    """Return the unique ids that dbt would select, as ``--select`` and ``--exclude`` say.

    With none of the three, the manifest's default YAML selector, or else everything. ``selector``
    names a YAML selector and stands alone. ``resource_types`` keeps those types only, all when it
    is None. ``include_empty=False`` drops nodes with blank code, as ``build``, ``run`` and ``test``
    do and ``ls`` does not. ``previous`` is the manifest that ``state:`` compares with. Disabled
    nodes are never selected.

    Raises: SelectionError, pointing at the place in the text.
    """
    check_indirect_selection(indirect_selection)
    expression = _expression(manifest, select, exclude, selector)
    found = _Evaluation(manifest, indirect_selection, previous).result(expression)
    if resource_types is None and include_empty:
        return frozenset(found)
    nodes = manifest.nodes
    return frozenset(
        unique_id
        for unique_id in found
        if (resource_types is None or nodes[unique_id].resource_type in resource_types)
        and (include_empty or not nodes[unique_id].facts.is_blank)
    )


def resource_types_of(
    command: str, *, include: Collection[str] = (), exclude: Collection[str] = ()
) -> frozenset[str]:
    """Return the types that ``dbt COMMAND`` takes.

    ``include`` is what ``--resource-type`` names, ``all`` and ``default`` among it, and ``exclude``
    what ``--exclude-resource-type`` does. Types that the command does nothing for are left out.
    """
    default = COMMAND_TYPES[command]
    every = default | {"analysis"} if command == "ls" else default
    if "all" in include:
        types = every
    elif "default" in include or not include:
        types = default | every.intersection(include)
    else:
        types = every.intersection(include)
    return types - frozenset(exclude)


def unmatched(
    manifest: Manifest, *, select: str | Sequence[str] = "", exclude: str | Sequence[str] = ""
) -> tuple[str, ...]:
    """Say of each blank-separated word that matches nothing so, with close names where there are.

    dbt warns of these, and goes on; so an empty answer of ``select`` can be explained.

    Raises: SelectionError.
    """
    evaluation = _Evaluation(manifest, "empty")
    sentences = []
    for text in (select, exclude):
        for word in parse(text).parts if text else ():
            if not evaluation.result(word):
                hints = (_close_names(manifest, part) for part in getattr(word, "parts", ()))
                hint = next(filter(None, hints), "")
                shown = getattr(word, "text", "")
                sentences.append(f"{shown!r} matches no node. {hint}".rstrip())
    return tuple(sentences)


def _close_names(manifest: Manifest, criterion: Expression) -> str:
    """Return a "Did you mean" for a criterion that matches nothing by itself."""
    if not isinstance(criterion, Criterion) or not isinstance(criterion.value, str):
        return ""
    if any(METHODS[criterion.method](manifest, criterion)):
        return ""
    return did_you_mean(criterion.value, known_values(manifest, criterion.method))


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
    everything = Criterion("fqn", (), "*"), _ALL_SOURCES
    return Group(
        "difference",
        (included or Group("union", everything, indirect_selection=None), parse(exclude)),
    )


class _Evaluation:
    """One expression's way to a set of ids.

    Every expression gives two sets: what is selected, and tests set aside because in the modes
    cautious and buildable a parent of theirs is missing; a group may bring that parent.
    """

    def __init__(self, manifest: Manifest, mode: str, previous: Manifest | None = None) -> None:
        self.manifest = manifest
        self.mode = mode
        self.previous = previous
        self._known: dict[object, tuple[set[str], set[str]]] = {}

    def result(self, expression: Expression | None) -> set[str]:
        if expression is None:
            return set(self.manifest.nodes)
        return self._evaluate(expression)[0]

    def _evaluate(self, expression: Expression) -> tuple[set[str], set[str]]:
        """Return both sets; they are kept for what means the same, so nobody may change them."""
        key = _meaning(expression)
        if key not in self._known:
            self._known[key] = (
                self._criteria([expression])
                if isinstance(expression, Criterion)
                else self._group(expression)
            )
        return self._known[key]

    def _group(self, group: Group) -> tuple[set[str], set[str]]:
        bundles = [self._evaluate_alike(alike) for alike in self._alike(group)]
        if group.operation != "difference":
            bundles = list({id(bundle): bundle for bundle in bundles}.values())
        direct = _combine(group.operation, [selected for selected, _ in bundles])
        if not any(aside for _, aside in bundles):
            return direct, set(direct)
        wide = _combine(group.operation, [selected | aside for selected, aside in bundles])
        return self._promote(direct, wide, group.indirect_selection or self.mode), wide

    def _evaluate_alike(self, alike: list[Expression]) -> tuple[set[str], set[str]]:
        criteria = [part for part in map(_sole, alike) if isinstance(part, Criterion)]
        return self._criteria(criteria) if len(alike) > 1 else self._evaluate(alike[0])

    def _alike(self, group: Group) -> list[list[Expression]]:
        """Put those members of a union together that one walk of the graph can serve.

        In the modes eager and empty the tests of a union are the union of the tests. So they are in
        a union that is cautious itself, as it brings in the tests whose parents it has together; a
        unit test, which it forgets, has one parent.
        """
        if group.operation != "union":
            return [[part] for part in group.parts]
        alike: dict[object, list[Expression]] = {}
        for number, part in enumerate(group.parts):
            sole = _sole(part)
            key: object = number
            if isinstance(sole, Criterion):
                mode = sole.indirect_selection or self.mode
                own = group.indirect_selection or self.mode
                if mode in ("eager", "empty") or mode == own == "cautious":
                    key = (
                        *(mode, sole.childrens_parents, sole.parents, sole.parents_depth),
                        *(sole.children, sole.children_depth),
                    )
            alike.setdefault(key, []).append(part)
        return list(alike.values())

    def _criteria(self, criteria: list[Criterion]) -> tuple[set[str], set[str]]:
        """Select by criteria that differ in nothing but method and value."""
        manifest = self.manifest
        selected: set[str] = set()
        for criterion in criteria:
            if criterion.method == "state" and self.previous is not None:
                selected.update(state(manifest, self.previous, criterion))
            else:
                selected.update(METHODS[criterion.method](manifest, criterion))
        operators = criteria[0]
        if operators.childrens_parents or operators.parents or operators.children:
            matched = frozenset(selected)
            if operators.childrens_parents:
                selected |= manifest.descendants(matched)
                selected |= manifest.ancestors(selected)
            if operators.parents:
                selected |= manifest.ancestors(matched, operators.parents_depth)
            if operators.children:
                selected |= manifest.descendants(matched, operators.children_depth)
        return self._with_tests(selected, operators.indirect_selection or self.mode)

    def _with_tests(self, selected: set[str], mode: str) -> tuple[set[str], set[str]]:
        """Add the tests on ``selected`` that the mode lets in; return the others beside."""
        if mode == "empty":
            return selected, set()
        manifest = self.manifest
        touched = {test for unique_id in selected for test in manifest.tests(unique_id)}
        if mode == "eager":
            return selected | touched, set()
        aside = self._incomplete(touched, selected)
        if aside and mode == "buildable":
            present = selected | manifest.ancestors(selected)
            present.update(METHODS["source"](manifest, _ALL_SOURCES))
            aside = self._incomplete(aside, present)
        return selected | (touched - aside), aside

    def _incomplete(self, tests: set[str], present: set[str]) -> set[str]:
        nodes = self.manifest.nodes
        return {test for test in tests if not present.issuperset(nodes[test].depends_on)}

    def _promote(self, direct: set[str], wide: set[str], mode: str) -> set[str]:
        """Add tests set aside whose parents the whole group has brought together."""
        if mode not in ("cautious", "buildable"):
            return direct
        present = direct | self.manifest.ancestors(direct) if mode == "buildable" else direct
        # dbt-core looks for unit tests in the wrong place here, and finds none.
        nodes = self.manifest.nodes
        aside = {i for i in wide - direct if nodes[i].resource_type != "unit_test"}
        return direct | (aside - self._incomplete(aside, present))


_MEANING = Criterion._fields.index("text")
"""How many fields of a criterion say what it means; the others say where it stands."""


def _meaning(expression: Expression) -> object:
    """Return what is the same for expressions that mean the same."""
    if isinstance(expression, Criterion):
        return repr(expression[:_MEANING])
    return (expression.operation, expression.indirect_selection, *map(_meaning, expression.parts))


def _sole(expression: Expression) -> Expression:
    """Return the only member of an intersection, else the expression itself."""
    if isinstance(expression, Group) and expression.operation == "intersection":
        (part, *others) = expression.parts or (expression,)
        return expression if others else part
    return expression


def _combine(operation: str, sets: list[set[str]]) -> set[str]:
    if not sets:
        return set()
    if operation == "union":
        return set().union(*sets)
    first, *others = sets
    return first.intersection(*others) if operation == "intersection" else first.difference(*others)
