"""Words for dbt that select exactly a set of nodes, as short as our engine finds them exact.

Pure: it runs no command. Which command the words belong to is ``commands.py``'s.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from dagster_dbtcloud.dbt.expression import Criterion
from dagster_dbtcloud.dbt.manifest import Manifest, Node
from dagster_dbtcloud.dbt.methods import METHODS
from dagster_dbtcloud.dbt.selection import select as select_nodes
from dagster_dbtcloud.errors import SelectionError
from dagster_dbtcloud.specs import DbtSpecs, is_asset
from dagster_dbtcloud.translator import TEST_TYPES

SHORT_ENOUGH = 1_000
"""Characters up to which a selection names its nodes one by one, for people to read."""

LONGEST = 30_000
"""Characters up to which a selection goes into one command (docs/dbt-cloud-api.md, fact 38)."""

_ENDS = 30
"""How many nodes a graph operator is written for, at most."""

_EFFECTIVE_TYPES = TEST_TYPES | {"function", "saved_query"}
"""Types besides those of assets for which ``dbt build`` does something."""


def node_args(
    specs: DbtSpecs,
    unique_ids: Collection[str],
    *,
    select: str = "fqn:*",
    exclude: str = "",
    selector: str = "",
    exact: bool = False,
) -> tuple[str, ...]:
    """Return the arguments with which a dbt command takes exactly the nodes ``unique_ids``.

    For all that the definition holds these are its own ``--select``, ``--exclude`` or
    ``--selector``, whether or not the checks of sources are named. For a part they are the nodes'
    names while that is short, else whatever is shortest of whole folders, names, and the
    definition's own selection without the rest. Every form but the first was found exact by our
    own selection engine, and fixes the mode of indirect selection; with ``exact`` the first, too.
    Where the translator makes no checks, tests run with their assets, as in the whole. Of a unit
    test without its model ``dbt build`` makes nothing (see ``unit_tests_alone``).

    Raises: SelectionError if ``unique_ids`` is empty, or dbt's selection cannot tell them apart.
    """
    wanted = frozenset(unique_ids)
    if not wanted:
        raise SelectionError(
            "Nothing is selected, so there is nothing for dbt to do.",
            text="",
            hint="Select at least one asset or check of the definition.",
        )
    whole = specs.whole
    if whole is None:
        whole = frozenset((*specs.asset_keys, *specs.check_keys))
    if wanted >= whole and not exact:
        return _own_args(select, exclude, selector)
    return _Part(specs, wanted, select.split(), exclude.split(), selector).args()


def node_args_in_parts(
    specs: DbtSpecs,
    unique_ids: Collection[str],
    *,
    select: str = "fqn:*",
    exclude: str = "",
    selector: str = "",
    exact: bool = False,
    longest: int = LONGEST,
) -> list[tuple[str, ...]]:
    """Return what ``node_args`` does, in several parts where one is longer than ``longest``.

    No node of a part depends on one of a later part. A test is in the part of its last parent, or
    in a later one; a unit test is in that of its model. Each part but a single node's is at most
    ``longest`` characters.

    Raises: SelectionError, as ``node_args``.
    """
    own = {"select": select, "exclude": exclude, "selector": selector}
    args = node_args(specs, unique_ids, **own, exact=exact)
    if len(" ".join(args)) <= longest:
        return [args]
    wanted = frozenset(unique_ids)
    return [
        _Part(specs, part, select.split(), exclude.split(), selector, mode="buildable").args()
        for part in _in_parts(specs, wanted, longest)
    ]


def _in_parts(specs: DbtSpecs, wanted: frozenset[str], longest: int) -> Iterator[frozenset[str]]:
    """Cut the nodes, in the order in which dbt would build them, where their names get too long."""
    manifest = specs.manifest
    place = {unique_id: number for number, unique_id in enumerate(manifest.topological())}
    with_model: dict[str, list[str]] = {}
    order: list[tuple[int, int, str]] = []
    for unique_id in wanted:
        node = manifest.nodes[unique_id]
        above = [parent for parent in node.depends_on if parent in place]
        models = [parent for parent in above if parent in wanted]
        if node.resource_type == "unit_test" and models:
            with_model.setdefault(models[0], []).append(unique_id)
        elif node.resource_type in TEST_TYPES:
            order.append((max((place[parent] for parent in above), default=0), 1, unique_id))
        else:
            order.append((place[unique_id], 0, unique_id))
    names = _Names(manifest, others=_effective(manifest) - wanted)
    room = longest - len("--select --indirect-selection buildable")
    part: list[str] = []
    length = 0
    for _, _, unique_id in sorted(order):
        block = [unique_id, *with_model.get(unique_id, ())]
        more = sum(len(names.word(each, compact=False) or "") + 1 for each in block)
        if part and length + more > room:
            yield frozenset(part)
            part, length = [], 0
        part += block
        length += more
    if part:
        yield frozenset(part)


def unit_tests_alone(manifest: Manifest, unique_ids: Collection[str]) -> frozenset[str]:
    """Return those of ``unique_ids`` that ``dbt build`` would pass over without a word.

    It runs a unit test only together with its model; ``dbt test`` runs it alone.
    Source: BuildTask of dbt-core 1.11.
    """
    chosen = frozenset(unique_ids)
    return frozenset(
        unique_id
        for unique_id in chosen
        if manifest.nodes[unique_id].resource_type == "unit_test"
        and chosen.isdisjoint(manifest.nodes[unique_id].depends_on)
    )


def _own_args(select: str, exclude: str, selector: str) -> tuple[str, ...]:
    if selector:
        return ("--selector", selector)
    # Even when it is everything: without a --select, dbt takes the project's default selector.
    words = select.split() or ["fqn:*"]
    return ("--select", *words, *(("--exclude", *exclude.split()) if exclude.split() else ()))


@dataclass(frozen=True)
class _Form:
    """One way to say a selection. An empty ``mode`` leaves indirect selection as it is."""

    select: Sequence[str]
    exclude: Sequence[str] = ()
    mode: str = "empty"
    cost: int = 1
    """How many characters one of its characters counts for: names are easier to read than ends."""

    def args(self) -> tuple[str, ...]:
        args = ["--select", *self.select]
        if self.exclude:
            args += ["--exclude", *self.exclude]
        if self.mode:
            args += ["--indirect-selection", self.mode]
        return tuple(args)

    def length(self) -> int:
        return len(" ".join(self.args()))


class _Part:
    """A part of a definition on its way to arguments."""

    def __init__(
        self,
        specs: DbtSpecs,
        wanted: frozenset[str],
        select: Sequence[str],
        exclude: Sequence[str],
        selector: str,
        *,
        mode: str = "",
    ) -> None:
        self.specs = specs
        self.manifest = specs.manifest
        self.wanted = wanted
        self.own = None if selector else (select or ["fqn:*"], exclude)
        self.assets = wanted & specs.asset_keys.keys()
        self.checks = wanted - self.assets
        self.tests_come_along = not specs.translator.settings.enable_asset_checks
        self.mode = mode if self.tests_come_along else "empty"
        self.effective = _effective(self.manifest)

    def args(self) -> tuple[str, ...]:
        if len(self.assets) <= SHORT_ENOUGH / 2:  # a name and a blank take two characters or more
            named = self._shortest(self._by_names(compact=False))
            if named is not None and named.length() <= SHORT_ENOUGH:
                return named.args()
        forms = [
            *self._by_names(compact=True),
            *self._by_names(compact=False),
            *self._without_the_rest(),
            *self._by_kind(),
        ]
        form = self._shortest(forms)
        if form is None:
            self._refuse()
        return form.args()

    def _shortest(self, forms: Iterable[_Form]) -> _Form | None:
        by_cost = sorted(forms, key=lambda form: form.length() * form.cost)
        return next(filter(self._is_exact, by_cost), None)

    def _is_exact(self, form: _Form) -> bool:
        found = self.effective & select_nodes(
            self.manifest,
            select=form.select,
            exclude=form.exclude,
            indirect_selection=form.mode or "eager",
        )
        if self.tests_come_along:
            return found & self.specs.asset_keys.keys() == self.assets
        return found == self.wanted

    def _by_names(self, *, compact: bool) -> Iterator[_Form]:
        others = self.effective - self.wanted
        if self.tests_come_along:
            others = frozenset(i for i in others if not self._is_test(i))
        names = _Names(self.manifest, others=others)
        words = names.words(self.wanted, compact=compact)
        if words is not None:
            yield _Form(words, mode=self.mode)
        if self.tests_come_along:
            return
        # Shorter where the checks are those that dbt runs with the assets anyway, or nearly so.
        reached = {
            child
            for unique_id in self.assets
            for child in self.manifest.children(unique_id)
            if self._is_test(child)
        }
        extra, missing = reached - self.checks, self.checks - reached
        if len(extra) + len(missing) < len(self.checks):
            words = names.words(self.assets | missing, compact=compact)
            unwanted = _Names(self.manifest, others=self.wanted).words(extra, compact=compact)
            if words is not None and unwanted is not None:
                yield _Form(words, unwanted, mode="eager")

    def _without_the_rest(self) -> Iterator[_Form]:
        if self.own is None or self.tests_come_along:  # dbt ignores --exclude beside --selector
            return
        select, exclude = self.own
        rest = (self.specs.selected & self.effective) - self.wanted
        if len(rest) > len(self.wanted):
            return
        types = {self.manifest.nodes[unique_id].resource_type for unique_id in rest}
        words: list[str] | None
        if types <= TEST_TYPES and not any(map(self._is_test, self.wanted)):
            words = [f"resource_type:{name}" for name in sorted(types)]
        else:
            words = _Names(self.manifest, others=self.wanted).words(rest, compact=True)
        if words is not None:
            yield _Form(select, [*exclude, *words], mode="empty")
            yield _Form(select, [*exclude, *words], mode="eager")

    def _by_kind(self) -> Iterator[_Form]:
        """Begin with what many of the nodes have in common, and mend it by names."""
        modes = (self.mode,) if self.tests_come_along else ("empty", "eager")
        for words in self._in_common():
            for mode in modes:
                form = self._mended(words, mode)
                if form is not None:
                    yield form

    def _in_common(self) -> Iterator[list[str]]:
        own, _ = self.own or (["fqn:*"], ())
        within = [word for word in own if word not in ("fqn:*", "*")]
        names = _Names(self.manifest, others=self.effective - self.wanted)
        parents, children = self.manifest.parents, self.manifest.children
        for sign, near in (("{}+", parents), ("+{}", children)):
            ends = [i for i in sorted(self.assets) if self.assets.isdisjoint(near(i))]
            if len(ends) > _ENDS:
                continue
            words = [names.word(unique_id, compact=False) or "," for unique_id in ends]
            if not any("," in word for word in words):
                signed = [sign.format(word) for word in words]
                yield [f"{a},{b}" for a in signed for b in within] if within else signed
        tagged: dict[str, set[str]] = {}
        for unique_id in self.effective:
            for tag in self.manifest.nodes[unique_id].tags:
                tagged.setdefault(tag, set()).add(unique_id)
        whole = [tag for tag, ids in tagged.items() if ids <= self.wanted and len(ids) > 1]
        # Of tags for the same nodes one is enough: the widest come first, each must add something.
        words, known = [], set[str]()
        for tag in sorted(whole, key=lambda tag: (-len(tagged[tag]), tag)):
            if not tagged[tag] <= known and _safe(tag) == tag:
                words.append(f"tag:{tag}")
                known |= tagged[tag]
        if words:
            yield words
        if len(within) > 1:  # some words of the definition's own selection, whole
            kept = [word for word in within if self._found([word], (), "empty") <= self.wanted]
            if kept:
                yield kept

    def _mended(self, words: Sequence[str], mode: str) -> _Form | None:
        """Add what the words lack, and exclude what they take too much, if that is little."""
        exclude = self.own[1] if self.own else ()
        found = self._found(words, exclude, mode)
        wanted = self.assets if self.tests_come_along else self.wanted
        missing, extra = wanted - found, found - wanted
        tests = {i for i in extra if self._is_test(i)}
        kinds = sorted({self.manifest.nodes[i].resource_type for i in tests})
        without: list[str] = []
        if tests and not self.checks:
            without, extra = [f"resource_type:{kind}" for kind in kinds], extra - tests
        if len(missing) + len(extra) > len(wanted) / 2:
            return None
        added = _Names(self.manifest, others=self.effective - wanted).words(missing, compact=True)
        unwanted = _Names(self.manifest, others=wanted).words(extra, compact=True)
        if added is None or unwanted is None:
            return None
        return _Form([*words, *added], [*exclude, *without, *unwanted], mode, cost=2)

    def _found(self, select: Sequence[str], exclude: Sequence[str], mode: str) -> frozenset[str]:
        try:
            found = self.effective & select_nodes(
                self.manifest, select=select, exclude=exclude, indirect_selection=mode or "eager"
            )
        except SelectionError:
            return self.effective  # of an earlier manifest, for example: nobody here can tell
        return found & self.specs.asset_keys.keys() if self.tests_come_along else found

    def _is_test(self, unique_id: str) -> bool:
        return self.manifest.nodes[unique_id].resource_type in TEST_TYPES

    def _refuse(self) -> NoReturn:
        names = _Names(self.manifest, others=self.effective - self.wanted)
        twins = [i for i in sorted(self.wanted) if names.word(i, compact=False) is None]
        raise SelectionError(
            "dbt's selection cannot tell these from other nodes of the same name:"
            f" {', '.join(twins or sorted(self.wanted))}.",
            text=" ".join(twins),
            hint="Give them another name in dbt, or select the others as well.",
        )


class _Names:
    """Finds for nodes the words that match no node of ``others``; what else exists is no matter."""

    def __init__(self, manifest: Manifest, *, others: frozenset[str]) -> None:
        self.manifest = manifest
        self.others = others
        self._clashes: dict[str, frozenset[str]] = {}

    def words(self, unique_ids: Collection[str], *, compact: bool) -> list[str] | None:
        """Return words that match all of ``unique_ids``, None where one of them has none."""
        words = {self.word(unique_id, compact=compact): None for unique_id in sorted(unique_ids)}
        return None if None in words else [word for word in words if word is not None]

    def word(self, unique_id: str, *, compact: bool) -> str | None:
        """Return a word for a node: its name, or if ``compact`` the largest folder it lies in."""
        node = self.manifest.nodes[unique_id]
        for value in _values(node, compact=compact):
            clashes = self._clash(value)
            if not clashes:
                return _word(value)
            if node.resource_type not in clashes:
                return f"{_word(value)},resource_type:{node.resource_type}"
        return self._by_parent(node)

    def _clash(self, value: str) -> frozenset[str]:
        """Return the types of the others that the value matches."""
        found = self._clashes.get(value)
        if found is None:
            nodes = self.manifest.nodes
            matched = METHODS["fqn"](self.manifest, Criterion("fqn", (), value))
            found = frozenset(nodes[i].resource_type for i in matched if i in self.others)
            self._clashes[value] = found
        return found

    def _by_parent(self, node: Node) -> str | None:
        """Tell twins (one name, folder and type) apart by what they depend on."""
        for parent_id in node.depends_on:
            parent = self.manifest.nodes.get(parent_id)
            if parent is None:
                continue
            for value in _values(node, compact=False):
                for above in _criteria(parent):
                    word = f"{_word(value)},{above}+1"
                    found = select_nodes(self.manifest, select=word, indirect_selection="empty")
                    if node.unique_id in found and found.isdisjoint(self.others):
                        return word
        return None


def _criteria(node: Node) -> Iterator[str]:
    if node.resource_type == "source":
        yield f"source:{_safe(f'{node.package_name}.{node.source_name}.{node.name}')}"
    else:
        yield from map(_word, _values(node, compact=False))


def _values(node: Node, *, compact: bool) -> Iterator[str]:
    """Yield what dbt's fqn method matches a node by: folders from the top if ``compact``, names."""
    fqn = node.fqn
    if compact:
        for depth in range(1, len(fqn)):
            yield _safe(".".join(fqn[:depth]))
    yield _safe(".".join(fqn[-2:]) if node.is_versioned else fqn[-1])
    if len(fqn) > 1:
        yield _safe(".".join(fqn[1:]))
    yield _safe(".".join(fqn))


def _safe(value: str) -> str:
    """Put dbt's wildcard in place of what a word on the command line cannot hold."""
    return re.sub(r"[^\w.:/-]", "?", value)


def _word(value: str) -> str:
    """Return the value as a criterion; alone, where dbt takes it for a name."""
    plain = re.fullmatch(r"[\w?][\w.?-]*", value)
    if plain and not value.lower().endswith((".sql", ".py", ".csv")):
        return value
    return f"fqn:{value}"


def _effective(manifest: Manifest) -> frozenset[str]:
    return frozenset(i for i, node in manifest.nodes.items() if _is_effective(node))


def _is_effective(node: Node) -> bool:
    """Tell whether ``dbt build`` does something for the node."""
    return is_asset(node) or node.resource_type in _EFFECTIVE_TYPES
