"""What the pages show, done as they show it: Python is run, commands looked up, data read.

Whether the words around it are well chosen, no test can say. A block that cannot be run here says
so to its reader too, in the line below it: ``*Not run by the tests: the reason.*``
"""

from __future__ import annotations

import asyncio
import configparser
import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import dagster as dg
import pytest
import tomli
import yaml
from dagster.components.testing import create_defs_folder_sandbox
from packaging.requirements import Requirement

import dagster_dbtcloud
from dagster_dbtcloud.cli import cli
from dagster_dbtcloud.sandbox import PastStep, Sandbox
from dagster_dbtcloud_tests.conftest import SkippingClock
from dagster_dbtcloud_tests.stage import until

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]
)
FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)(?P=fence) *$",
    re.M | re.S,
)
FILE = re.compile(r"`(?P<name>[\w./]+)`:\n\n\Z")
EXCUSE = re.compile(r"\s*\*Not run by the tests: (?P<reason>[^*]+)\*")
OUTPUT = ("", "text")
"""What is shown, not done: answers, drawings, lists of files."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. ``line`` is that of its first line of text.

    ``file`` is the name that the line above gives it: the reader is to write this file.
    """

    page: Path
    line: int
    language: str
    text: str
    file: str | None
    excuse: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def read_blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        words = found["language"].split()
        indent = len(found["indent"])
        excuse = EXCUSE.match(text, found.end())
        file = FILE.search(text, 0, found.start())
        yield Block(
            page=page,
            line=text.count("\n", 0, found.start("text")) + 1,
            language=words[0] if words else "",
            text="".join(line[indent:] or "\n" for line in found["text"].splitlines(True)),
            file=file["name"] if file else None,
            excuse=excuse["reason"] if excuse else None,
        )


BLOCKS = [block for page in PAGES for block in read_blocks(page)]


def written_in(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages and not block.excuse]


# --- Python --------------------------------------------------------------------------------------


SOURCES = """
sources:
  - name: legacy
    schema: main
    tables: [{name: payments}]
  - name: raw
    schema: main
    tables: [{name: visits}, {name: clicks}]
"""
"""What a few pages show beside the tutorial's project: tables that somebody else fills."""


@pytest.fixture(scope="module")
def my_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tutorial's folder, with each file that its readers write."""
    folder = tmp_path_factory.mktemp("my_shop")
    for block in read_blocks(TUTORIAL):
        if block.file:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.text, encoding="utf-8")
    (folder / "my_project" / "__init__.py").touch()
    (folder / "my_dbt_project" / "models" / "sources.yml").write_text(SOURCES)
    return folder


@pytest.fixture(scope="module")
def shop(my_shop: Path) -> Iterator[Sandbox]:
    """A dbt Cloud for the tutorial's dbt project, which has run once."""
    with Sandbox(project_dir=my_shop / "my_dbt_project", clock=SkippingClock()) as sandbox:
        job = sandbox.create_job("nightly", ["dbt build"])
        run = sandbox.wait(sandbox.trigger(job, cause="the first build"), timeout=240)
        assert run["is_success"], run
        yield sandbox


@pytest.fixture
def desk(
    shop: Sandbox, my_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Where a reader of any page sits: in the tutorial's folder, with the variables set."""
    for name, value in shop.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_DBTCLOUD_CACHE_DIR", str(tmp_path / "cache"))
    folder = shutil.copytree(my_shop, tmp_path / "my_shop")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "my_project"]:
        del sys.modules[name]
    shop.faults.clear()
    shop.play(None)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(block.page == page for block in written_in("python"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_python_works_as_it_stands(page: Path, shop: Sandbox, desk: Path) -> None:
    """The blocks of a page, one after the other; definitions load, and test functions pass.

    A page may take as given our public names, `dg`, and what the tutorial has made.
    """
    importlib.invalidate_caches()
    given = importlib.import_module("my_project.definitions")
    names: dict[str, Any] = {
        **{name: getattr(dagster_dbtcloud, name) for name in dagster_dbtcloud.__all__},
        "__name__": f"page_{page.stem.replace('-', '_')}",
        "dg": dg,
        "workspace": given.workspace,
        "my_dbt_assets": given.my_dbt_assets,
        "sandbox": shop,
        "PastStep": PastStep,
    }
    (desk / "target").mkdir()
    with given.workspace.get_client() as client:
        manifest = client.artifact(int(shop.runs()[0]["id"]), "manifest.json")
    (desk / "target" / "manifest.json").write_bytes(manifest)
    fixtures = {"dbt_cloud_sandbox": shop}
    for block in (block for block in written_in("python") if block.page == page):
        before = {**names}
        code = "\n" * (block.line - 1) + block.text
        exec(compile(code, str(page), "exec", dont_inherit=True), names)  # noqa: S102 - our own
        defs = names.get("defs")
        if isinstance(defs, dg.Definitions) and defs is not before.get("defs"):
            dg.Definitions.validate_loadable(defs)
        for name, value in names.items():
            if name.startswith("test_") and value is not before.get(name):
                value(**{each: fixtures[each] for each in inspect.signature(value).parameters})


@pytest.mark.nightly
def test_the_tutorial_can_be_followed(my_shop: Path, tmp_path: Path) -> None:
    """Its commands, in two shells, but for the install, and with a run in place of the web page."""
    folder = shutil.copytree(my_shop, tmp_path / "my_shop")
    (folder / "my_dbt_project" / "models" / "sources.yml").unlink()
    shell = [block.text for block in read_blocks(TUTORIAL) if block.language == "sh"]
    _, first_terminal, look, start, _ = shell
    second_terminal = look.replace(". .venv/bin/activate\n", "") + start.replace(
        "dagster dev", "dagster asset materialize --select '*'"
    )
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "DO_NOT_TRACK": "1",
    }
    served = subprocess.Popen(
        ["bash", "-ec", f"exec {first_terminal.strip()} --port 0"], cwd=folder, env=environment
    )
    try:
        until(lambda: (folder / "sandbox.env").exists() or served.poll() is not None)
        done = subprocess.run(
            ["bash", "-ec", second_terminal],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
        )
    finally:
        served.terminate()
        served.wait(30)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "FAIL" not in done.stdout
    for word in ("RUN_SUCCESS", "ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION"):
        assert word in told


# --- commands ------------------------------------------------------------------------------------

SHELL = {".", "cd", "export", "set", "source", "echo", "cat", "mkdir", "cp"}
OTHERS = {"git", "curl", "crontab", "docker", "jq", "kubectl"}
"""Programs that a reader has or has not: none of our business, and not needed on this machine."""


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command of a shell block, without assignments before it."""
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in (";", "&&", "||", "|", "&"):
                while words and re.fullmatch(r"\w+=.*", words[0], re.S):
                    del words[0]
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def parse_ours(words: list[str]) -> None:
    """Read a command line as click would, without doing anything; raise what click raises."""
    command: click.Command = cli
    context = click.Context(cli, info_name="dagster-dbtcloud", **cli.context_settings)
    while True:
        options, rest, _ = command.make_parser(context).parse_args(list(words))
        if not isinstance(command, click.Group):
            break
        if not rest:  # such as --version
            return
        _, found, words = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, click.Context(found, info_name=found.name, parent=context)
    assert not rest, f"unexpected: {rest}"
    if options.get("help"):
        return
    for parameter in command.params:
        if isinstance(parameter, click.Argument) and parameter.required:
            assert options.get(str(parameter.name)), f"{parameter.name} is missing"


def targets() -> list[str]:
    return re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)


def extras() -> set[str]:
    project = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return set(project["optional-dependencies"])


@pytest.mark.parametrize("block", written_in("sh", "bash", "shell", "console"), ids=str)
def test_commands_exist(block: Block) -> None:
    """Ours with the options and arguments shown; make's targets; other people's programs."""
    for words in commands(block):
        program, *rest = words
        if program == "dagster-dbtcloud":
            parse_ours(rest)
        elif program == "make":
            asked = [word for word in rest if "=" not in word and not word.startswith("-")]
            assert set(asked) <= set(targets())
        elif program == "pip":
            assert rest[0] == "install"
            for word in rest[1:]:
                if word.startswith("dagster-dbtcloud"):
                    assert Requirement(word).extras <= extras()
        elif program.startswith("./") or program in SHELL | OTHERS:
            continue
        else:
            here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            assert shutil.which(program, path=here), f"{program} is no program here"


# --- data ----------------------------------------------------------------------------------------


def read_ini(text: str) -> object:
    parser = configparser.ConfigParser()
    parser.read_string(text)
    return parser.sections()


READERS: dict[str, Callable[[str], object]] = {
    "yaml": lambda text: list(yaml.safe_load_all(text)),
    "toml": tomli.loads,
    "json": json.loads,
    "ini": read_ini,
}


@pytest.mark.parametrize("block", written_in(*READERS), ids=str)
def test_data_can_be_read(block: Block) -> None:
    """YAML, TOML, JSON and INI are what they say."""
    assert READERS[block.language](block.text)


# Dagster's own loading of components uses parts of Dagster that are in beta or preview.
@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
@pytest.mark.filterwarnings("ignore::dagster.PreviewWarning")
def test_yaml_of_a_component_loads(shop: Sandbox, desk: Path) -> None:
    """Each is taken as the definitions of a project, with the ids of a dbt Cloud that is there."""
    del desk  # the reader's variables
    here = {
        "account_id": shop.account_id,
        "access_url": shop.url,
        "project_id": shop.project_id,
        "environment_id": shop.environment_id,
    }
    for block in written_in("yaml"):
        if not block.text.startswith("type: dagster_dbtcloud."):
            continue
        raw = yaml.safe_load(block.text)
        raw["attributes"]["workspace"].update(here)
        with create_defs_folder_sandbox() as folder:
            path = folder.defs_folder_path / "my_dbt"
            path.mkdir()
            (path / "defs.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
            with folder.load_component_and_build_defs(defs_path=path) as (component, _):
                assert isinstance(component, dagster_dbtcloud.DbtCloudComponent)
                asyncio.run(component.refresh_state(folder.project_root))
            with folder.load_component_and_build_defs(defs_path=path) as (_, defs):
                assert defs.resolve_asset_graph().get_all_asset_keys(), str(block)


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    """Or says to its reader that it is not, and why."""
    tested = {"python", "sh", "bash", "shell", "console", *READERS, *OUTPUT}
    of_the_site = {"{toctree}", "{eval-rst}"}
    assert [
        f"{block}: {block.language}"
        for block in BLOCKS
        if block.language not in tested | of_the_site
        and not block.excuse
        and not (block.page == TUTORIAL and block.file)  # built by dbt, above
    ] == []


# --- completeness --------------------------------------------------------------------------------


def every_command(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):  # `commands` knows only those that were used
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from every_command(command, f"{before}{name} ")
        if not command.hidden:
            yield f"{before}{name}", command


def test_every_command_and_option_is_in_the_pages() -> None:
    """What no page tells of, nobody finds."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    missing: list[str] = []
    assert "jobs clean" in dict(every_command(cli))
    for name, command in every_command(cli):
        if f"dagster-dbtcloud {name}" not in text:
            missing.append(name)
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                longest = max(parameter.opts, key=len)
                if not re.search(rf"{re.escape(longest)}(?![\w-])", text):
                    missing.append(f"{name} {longest}")
    assert missing == []


def test_the_reference_has_every_public_name() -> None:
    """The site's reference is made from docstrings, name by name."""
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\.\. auto\w+:: dagster_dbtcloud\.(\w+)", text, re.M))
    assert set(dagster_dbtcloud.__all__) - shown == {"__version__"}
