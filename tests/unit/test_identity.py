"""Who acts, as headers: nobody can be taken for another, and every header is always there."""

from dataclasses import replace
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from countermand.enforce.identity import NOBODY, identity
from tests.unit.guarded import DELEGATED_TEXT, FOREIGN_TEXT
from tests.unit.mandates import AGENT, APPLICATION, EDGE, NOW_S, ROOT, SESSION, TOKEN, read


def test_every_claim_that_a_service_needs_is_a_header() -> None:
    assert identity(read(DELEGATED_TEXT)) == {
        "x-countermand-subject": "alice",
        "x-countermand-client-id": APPLICATION,
        "x-countermand-scope": "read write",
        "x-countermand-session-id": SESSION,
        "x-countermand-root-session-id": ROOT,
        "x-countermand-agent-session-id": AGENT,
        "x-countermand-delegation-edge-id": EDGE,
        "x-countermand-hop-count": "2",
        "x-countermand-token-id": TOKEN,
        "x-countermand-expires-at": str(NOW_S + 900),
    }


def test_what_a_token_does_not_say_is_an_empty_header() -> None:
    headers = identity(read(FOREIGN_TEXT))
    assert list(headers) == list(NOBODY)
    assert {name for name, value in headers.items() if value} == {
        "x-countermand-subject",
        "x-countermand-hop-count",
        "x-countermand-expires-at",
    }
    assert set(NOBODY.values()) == {""}


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_subject_is_written_in_visible_ascii_and_can_be_read_back(subject: str) -> None:
    written = identity(replace(read(FOREIGN_TEXT), subject=subject))["x-countermand-subject"]
    assert written.isascii()
    assert all("!" <= letter <= "~" for letter in written)
    assert unquote(written) == subject
