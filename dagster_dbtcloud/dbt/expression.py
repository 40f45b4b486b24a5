"""dbt's node selection language: text, or a selector of selectors.yml, to an ``Expression``.

It only parses; ``methods.py`` and ``selection.py`` give an expression its meaning on a manifest.
Source of the grammar: docs: reference/node-selection/syntax and .../yaml-selectors, and dbt-core
1.11, which was asked wherever those are silent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, NoReturn

from dagster_dbtcloud.errors import SelectionError

METHOD_NAMES = (
    "access",
    "config",
    "exposure",
    "file",
    "fqn",
    "group",
    "metric",
    "package",
    "path",
    "resource_type",
    "result",
    "saved_query",
    "semantic_model",
    "source",
    "source_status",
    "state",
    "tag",
    "test_name",
    "test_type",
    "unit_test",
    "version",
)

INDIRECT_SELECTIONS = ("eager", "cautious", "buildable", "empty")

_CRITERION = re.compile(
    r"(?P<at>@)?(?:(?P<parents>\d*)\+)?(?:(?P<method>[\w.]+):)?(?P<value>.*?)(?:\+(?P<children>\d*))?"
)
_MAX_NESTING = 100  # levels in a YAML selector; people write three


class Criterion(NamedTuple):
    """One ``[@][N+]method.argument:value[+N]``; a depth of None is without limit.

    ``position`` is the 0-based offset of the criterion in ``text``, ``value_position`` that of its
    value; ``text`` is all that was given. An ``indirect_selection`` of None is the command's own.
    """

    method: str
    arguments: tuple[str, ...]
    value: Any
    childrens_parents: bool = False
    parents: bool = False
    parents_depth: int | None = None
    children: bool = False
    children_depth: int | None = None
    indirect_selection: str | None = None
    text: str = ""
    position: int = 0
    value_position: int = 0

    def refuse(self, message: str, *, hint: str = "") -> NoReturn:
        """Raise the SelectionError that points at this criterion's value."""
        raise selection_error(message, text=self.text, position=self.value_position, hint=hint)


class Group(NamedTuple):
    """A set operation over ``parts``; a difference is the first part without the others.

    An ``indirect_selection`` of None is the command's own. ``text`` is the piece it was made from.
    """

    operation: Literal["union", "intersection", "difference"]
    parts: tuple[Expression, ...]
    indirect_selection: str | None = "eager"
    text: str = ""


Expression = Criterion | Group


def selection_error(
    message: str, *, text: str, position: int = 0, hint: str = ""
) -> SelectionError:
    """Build a SelectionError whose message shows the place in ``text`` and the hint."""
    before, after = text[:position], text[position:]
    start = max(before.rfind("\n") + 1, len(before) - 60)
    line = before[start:] + after.partition("\n")[0][:60]
    shown = f"\n  {line}\n  {' ' * (position - start)}^" if text else ""
    return SelectionError(
        f"{message}{shown}{f'{chr(10)}{hint}' if hint else ''}",
        text=text,
        position=position,
        hint=hint,
    )


def parse(text: str | Sequence[str]) -> Group:
    """Parse what ``--select`` or ``--exclude`` takes: a union of intersections of criteria.

    Several texts are one union, as several ``--select`` are. As in dbt, blanks part a union's
    members and commas those of an intersection, so no value can hold either.

    Raises: SelectionError, pointing at the place.
    """
    whole = text if isinstance(text, str) else " ".join(text)
    members: list[Expression] = []
    position = 0
    for word in whole.split(" "):
        parts: list[Expression] = []
        start = position
        for part in word.split(","):
            parts.append(_criterion(part, text=whole, position=start))
            start += len(part) + 1
        members.append(Group("intersection", tuple(parts), indirect_selection=None, text=word))
        position += len(word) + 1
    return Group("union", tuple(members), indirect_selection=None, text=whole)


def parse_definition(
    definition: object, *, name: str, selectors: Mapping[str, Mapping[str, Any]]
) -> Expression:
    """Parse the definition of the YAML selector ``name``, as the manifest holds it.

    ``selectors`` are all of the manifest's, by name, for ``method: selector`` references.

    Raises: SelectionError, naming the selector and the place in its definition.
    """
    return _Definition(name, selectors, ()).expression(definition)


def _criterion(part: str, *, text: str, position: int) -> Criterion:
    found = _CRITERION.fullmatch(part)
    if found is None:
        raise selection_error(
            "A criterion cannot hold a line break.",
            text=text,
            position=position + part.index("\n"),
            hint="Part criteria by blanks.",
        )
    if found["at"] and found["children"] is not None:
        raise selection_error(
            "'@' before and '+' after a criterion do not go together.",
            text=text,
            position=position + found.end("value"),
            hint="'@' already takes the children, and the parents of those; leave out the '+'.",
        )
    method, arguments = _method(found, text=text, position=position)
    return Criterion(
        method=method,
        arguments=arguments,
        value=found["value"],
        childrens_parents=bool(found["at"]),
        parents=found["parents"] is not None,
        parents_depth=_depth(found, "parents", text=text, position=position),
        children=found["children"] is not None,
        children_depth=_depth(found, "children", text=text, position=position),
        text=text,
        position=position,
        value_position=position + found.start("value"),
    )


def _depth(found: re.Match[str], side: str, *, text: str, position: int) -> int | None:
    try:
        return int(found[side]) if found[side] else None
    except ValueError:  # Python reads no number of thousands of digits
        raise selection_error(
            "A depth of so many digits cannot be read.",
            text=text,
            position=position + found.start(side),
            hint="Leave it out: no depth is no limit.",
        ) from None


def _method(found: re.Match[str], *, text: str, position: int) -> tuple[str, tuple[str, ...]]:
    dotted = found["method"]
    if dotted is None:
        return _default_method(found["value"]), ()
    return _named_method(dotted, text=text, position=position + found.start("method"))


def _default_method(value: str) -> str:
    if "/" in value:
        return "path"
    if value.lower().endswith((".sql", ".py", ".csv")):
        return "file"
    return "fqn"


def _named_method(dotted: str, *, text: str, position: int) -> tuple[str, tuple[str, ...]]:
    head, *arguments = dotted.split(".")
    if head not in METHOD_NAMES:
        raise selection_error(
            f"{head!r} is not a selection method of dbt.",
            text=text,
            position=position,
            hint=_FOREIGN_METHODS.get(head)
            or did_you_mean(head, METHOD_NAMES)
            or f"The methods are {', '.join(METHOD_NAMES)}.",
        )
    return head, tuple(arguments)


_FOREIGN_METHODS = {
    "selector": "Give the name of a YAML selector as selector=, not in the text.",
    "meta": "Meta is selected through the config: config.meta.KEY:value.",
    "model": "Give the model's name alone, or resource_type:model.",
    "owner": "dbt selects no owners; config.meta.owner:value may serve.",
    "name": "Give the name alone, or fqn:name.",
    "schema": "config.schema:value selects by the configured schema.",
    "database": "config.database:value selects by the configured database.",
    "materialized": "Materializations are selected as config.materialized:value.",
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "Did you mean 'x' or 'y'?", or nothing when no known word is close."""
    import difflib  # only on the way to an error

    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else ""


def _written(definition: object) -> str:
    import json  # only for YAML selectors

    return json.dumps(definition, default=str)


class _Definition:
    """The parser of one YAML selector; ``path`` is the place in the definition, for errors."""

    def __init__(
        self, name: str, selectors: Mapping[str, Mapping[str, Any]], within: tuple[str, ...]
    ) -> None:
        self.name = name
        self.selectors = selectors
        self.within = within  # the selectors that refer to this one
        self.path: list[str] = []

    def expression(self, definition: object) -> Expression:
        if len(self.path) > _MAX_NESTING:
            self._refuse(f"nested more than {_MAX_NESTING} levels deep", definition)
        if isinstance(definition, str):
            return _criterion(definition, text=definition, position=0)
        if not isinstance(definition, dict) or not definition:
            self._refuse("expected a text or a mapping", definition)
        for operation in ("union", "intersection"):
            if operation in definition:
                return self._group(operation, definition[operation], definition)
        return self._criterion(definition)

    def _at(self, place: str, definition: object) -> Expression:
        self.path.append(place)
        expression = self.expression(definition)
        self.path.pop()
        return expression

    def _group(self, operation: str, members: object, definition: dict[str, Any]) -> Expression:
        if not isinstance(members, list):
            self._refuse(f"{operation} takes a list", definition)
        included: list[Expression] = []
        excluded: Expression | None = None
        for index, member in enumerate(members):
            place = f"{operation}[{index}]"
            if self._is_exclusion(member):
                if excluded is not None:
                    self._refuse(f"two exclude in one {operation}", member)
                excluded = self._excluded(place, member["exclude"], member)
            else:
                included.append(self._at(place, member))
        group = Group(
            "union" if operation == "union" else "intersection",
            tuple(included),
            text=_written(definition),
        )
        return group if excluded is None else Group("difference", (group, excluded))

    def _is_exclusion(self, member: object) -> bool:
        """Whether a member of a set is subtracted from it.

        dbt takes any member with an exclude for that, and forgets what else it says; not so for
        a reference to a selector with an exclude, in whose place the manifest has its definition.
        """
        if not isinstance(member, dict) or "exclude" not in member:
            return False
        return all(member != selector.get("definition") for selector in self.selectors.values())

    def _excluded(self, place: str, members: object, definition: object) -> Expression:
        if not isinstance(members, list):
            self._refuse("exclude takes a list", definition)
        parts = [self._at(f"{place}.exclude[{i}]", member) for i, member in enumerate(members)]
        return parts[0] if len(parts) == 1 else Group("union", tuple(parts))

    def _criterion(self, definition: dict[str, Any]) -> Expression:
        if definition.get("method") == "selector" and "value" in definition:
            return self._reference(definition["value"], definition)
        if list(definition) == ["exclude"]:
            self._refuse(
                "the manifest has lost all but the exclude of a criterion; "
                "write method and value before exclude",
                definition,
            )
        if len(definition) == 1:
            ((key, value),) = definition.items()
            # {method: tag} alone is what dbt makes of the text "tag:", whose value is empty.
            method, value = (value, "") if key == "method" else (key, value)
            definition = {"method": method, "value": value}
        if "method" not in definition or "value" not in definition:
            self._refuse("expected one key, or method and value", definition)
        text = _written(definition)
        dotted = definition["method"]
        if dotted is None:  # `method:` with nothing behind it
            dotted = _default_method(str(definition["value"]))
        method, arguments = _named_method(str(dotted), text=text, position=0)
        mode = definition.get("indirect_selection")
        if mode is not None:
            check_indirect_selection(mode)
        if definition.get("childrens_parents") and definition.get("children"):
            self._refuse("childrens_parents and children do not go together", definition)
        criterion = Criterion(
            method=method,
            arguments=arguments,
            value=definition["value"],
            childrens_parents=bool(definition.get("childrens_parents")),
            parents=bool(definition.get("parents")),
            parents_depth=self._depth("parents_depth", definition),
            children=bool(definition.get("children")),
            children_depth=self._depth("children_depth", definition),
            indirect_selection=mode,
            text=text,
        )
        if "exclude" not in definition:
            return criterion
        excluded = self._excluded(str(definition["method"]), definition["exclude"], definition)
        return Group("difference", (criterion, excluded))

    def _depth(self, key: str, definition: dict[str, Any]) -> int | None:
        raw = definition.get(key)
        if not raw:  # also the number 0, which dbt takes for "not given"; the text "0" is a depth
            return None
        try:
            return int(raw)
        except (TypeError, ValueError, OverflowError):
            self._refuse(f"{key} is {raw!r}, not a number", definition)

    def _reference(self, name: object, definition: object) -> Expression:
        within = (*self.within, self.name)
        if not isinstance(name, str) or name not in self.selectors:
            hint = did_you_mean(str(name), self.selectors)
            self._refuse(f"refers to the unknown selector {name!r}. {hint}".rstrip(), definition)
        if name in within:
            self._refuse(f"refers to itself through {name!r}", definition)
        inner = _Definition(name, self.selectors, within)
        inner.path = ["" for _ in self.path]  # nesting counts across references
        return inner.expression(self.selectors[name].get("definition"))

    def _refuse(self, complaint: str, definition: object) -> NoReturn:
        place = ".".join(filter(None, self.path))
        where = f" at {place}" if place else ""
        raise selection_error(
            f"YAML selector {self.name!r}{where}: {complaint}.",
            text=_written(definition),
            hint="docs: reference/node-selection/yaml-selectors",
        )


def check_indirect_selection(mode: object) -> None:
    """Raise the SelectionError for a mode that dbt does not know."""
    if mode not in INDIRECT_SELECTIONS:
        raise selection_error(
            f"{mode!r} is not a mode of indirect selection.",
            text=str(mode),
            hint=did_you_mean(str(mode), INDIRECT_SELECTIONS)
            or f"The modes are {', '.join(INDIRECT_SELECTIONS)}.",
        )
