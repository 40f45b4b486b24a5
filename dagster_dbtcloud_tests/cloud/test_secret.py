"""A token is sent, never shown."""

from __future__ import annotations

import copy
import pickle

import pytest

from dagster_dbtcloud.cloud.secret import Secret
from dagster_dbtcloud_tests.cloud.fakes import TOKEN


def test_repr_and_str_hide_it() -> None:
    """Whoever prints it sees no token."""
    secret = Secret(TOKEN)
    assert TOKEN not in f"{secret!r} {secret} {[secret]}"


@pytest.mark.parametrize("text", [TOKEN, f" {TOKEN}\n", f"Token {TOKEN}", f"bearer  {TOKEN} "])
def test_a_pasted_token_is_trimmed(text: str) -> None:
    """Blanks, a line break of a file and the header's scheme around it do no harm."""
    assert Secret(text).authorization() == f"Token {TOKEN}"
    assert Secret(text).fault() is None


@pytest.mark.parametrize("text", ["", "  ", "Token ", "abc def", "abc\ndef", "abcö", "abc\x00"])
def test_what_cannot_be_a_token_is_told(text: str) -> None:
    """A header could not carry it."""
    assert Secret(text).fault() is not None


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        f"Authorization: Token {TOKEN}",
        f"path?token={TOKEN.replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}",
        f"path?token={TOKEN.replace('+', '%2B').replace('=', '%3D')}",
        f"{TOKEN}{TOKEN}",
    ],
)
def test_it_is_taken_out_of_texts(text: str) -> None:
    """Plain, or as a URL spells it."""
    redacted = Secret(TOKEN).redact(text)
    assert "[token]" in redacted
    assert "0123456789" not in redacted


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer an0ther-one",
        "'authorization': 'Token an0ther-one'",
        '{"Authorization":"an0ther-one"}',
        "proxy-authorization = Basic an0ther-one",
    ],
)
def test_any_authorization_header_is_taken_out(text: str) -> None:
    """What a proxy made of it, or its own."""
    assert "an0ther-one" not in Secret(TOKEN).redact(text)


def test_other_words_are_left_alone() -> None:
    """Texts without a token stay as they are; one that is a mere word does not garble them."""
    assert Secret(TOKEN).redact("Invalid token.") == "Invalid token."
    assert Secret("sandbox").redact("a sandbox") == "a sandbox"
    body = b'{"type": "development"}'
    assert Secret("development").redact_bytes(body) is body


def test_it_is_copied_by_reference_and_not_pickled() -> None:
    """A pickle is bytes on a disk or a wire."""
    secret = Secret(TOKEN)
    assert copy.copy(secret) is copy.deepcopy(secret) is secret
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret)
