"""docs/cli.md says what the commands say."""

from __future__ import annotations

import re

from dagster_dbtcloud_tests.cli.reference import BEGIN, PAGE, reference
from dagster_dbtcloud_tests.cli.test_commands import COMMANDS


def test_the_reference_is_that_of_the_commands() -> None:
    """``python -m dagster_dbtcloud_tests.cli.reference`` writes it anew."""
    text = PAGE.read_text(encoding="utf-8")
    assert BEGIN + text.partition(BEGIN)[2] == reference()


def test_every_command_and_option_is_in_the_reference() -> None:
    """Whatever a command takes."""
    text = reference()
    for words in COMMANDS:
        assert f"`dagster-dbtcloud {' '.join(words)}`" in text


def test_every_option_of_a_connection_is_explained() -> None:
    """By hand, once for all commands."""
    by_hand = PAGE.read_text(encoding="utf-8").partition(BEGIN)[0]
    for name in ("account-id", "project-id", "environment-id", "access-url"):
        assert re.search(rf"^\| `--{name}` \| `DBT_CLOUD_", by_hand, re.MULTILINE)
    for name in ("token-file", "profile-file"):
        assert f"| `--{name}` |" in by_hand
