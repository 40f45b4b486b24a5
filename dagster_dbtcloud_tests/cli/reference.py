"""The reference part of docs/cli.md, from the commands themselves.

``python -m dagster_dbtcloud_tests.cli.reference`` writes it; a test says when that is due.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from dagster_dbtcloud.cli import SECTIONS, cli

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
BEGIN = "<!-- The rest is written by `python -m dagster_dbtcloud_tests.cli.reference`. -->\n"

_EXAMPLES = re.compile(r"\n\x08\n(Examples?):\n((?:.+\n?)+)")
_CONNECTION = {"--account-id", "--project-id", "--environment-id", "--access-url"} | {
    "--token-file",
    "--profile-file",
}


def reference() -> str:
    """Return a section for each command: what it does, its options, its examples."""
    parts = [BEGIN, "\n## Reference\n"]
    for title, entries in SECTIONS.items():
        parts.append(f"\n### {title}\n")
        for name in entries:
            command = cli.get_command(click.Context(cli), name)
            if command is not None:
                parts += _described(command, f"dagster-dbtcloud {name}")
    return "".join(parts)


def _described(command: click.Command, path: str) -> Iterator[str]:
    yield f"\n#### `{path}`\n"
    text = inspect.cleandoc(command.help or "")
    examples = _EXAMPLES.search(text)
    prose = _EXAMPLES.sub("", text)
    for paragraph in prose.split("\n\n"):
        yield f"\n{' '.join(paragraph.split())}\n"
    arguments = [
        f"`{each.make_metavar(click.Context(command))}`"
        for each in command.params
        if isinstance(each, click.Argument)
    ]
    if arguments:
        yield f"\nArguments: {', '.join(arguments)}.\n"
    options = [each for each in command.params if isinstance(each, click.Option)]
    own = [each for each in options if not _CONNECTION & set(each.opts)]
    if own:
        yield "\n| option | |\n|---|---|\n"
        for option in own:
            yield f"| {_names(option)} | {_told(option)} |\n"
    if len(own) < len(options):
        yield "\nAnd the [options of a connection](#credentials).\n"
    if examples:
        yield "\n```sh\n"
        yield "".join(f"{line.strip()}\n" for line in examples[2].splitlines())
        yield "```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            if below is not None:
                yield from _described(below, f"{path} {name}")


def _names(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if option.is_flag:
        return names
    kind = option.type
    what = "|".join(kind.choices) if isinstance(kind, click.Choice) else option.metavar
    return f"{names} {what or kind.name.upper()}".replace("|", "\\|")


def _told(option: click.Option) -> str:
    text = " ".join((option.help or "").split()).replace("|", "\\|")
    default = option.default
    if option.show_default and default not in (None, False, True):
        text += f" Default: `{default}`."
    return text


def main() -> None:
    """Write the page anew."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.partition(BEGIN)[0] + reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
