"""How commands are found, and how each way to end becomes one line and an exit code.

It knows no command.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from dagster_dbtcloud.errors import (
    ApiError,
    ConfigError,
    DbtCloudError,
    RunTimedOut,
    SelectionError,
    StateError,
)

FAILED, USAGE, SERVICE, TIMED_OUT = 1, 2, 3, 4
INTERRUPTED = 130

NAME = "dagster-dbtcloud"


class Leave(KeyboardInterrupt):
    """A signal other than Ctrl-C asks us to end; ``code`` is what shells expect then."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


@dataclass(frozen=True)
class Entry:
    """Where a command is (a module of this package), and its line in the list of commands."""

    room: str
    text: str


class Commands(click.Group):
    """The outermost group: imports a command's room when the command is asked for."""

    # ARG002 below: the arguments are click's.

    def __init__(
        self, *args: Any, sections: Mapping[str, Mapping[str, Entry]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections or {}
        self._entries = {
            name: entry for section in self.sections.values() for name, entry in section.items()
        }

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        room = import_module(f"dagster_dbtcloud.cli.{entry.room}")
        command: click.Command = getattr(room, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        width = max(len(name) for name in self._entries)
        for title, entries in self.sections.items():
            with formatter.section(title):
                rows = [(name.ljust(width), entry.text) for name, entry in entries.items()]
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        words = [
            CompletionItem(name, help=entry.text)
            for name, entry in self._entries.items()
            if name.startswith(incomplete)
        ]
        return words + click.Command.shell_complete(self, ctx, incomplete)

    def main(  # type: ignore[override]  # it ends the process in every mode
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,  # noqa: ARG002 - ours is always the same
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002 - it always is
        **extra: Any,
    ) -> None:
        """Run the command line and end the process."""
        handler = _Warnings()
        logger = logging.getLogger("dagster_dbtcloud")
        logger.addHandler(handler)
        try:
            sys.exit(self._code(args, complete_var, **extra))
        finally:
            logger.removeHandler(handler)

    def _code(self, args: Sequence[str] | None, complete_var: str | None, **extra: Any) -> int:
        try:
            value = super().main(args, NAME, complete_var, standalone_mode=False, **extra)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else NAME
            return _say(f"{error.format_message()} See `{command} --help`.", USAGE)
        except click.ClickException as error:
            return _say(error.format_message(), error.exit_code)
        except click.Abort as error:
            if isinstance(error.__cause__, KeyboardInterrupt):
                return getattr(error.__cause__, "code", INTERRUPTED)
            return _say("The input ended before all questions were answered.", USAGE)
        except SelectionError as error:
            message = str(error).partition("\n")[0]
            return _say(f"{message} (in {error.text!r}) {error.hint}", USAGE)
        except ConfigError as error:
            return _say(str(error), USAGE)
        except StateError as error:
            return _say(str(error), SERVICE if isinstance(error.__cause__, ApiError) else FAILED)
        except RunTimedOut as error:
            return _say(str(error), TIMED_OUT)
        except ApiError as error:
            return _say(str(error), SERVICE)
        except DbtCloudError as error:
            return _say(str(error), FAILED)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            return _say(f"{place}{error.strerror or error}", USAGE)
        return value if isinstance(value, int) else 0


class _Warnings(logging.Handler):
    """What the rooms below warn of (a new try, a manifest that cannot be read), on stderr."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"{NAME}: {record.getMessage()}", err=True)


def _say(message: str, code: int) -> int:
    """End with one line, also where a message has several."""
    click.echo(f"{NAME}: {' '.join(message.split())}", err=True)
    return code


def colour() -> bool | None:
    """Return what https://no-color.org and https://force-color.org say; None: as the stream is."""
    if os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("FORCE_COLOR") else None
