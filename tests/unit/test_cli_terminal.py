"""What reaches the terminal: a stranger's words made harmless, tokens cut short, and times in words."""

import json
from datetime import UTC, datetime, timedelta, timezone

import biscuit_auth
import pytest
from hypothesis import given
from hypothesis import strategies as st

from countermand.cli.terminal import listed, moment, printable, say_json, short, span, without_tokens
from countermand.tokens.mandate import mint
from tests.unit.mandates import CLAIMS, ES256


@given(st.text(st.characters()))
def test_nothing_that_is_printed_moves_the_cursor(text: str) -> None:
    assert printable(text).isprintable()


def test_what_can_be_read_stays_as_it_is() -> None:
    assert printable("zoë  → app_1") == "zoë  → app_1"
    assert printable("a\x1b[2Jb\nc\u202ed\u2028") == "a\\x1b[2Jb\\nc\\u202ed\\u2028"


def test_no_token_is_left_whole_in_a_text() -> None:
    token = mint(CLAIMS, ES256)
    for text in (token, f"no such command '{token}'", f'{{"a": "{token}"}}', f"{token} {token}"):
        assert token not in without_tokens(text)
        assert token[20:] not in without_tokens(text)
    assert without_tokens("https://a.example.com/b session_revoked") == "https://a.example.com/b session_revoked"


def test_no_biscuit_is_left_whole_in_a_text() -> None:
    root = biscuit_auth.KeyPair()
    builder = biscuit_auth.BiscuitBuilder('user("alice")')
    token = builder.build(root.private_key).to_base64()
    builder.set_root_key_id(7)
    named = builder.build(root.private_key).to_base64()
    for one in (token, named):
        for text in (one, f"biscuit:{one}", f"no such command '{one}'", json.dumps({"a": f"b\n{one}"}), f"{one} {one}"):
            assert one[20:60] not in without_tokens(text)


def test_a_revocation_id_is_no_token() -> None:
    for digits in ("ce" * 64, "CA" * 64, "E0" * 72, "0123456789abcdef" * 9):
        assert without_tokens(digits) == digits


def test_json_is_ascii_and_without_whole_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    token = mint(CLAIMS, ES256)
    say_json({"name": "zoë\u202e", "token": token})
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert "\\u202e" in printed
    assert token[20:] not in printed


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (-3, "0 s"), (119, "119 s"), (120, "2 minutes"), (7_200, "2 hours"), (500_000, "5 days")],
)
def test_a_length_of_time_is_told_in_the_unit_that_suits_it(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_an_instant_is_told_in_utc() -> None:
    at = datetime(2026, 1, 31, 13, 0, 0, 999_000, tzinfo=timezone(timedelta(hours=1)))
    assert moment(at) == "2026-01-31T12:00:00Z" == moment(at.astimezone(UTC))


def test_words_are_listed_as_in_a_sentence() -> None:
    assert listed(["one"]) == "one"
    assert listed(["one", "two"]) == "one and two"
    assert listed(["one", "two", "three"]) == "one, two and three"


def test_an_id_is_cut_where_it_can_still_be_recognised() -> None:
    assert short("app_0123456789abcdef0123456789abcdef") == "app_01234567…"
    assert short("app-1") == "app-1"
