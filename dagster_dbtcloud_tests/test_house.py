"""The rules that the whole house keeps: what each room may import, what is public, what is written.

Behaviour is tested room by room, beside this file.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
import tomli
from packaging.requirements import Requirement
from packaging.version import Version

import dagster_dbtcloud
from dagster_dbtcloud.cli import cli
from dagster_dbtcloud.version import __version__

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dagster_dbtcloud"
EXAMPLE = ROOT / "examples" / "jaffle_shop"
MODULES = sorted(PACKAGE.rglob("*.py"))
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*/README.md")]
)
TYPED = frozenset({"typing_extensions"})  # comes with pydantic, and only for type checkers

ROOMS: dict[str, frozenset[str]] = {
    # room: what it may import that is neither ours nor Python's
    "errors": frozenset(),
    "clock": frozenset(),
    "version": frozenset(),
    "dbt": frozenset(),
    "cloud": frozenset({"httpx", "pydantic"}),
    "sandbox": frozenset({"starlette", "uvicorn", "yaml", "dbt", "dbt_common", "pytest"}),
    "demo": frozenset({"httpx", "rich"}),
    "cli": frozenset({"click", "rich", "yaml", "dagster"}),
    "options": frozenset({"dagster", "pydantic", "yaml"}),
    "variables": frozenset({"yaml"}),
}
MIDDLE = frozenset({"dagster", "pydantic"})
"""What every other room may import."""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of each module that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield node.module or ""


def pyproject() -> dict[str, object]:
    return tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def tracked() -> list[Path]:
    """Return the files that the repository holds; skip where there is none, as in an sdist."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


# --- rooms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_the_libraries_of_its_floor(path: Path) -> None:
    """The floors among our own modules are import-linter's; these are those of other people."""
    allowed = ROOMS.get(room_of(path), MIDDLE) | TYPED
    foreign = {
        name.split(".")[0]
        for name in imports(path)
        if name.split(".")[0] not in (*sys.stdlib_module_names, "dagster_dbtcloud")
    }
    assert foreign <= allowed


def test_private_dagster_is_imported_in_one_place() -> None:
    """Everything else would break with any new Dagster."""
    private = {
        path.name
        for path in MODULES
        for name in imports(path)
        if name.startswith(("dagster._", "dagster_shared", "dagster.components."))
    }
    assert private <= {"_dagster_private.py"}


def test_only_the_clock_reads_the_time() -> None:
    """So a test that holds the clock holds all of time."""
    words = re.compile(r"\btime\.(sleep|time|monotonic|perf_counter)\(|datetime\.(utc)?now\(")
    found = {path.name for path in MODULES if words.search(path.read_text(encoding="utf-8"))}
    assert found == {"clock.py"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_says_what_it_is_for(path: Path) -> None:
    """The docstring of a module is where a reader begins."""
    text = path.read_text(encoding="utf-8")
    assert not text.strip() or ast.get_docstring(ast.parse(text))


# --- the front door ------------------------------------------------------------------------------


def test_all_is_sorted_and_every_name_is_there() -> None:
    """``from dagster_dbtcloud import *`` works, and the list reads like an index."""
    names = dagster_dbtcloud.__all__
    assert names == sorted(names)
    for name in names:
        assert getattr(dagster_dbtcloud, name) is not None
    assert set(names) <= set(dir(dagster_dbtcloud))


def test_type_checkers_see_what_python_sees() -> None:
    """Names are imported when used; the list for type checkers must not fall behind."""
    for_checkers = {
        alias.name: node.module
        for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dagster_dbtcloud.")
        for alias in node.names
    }
    assert set(for_checkers) == set(dagster_dbtcloud.__all__)
    for name, module in for_checkers.items():
        assert getattr(import_module(module or ""), name) is getattr(dagster_dbtcloud, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = dagster_dbtcloud.no_such_name


def test_the_package_says_that_it_is_typed() -> None:
    """Without the file, type checkers ignore every annotation."""
    assert (PACKAGE / "py.typed").is_file()


def test_the_front_door_imports_neither_dagster_nor_httpx() -> None:
    """Whoever uses a ground floor alone does not pay for Dagster."""
    code = (
        "import sys, dagster_dbtcloud, dagster_dbtcloud.dbt.selection;"
        "print(sorted({'dagster', 'httpx', 'pydantic', 'dbt', 'starlette'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert answer.stdout.strip() == "[]"


# --- what is written -----------------------------------------------------------------------------


def test_the_pages_name_everything_public() -> None:
    """What no page names, no user finds."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [n for n in dagster_dbtcloud.__all__ if n not in text and n != "__version__"] == []
    for name in cli.list_commands(click.Context(cli)):
        assert f"dagster-dbtcloud {name}" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_promises_nothing_that_is_not_there(page: Path) -> None:
    """Links lead to files, `make` targets exist, options are those of the command."""
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in link:
            assert (page.parent / link).exists(), link
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M):
        assert target in targets
    for words in re.findall(r"(?:^|`)dagster-dbtcloud ([a-z][^`\n|]*)", text, re.M):
        assert set(re.findall(r"(?<!\S)--[a-z-]+", words)) <= options_of(words.split()), words


def options_of(words: list[str]) -> set[str]:
    """Return the options of the command that the words begin with."""
    command: click.Command = cli
    for word in words:
        below = (
            command.get_command(click.Context(command), word)
            if isinstance(command, click.Group)
            else None
        )
        if below is None:
            break
        command = below
    assert command is not cli, words
    options = [each for each in command.params if isinstance(each, click.Option)]
    return {name for option in options for name in (*option.opts, *option.secondary_opts, "--help")}


def test_the_changelog_knows_this_version() -> None:
    """A version without a word about it is not finished."""
    assert re.search(
        rf"^## \[?{re.escape(__version__)}\]?", (ROOT / "CHANGELOG.md").read_text(), re.M
    )


def test_no_file_holds_a_secret_or_a_place_on_somebodys_machine() -> None:
    """Tokens of dbt Cloud have a shape; home directories and lists of package hosts have too."""
    shapes = re.compile(
        r"dbt[a-z]_[A-Za-z0-9_-]{30,}|(?<![\w.])/(?:home|Users|root)/[a-z]\w+|"
        r"--(?:extra-)?index-url[ =]|--find-links[ =]"
    )
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if path != Path(__file__):
            found += [f"{path.relative_to(ROOT)}: {hit[0]}" for hit in shapes.finditer(text)]
    assert found == []


# --- packaging -----------------------------------------------------------------------------------


def requirements() -> dict[str, Requirement]:
    project = pyproject()["project"]
    assert isinstance(project, dict)
    texts = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        texts += extra
    found = [Requirement(text) for text in texts]
    return {each.name.lower(): each for each in found if each.name != "dagster-dbtcloud"}


def test_the_constraints_hold_a_version_of_every_dependency() -> None:
    """Each within the range that pyproject.toml allows, so that `pip install -c` can work."""
    pins: dict[str, list[Version]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins.setdefault(pin.name.lower(), []).append(Version(next(iter(pin.specifier)).version))
    for name, requirement in requirements().items():
        assert pins.get(name), f"{name} is not in constraints.txt: make constraints"
        assert all(version in requirement.specifier for version in pins[name]), name


def test_every_library_that_is_imported_is_named_as_a_dependency() -> None:
    """What merely happens to come along may be gone tomorrow."""
    distributions = {"yaml": "pyyaml", "dbt": "dbt-core", "dbt_common": "dbt-core"}
    named = set(requirements())
    used = {library for libraries in ROOMS.values() for library in libraries} | MIDDLE
    assert {distributions.get(library, library) for library in used} <= named


def test_the_wheel_holds_the_whole_example() -> None:
    """Files are named one by one for the wheel, so a new one must not be forgotten."""
    tool = pyproject()["tool"]
    assert isinstance(tool, dict)
    forced: dict[str, str] = tool["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for source, target in forced.items():
        assert (ROOT / source).exists()
        assert target == source.replace("examples/", "dagster_dbtcloud/_examples/", 1)
    left_out = [
        name
        for path in tracked()
        if path.is_relative_to(EXAMPLE)
        and path.name != ".gitignore"
        and not any(
            (name := path.relative_to(ROOT).as_posix()) == source or name.startswith(f"{source}/")
            for source in forced
        )
    ]
    assert left_out == []
