"""A Biscuit from a person's hands: shown block by block, whatever it is, and none of its lines passes for ours."""

import base64
import re
from contextlib import suppress
from dataclasses import replace
from typing import Final

import biscuit_auth
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from countermand.cli.blocks import (
    ALLOWED,
    REFUSED,
    Answer,
    BlockState,
    Findings,
    code_lines,
    find,
    inspect_biscuit,
    told,
)
from countermand.cli.knowing import Knowledge
from countermand.cli.tokens import DOES_NOT_HOLD, HOLDS, NOT_CHECKED, Proof, is_biscuit
from countermand.errors import ConfigurationError, CountermandError, InvalidValueError, MalformedTokenError
from countermand.tokens.biscuit import WrittenBlock, parse_biscuit

ROOT: Final = biscuit_auth.KeyPair()
KEYS: Final = str(ROOT.public_key)
ALLOW: Final = "allow if true"
ID: Final = "ab" * 64

FRAMES: Final = (
    "== Datalog ==",
    "== Revocation id ==",
    "==========",
    "Authority block:",
    "Block n°1:",
    "🙈 Public key check skipped 🔑",
    "✅ Public key check succeeded 🔑: the signature holds",
    "nothing of this is revoked or cut off",
    "",
)


def mint(code: str, *blocks: str, **texts: str) -> str:
    """Return a Biscuit; `texts` stand for the names in braces that its authority block has."""
    token = biscuit_auth.BiscuitBuilder(code, texts).build(ROOT.private_key)
    for block in blocks:
        token = token.append(biscuit_auth.BlockBuilder(block))
    return str(token.to_base64())


def shown(token: str, keys: str | None = None) -> list[str]:
    findings = find(parse_biscuit(token), keys, None)
    return [str(line) if isinstance(line, Text) else line for line in told(findings)]


def test_the_layout_is_that_of_biscuits_own_command_line() -> None:
    token = mint("", 'check if resource("file1"); check if time($date), $date <= 2018-12-20T00:00:00Z')
    first, second = biscuit_auth.Biscuit.from_base64(token, ROOT.public_key).revocation_ids
    assert shown(token)[:21] == [
        "Authority block:",
        "== Datalog ==",
        "",
        "== Revocation id ==",
        first,
        "",
        "==========",
        "",
        "Block n°1:",
        "== Datalog ==",
        'check if resource("file1");',
        "check if time($date), $date <= 2018-12-20T00:00:00Z;",
        "",
        "== Revocation id ==",
        second,
        "",
        "==========",
        "",
        "🙈 Public key check skipped 🔑",
        "🙈 Datalog check skipped 🛡️",
        "NOTHING OF THIS IS PROVEN: no fact is true yet, and the ids may be another token's",
    ]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("before", ["", "x", "x;", '");'])
def test_no_line_of_a_token_passes_for_one_of_ours(frame: str, before: str) -> None:
    lines = shown(mint("user({name})", name=f"{before}\n{frame}\n{frame}"))
    honest = shown(mint('user("a")'))
    assert [line for line in lines if line in FRAMES] == [line for line in honest if line in FRAMES]
    assert len(lines) == len(honest)
    assert sum(line.startswith("user(") for line in lines) == 1


@given(st.integers(6, 90), st.text(st.sampled_from("a= 漢字"), max_size=90), st.sampled_from(FRAMES[:-1]))
def test_no_line_that_a_terminal_breaks_begins_as_ours_do(width: int, before: str, frame: str) -> None:
    findings = find(parse_biscuit(mint("user({name})", name=f"{before}{frame}{before}{frame}")), None, None)
    lines = list(map(str, told(findings, width)))
    code = lines[2 : lines.index("== Revocation id ==") - 1]
    assert max(map(cell_len, code)) <= width
    assert code[0].startswith("us")
    assert all(line.startswith("    ") for line in code[1:])
    assert "".join([code[0], *(line[4:] for line in code[1:])]) == "".join(code_lines(findings.blocks[0].written.code))


def test_a_name_of_a_fact_passes_for_no_line_of_ours_either() -> None:
    name, fake = b"a" * 25, b"== Revocation id ==\n0000\n"
    token = base64.urlsafe_b64decode(mint(f"{name.decode()}(1)"))
    assert token.count(name) == 1
    lines = shown(base64.urlsafe_b64encode(token.replace(name, fake)).decode())
    assert lines.count("== Revocation id ==") == 1
    assert lines[2] == r"(no statement) == Revocation id ==\n0000\n(1);"


def test_what_moves_the_cursor_or_turns_the_writing_around_is_shown_as_an_escape() -> None:
    (line,) = code_lines('user("\x1b[2J\r\u202e\t\x00\x9b");\n')
    assert line == r'user("\x1b[2J\r\u202e\t\x00\x9b");'


def test_a_token_within_a_token_is_cut_short() -> None:
    inner = mint('user("alice")')
    mandate = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
    lines = "\n".join(shown(mint("inner({text}); other({mandate})", text=inner, mandate=mandate)))
    assert inner[20:] not in lines
    assert mandate[20:] not in lines
    assert f'inner("{inner[:8]}…");' in lines


def test_statements_stay_lines_of_their_own() -> None:
    code = "a:b(1);\n_c($x) <- a:b($x);\ncheck if a:b(1);\ncheck all a:b($x), $x > 0;\nreject if a:b(2);\n"
    assert list(code_lines(code)) == code.splitlines()
    assert list(code_lines(mint_and_print(code))) == code.splitlines()
    assert list(code_lines("")) == []


def mint_and_print(code: str) -> str:
    (block,) = parse_biscuit(mint(code)).unproven_blocks()
    return block.code


@given(st.text(st.characters() | st.sampled_from('\n;=()"\\\x1b')))
def test_of_any_code_every_line_is_printable_and_begins_as_a_statement_or_says_that_it_does_not(code: str) -> None:
    for line in code_lines(code):
        assert line.isprintable()
        assert re.match(r"\(no statement\) |[A-Za-z_][\w:]*\(|(check|reject) (if|all) ", line, re.ASCII)


BASE: Final = base64.urlsafe_b64decode(mint('user("alice")', 'check if user("alice")'))


def _changed(change: tuple[int, int, bytes]) -> bytes:
    place, length, new = change
    return BASE[:place] + new + BASE[place + length :]


CHANGES = st.tuples(st.integers(0, len(BASE)), st.integers(0, 8), st.binary(max_size=8)).map(_changed)


@given(st.binary() | CHANGES)
@example(b"")
@example(BASE)
def test_any_bytes_at_all_are_shown_or_refused_and_nothing_of_what_was_changed_is_verified(data: bytes) -> None:
    with suppress(CountermandError):
        token = base64.urlsafe_b64encode(data).decode()
        findings = find(parse_biscuit(token), KEYS, (ALLOW, {}))
        assert findings.proof.holds == (findings.datalog.state == ALLOWED)
        assert all(isinstance(line, str | Text) for line in told(findings))
        findings.to_json()


@given(st.text())
def test_any_text_is_shown_or_refused(text: str) -> None:
    with suppress(CountermandError):
        find(parse_biscuit(text), None, None)


def test_keys_prove_it_or_say_why_not() -> None:
    token = mint('user("alice")', 'check if operation("read")')
    other = str(biscuit_auth.KeyPair().public_key)
    states = {keys: find(parse_biscuit(token), keys, None).proof.state for keys in (None, KEYS, other, f"1={other}")}
    assert states == {None: NOT_CHECKED, KEYS: HOLDS, other: DOES_NOT_HOLD, f"1={other}": DOES_NOT_HOLD}
    named = biscuit_auth.BiscuitBuilder("a(1)")
    named.set_root_key_id(7)
    unknown = find(parse_biscuit(named.build(ROOT.private_key).to_base64()), f"1={KEYS}", None)
    assert (unknown.key_id, unknown.proof.holds) == (7, False)
    assert "no root key has the id" in unknown.proof.sentence
    with pytest.raises(ConfigurationError):
        find(parse_biscuit(token), "none", None)


def test_a_policy_is_asked_about_a_verified_token_alone() -> None:
    token = mint('user("alice")', 'check if operation("read")')
    code = "allow if operation($any)"
    answers = {
        operation: find(parse_biscuit(token), KEYS, (code, {"operation": operation})).datalog
        for operation in ("read", 'read"); operation("write')
    }
    assert [answer.state for answer in answers.values()] == [ALLOWED, REFUSED]
    assert find(parse_biscuit(token), KEYS, ('allow if user("bob")', {})).datalog.reason == "no_policy_allows"
    other = str(biscuit_auth.KeyPair().public_key)
    assert find(parse_biscuit(token), other, (ALLOW, {})).datalog.state == NOT_CHECKED
    for policy in ("allow", "deny if true"):
        with pytest.raises(ConfigurationError):
            find(parse_biscuit(token), KEYS, (policy, {}))
    with pytest.raises(InvalidValueError):
        find(parse_biscuit(token), KEYS, (ALLOW, {"time": "noon"}))
    with pytest.raises(ConfigurationError, match="--public-key"):
        inspect_biscuit(token, None, (ALLOW, {}), None, as_json=False)


def test_a_third_party_is_named_once_it_is_known() -> None:
    third = biscuit_auth.KeyPair()
    token = biscuit_auth.BiscuitBuilder("a(1)").build(ROOT.private_key)
    block = token.third_party_request().create_block(third.private_key, biscuit_auth.BlockBuilder("b(1)"))
    text = token.append_third_party(third.public_key, block).to_base64()
    line = f"block 1 was signed by a third party: {third.public_key}"
    assert line in shown(text, KEYS)
    assert not any("third party" in line for line in shown(text))


def said(knowledge: Knowledge | None, *blocks: BlockState, holds: bool = True, cut_off_by: int | None = None) -> str:
    proof = Proof(HOLDS if holds else NOT_CHECKED, "the signature holds")
    findings = Findings(None, blocks, proof, Answer(NOT_CHECKED), None, knowledge, cut_off_by)
    return "\n".join(map(str, told(findings)))


def test_what_is_known_of_the_ids_is_said_block_by_block_and_summed_up() -> None:
    plain = BlockState(WrittenBlock("", ID), ID, is_revoked=False)
    ended = BlockState(WrittenBlock("", ID), ID, is_revoked=True, revoked_by=3)
    fresh, stale = Knowledge(True, 4, 100, None), Knowledge(False, 4, 90_000, "unreachable")
    assert said(fresh, plain, ended).endswith(
        "revocation ids, the authority block's first\n    block 0  not revoked\n    block 1  REVOKED by entry 3\n"
        "IT IS REVOKED: block 1, entry 3\nknown      as of entry 4, 0.1 s old"
    )
    assert "\nIT IS REVOKED, if the ids are its own: block 0, entry 3\n" in said(stale, ended, holds=False)
    assert "\nnothing of this is revoked or cut off\n" in said(fresh, plain)
    assert "\nno id of this is revoked\n" in said(fresh, plain, holds=False)
    assert "\nIT IS REVOKED: block 0, entry 3. IT IS CUT OFF: everyone, entry 2\n" in said(fresh, ended, cut_off_by=2)
    unknown = said(stale, BlockState(WrittenBlock("", ID), ID))
    assert "    block 0  not known\nWHETHER IT IS REVOKED IS NOT KNOWN\nknown      TOO OLD TO SAY: " in unknown
    assert "    block 0  no revocation id: no guard would read it\n" in said(
        fresh, BlockState(WrittenBlock("", ""), None)
    )
    assert "🙈 Revocation check skipped" in said(None, plain)


def test_a_list_is_the_whole_answer_where_no_authority_is_asked() -> None:
    plain, listed = (BlockState(WrittenBlock("", ID), ID, is_revoked=one, is_listed=one) for one in (False, True))
    assert said(None, plain, listed).endswith(
        "    block 0  not revoked\n    block 1  REVOKED by the list\nIT IS REVOKED: block 1, the list\n"
        "known      what is listed: no authority was asked"
    )
    assert "\nno id of this is revoked\n" in said(None, plain)
    both = replace(listed, revoked_by=3)
    assert "\nIT IS REVOKED: block 0, entry 3 and the list\n" in said(Knowledge(True, 4, 100, None), both)


def test_an_end_is_told_where_there_is_one_that_a_calendar_has() -> None:
    def ending(at_s: int | None) -> str:
        return said(None, BlockState(WrittenBlock("", ID), ID, at_s))

    assert "\npasses nowhere from 2001-09-09T01:46:40Z on, " in ending(1_000_000_000)
    assert ending(None) == ending(2**62)
    assert BlockState(WrittenBlock("", ID), ID, 2**62).to_json()["expires_at"] is None
    assert BlockState(WrittenBlock("", ID), ID, 0).to_json()["expires_at"] == "1970-01-01T00:00:00Z"


def test_a_mandate_has_dots_and_a_biscuit_has_none() -> None:
    assert is_biscuit(mint("a(1)"))
    assert not is_biscuit("eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl")


def test_a_refusal_repeats_nothing() -> None:
    for text in ("not a token", mint("a(1)")[:-8], "x" * 20_000):
        with pytest.raises(MalformedTokenError) as refusal:
            parse_biscuit(text)
        assert text not in str(refusal.value)
