"""The official samples: which open, with which ids, which are refused, and that our way in changes nothing of a result.

They are not part of this project. They are looked for beside it, or beside where COUNTERMAND_DOCUMENTS says.
"""

import base64
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import biscuit_auth
import pytest

from countermand.errors import BadTokenSignatureError, MalformedTokenError, TokenError
from countermand.log.revocation_id import parse_revocation_id
from countermand.tokens.biscuit import Biscuit, RootKeys, parse_biscuit, verify_biscuit

BESIDE = Path(__file__).parents[3] / "shared" / "documents"
SAMPLES = Path(os.environ.get("COUNTERMAND_DOCUMENTS", BESIDE)).parent / "data" / "biscuit-samples"

REFUSED: dict[str, tuple[type[TokenError], str]] = {
    "test002_different_root_key.bc": (BadTokenSignatureError, "verified"),
    # the key decides how long a signature is: of one that has another form, nobody can say that no key wrote it
    "test003_invalid_signature_format.bc": (BadTokenSignatureError, "verified"),
    "test004_random_block.bc": (MalformedTokenError, "parsed"),
    "test005_invalid_signature.bc": (BadTokenSignatureError, "verified"),
    "test006_reordered_blocks.bc": (BadTokenSignatureError, "verified"),
}


@pytest.fixture(scope="module")
def samples() -> dict[str, Any]:
    path = SAMPLES / "samples.json"
    if not path.exists():
        sentence = f"THE OFFICIAL BISCUIT SAMPLES WERE NOT READ: no {SAMPLES.name} beside this project"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    read: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return read


@pytest.fixture(scope="module")
def keys(samples: dict[str, Any]) -> RootKeys:
    return RootKeys.of(f"ed25519/{samples['root_public_key']}")


def text(case: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode((SAMPLES / case["filename"]).read_bytes()).decode()


def opened(case: dict[str, Any], keys: RootKeys) -> Biscuit:
    return verify_biscuit(parse_biscuit(text(case)), keys)


def good(samples: dict[str, Any]) -> list[dict[str, Any]]:
    return [case for case in samples["testcases"] if case["filename"] not in REFUSED]


def test_there_are_33_to_open_and_5_to_refuse(samples: dict[str, Any]) -> None:
    names = {case["filename"] for case in samples["testcases"]}
    assert len(names) == 38
    assert len(good(samples)) == 33
    assert REFUSED.keys() <= names


def test_33_open_with_the_stated_ids(samples: dict[str, Any], keys: RootKeys) -> None:
    for case in good(samples):
        biscuit = opened(case, keys)
        for validation in case["validations"].values():
            stated = tuple(parse_revocation_id(id_) for id_ in validation["revocation_ids"])
            assert biscuit.revocation_ids == stated, case["filename"]
            assert len(stated) == len(case["token"]), case["filename"]


def test_5_are_refused_with_the_error_that_is_right(samples: dict[str, Any], keys: RootKeys) -> None:
    for case in samples["testcases"]:
        if case["filename"] in REFUSED:
            error, when = REFUSED[case["filename"]]
            with pytest.raises(error):
                parse_biscuit(text(case)) if when == "parsed" else opened(case, keys)


def test_the_library_itself_refuses_the_same_5(samples: dict[str, Any]) -> None:
    key = biscuit_auth.PublicKey(f"ed25519/{samples['root_public_key']}")
    for case in samples["testcases"]:
        if case["filename"] in REFUSED:
            with pytest.raises(biscuit_auth.BiscuitValidationError):
                biscuit_auth.Biscuit.from_base64(text(case), key)


def test_what_was_verified_here_is_authorized_as_the_samples_say(samples: dict[str, Any], keys: RootKeys) -> None:
    compared = 0
    for case in good(samples):
        biscuit = opened(case, keys)
        for name, validation in case["validations"].items():
            expected = validation["result"].get("Ok", "refused")
            assert authorized(biscuit, validation["authorizer_code"]) == expected, (case["filename"], name)
            compared += 1
    assert compared == 45


def authorized(biscuit: Biscuit, code: str) -> object:
    builder: Any = biscuit_auth.AuthorizerBuilder(code)
    limits = builder.limits()
    limits.max_time = timedelta(seconds=10)
    builder.set_limits(limits)
    builder.register_extern_func("test", same)
    try:
        return builder.build(biscuit.token).authorize()
    except (biscuit_auth.AuthorizationError, biscuit_auth.BiscuitValidationError):  # the latter of a rule that is none
        return "refused"


def same(left: Any, right: Any = None) -> Any:
    """The function that the samples call."""
    if right is None:
        return left
    return "equal strings" if left == right else "different strings"
